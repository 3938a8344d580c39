/* Maps a file that it may only read, and makes the mapping writable. */
#include "guest.h"

static int main_(int argc, char **argv)
{
	u64 fd = sys(TEST_CALL, 0, 0, 0, 0, 0, 0);
	volatile char *page = (volatile char *)sys(SYS_mmap, 0, 4096, 1, 1, fd, 0);
	if ((i64)page < 0 && (i64)page > -4096)
		return 2;
	i64 r = sys(SYS_mprotect, (u64)page, 4096, 3, 0, 0, 0);
	tell("mprotect", r);
	if (r == 0)
		*page = 'X';
	return 0;
}
