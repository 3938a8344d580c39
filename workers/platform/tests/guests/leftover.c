/* What was put into the stub to be mapped is let go of; the mappings stay. */
#include "guest.h"

static int main_(int argc, char **argv)
{
	u64 fd = sys(TEST_CALL, 1, 0, 0, 0, 0, 0);
	volatile u32 *shared = (volatile u32 *)sys(SYS_mmap, 0, 4096, 3, 1, fd, 0);
	volatile u32 *private = (volatile u32 *)sys(SYS_mmap, 0, 4096, 3, 2, fd, 0);
	tell("open", sys(TEST_CALL, 2, 0, 0, 0, 0, 0));
	if (sys(SYS_fork, 0, 0, 0, 0, 0, 0) == 0) {
		tell("inherited", sys(TEST_CALL, 2, 0, 0, 0, 0, 0));
		tell("after the child's close", sys(TEST_CALL, 3, fd, 0, 0, 0, 0));
		leave(0);
	}
	sys(SYS_wait4, -1, 0, 0, 0, 0, 0);
	tell("after a close", sys(TEST_CALL, 3, fd, 0, 0, 0, 0));
	shared[0] = 7;
	private[1] = 7;
	return 0;
}
