/* A second thread rewrites the first one's command list: every mapping of page 0 becomes one of page 1. */
#include "stub.h"

static char stack[16384] __attribute__((aligned(16)));
static u32 tid;

static void rewrite(u64 unused)
{
	volatile u64 *command = (volatile u64 *)(SLOTS + SLOT_COMMANDS);
	for (;;)
		if (command[6] == 0)
			command[6] = 4096;
}

static int main_(int argc, char **argv)
{
	u64 fd = sys(TEST_CALL, 0, 0, 0, 0, 0, 0);
	thread(rewrite, 0, stack + sizeof stack, &tid);
	i64 refused = 0;
	for (int i = 0; i < 30000; i++) {
		volatile char *page = (volatile char *)sys(SYS_mmap, 0, 4096, 1, 2, fd, 0);
		if ((i64)page < 0 && (i64)page > -4096) {
			refused++;
			continue;
		}
		if (*page == 'S') {
			print("secret\n");
			return 1;
		}
		sys(SYS_munmap, (u64)page, 4096, 0, 0, 0, 0);
		if (refused > 100)
			break;
	}
	print("public\n");
	return 0;
}
