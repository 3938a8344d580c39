/* A second thread changes a path after it was checked. */
#include "stub.h"

static char stack[16384] __attribute__((aligned(16)));
static u32 tid;
static volatile char path[] = "/dev/null";

static void flip(u64 unused)
{
	for (;;) {
		path[5] = 'z', path[6] = 'e', path[7] = 'r', path[8] = 'o';
		for (volatile int i = 0; i < 300; i++)
			;
		path[5] = 'n', path[6] = 'u', path[7] = 'l', path[8] = 'l';
		for (volatile int i = 0; i < 300; i++)
			;
	}
}

static int main_(int argc, char **argv)
{
	thread(flip, 0, stack + sizeof stack, &tid);
	for (int i = 0; i < 30000; i++) {
		i64 fd = sys(SYS_openat, -100, (u64)path, 0, 0, 0, 0);
		if (fd < 0)
			continue;
		/* Tells the test, which looks at what the descriptor is. */
		if (sys(TEST_CALL, fd, 0, 0, 0, 0, 0)) {
			print("zero\n");
			return 1;
		}
	}
	print("never\n");
	return 0;
}
