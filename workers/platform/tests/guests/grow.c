/* Grows a mapping of a file's first page into its second; and one of anonymous memory, which is fine. */
#include "guest.h"

static int main_(int argc, char **argv)
{
	u64 fd = sys(TEST_CALL, 0, 0, 0, 0, 0, 0);
	volatile char *page = (volatile char *)sys(SYS_mmap, 0, 4096, 1, 1, fd, 0);
	if ((i64)page < 0 && (i64)page > -4096)
		return 2;
	volatile char *grown = (volatile char *)sys(SYS_mremap, (u64)page, 4096, 8192, 1, 0, 0);
	if ((i64)grown < 0 && (i64)grown > -4096)
		tell("refused", (i64)grown);
	else
		print(grown[4096] == 'S' ? "secret\n" : "other\n");
	volatile char *mine = (volatile char *)sys(SYS_mmap, 0, 4096, 3, 0x22, -1, 0);
	mine[0] = 7;
	mine = (volatile char *)sys(SYS_mremap, (u64)mine, 4096, 1 << 20, 1, 0, 0);
	tell("anonymous", mine[0] + mine[(1 << 20) - 1]);
	return 0;
}
