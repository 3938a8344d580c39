/* Forks until the host refuses. */
#include "guest.h"

static volatile u32 word;

static int main_(int argc, char **argv)
{
	for (int i = 0; i < 30; i++) {
		i64 pid = sys(SYS_fork, 0, 0, 0, 0, 0, 0);
		if (pid == 0)
			for (;;)
				sys(SYS_futex, (u64)&word, 0, 0, 0, 0, 0);
		if (pid < 0) {
			tell("fork", pid);
			return 0;
		}
	}
	return 1;
}
