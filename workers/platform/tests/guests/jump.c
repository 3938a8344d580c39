/* Jumps into the handler's system call: its clone, its mmap, and whatever else. */
#include "stub.h"

static int main_(int argc, char **argv)
{
	/* Host calls that no command asked for. */
	tell("mmap", from_stub(SYS_mmap, 0, 4096, 3, 0x21, -1, 0) > 0);
	tell("open", from_stub(SYS_openat, -100, (u64) "/etc/passwd", 0, 0, 0, 0) >= 0);
	tell("prctl", from_stub(SYS_prctl, 3, 0, 0, 0, 0, 0) >= 0);
	i64 pid = from_stub(SYS_clone, 0x8000 | 17, 0, 0, 0, 0, 0);
	if (pid == 0)
		for (;;) /* a child that the sentry knows nothing of */
			sys(SYS_futex, (u64)no_clone_, 0, 0, 0, 0, 0);
	tell("clone", pid > 0);
	return 0;
}
