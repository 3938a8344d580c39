/* Parent and child share a file's pages. */
#include "guest.h"

static int main_(int argc, char **argv)
{
	u64 fd = sys(TEST_CALL, 0, 0, 0, 0, 0, 0);
	volatile u32 *page = (volatile u32 *)sys(SYS_mmap, 0, 4096, 3, 1, fd, 0);
	if ((i64)page < 0 && (i64)page > -4096)
		return (int)-(i64)page;
	if (sys(SYS_fork, 0, 0, 0, 0, 0, 0) == 0) {
		page[1] = 42;
		leave(0);
	}
	sys(SYS_wait4, -1, 0, 0, 0, 0, 0);
	tell("shared", page[1]);
	/* Written natively, in the file itself. */
	return 0;
}
