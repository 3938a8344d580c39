/* A fork bomb: each process makes as many as it can, through fork and through the handler's own clone. */
#include "stub.h"

static volatile u32 word;

static int main_(int argc, char **argv)
{
	int jump = argc > 1;
	i64 last = 0;
	for (int i = 0; i < (jump ? 60 : 50000); i++) {
		i64 pid = jump ? from_stub(SYS_clone, 0x8000 | 17, 0, 0, 0, 0, 0) : sys(SYS_fork, 0, 0, 0, 0, 0, 0);
		if (pid == 0 && jump)
			for (;;)
				sys(SYS_futex, (u64)&word, 0, 0, 0, 0, 0);
		last = pid;
	}
	tell("last", last < 0 ? last : 1);
	while (!jump)
		sys(SYS_futex, (u64)&word, 0, 0, 0, 0, 0);
	return 0;
}
