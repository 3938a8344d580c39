/* A trapped mapping, which the kernel makes from the public image. */
#include "guest.h"

static int main_(int argc, char **argv)
{
	volatile char *page = (volatile char *)sys(SYS_mmap, 0, 4096, 1, 2, 3, 4096);
	if ((i64)page < 0 && (i64)page > -4096)
		return 1;
	tell("second page", *page == 'S');
	/* Copy on write, as any private mapping. */
	tell("mprotect", sys(SYS_mprotect, (u64)page, 4096, 3, 0, 0, 0));
	*page = 'x';
	return 0;
}
