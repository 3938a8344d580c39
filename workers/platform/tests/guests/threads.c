#include "guest.h"

static char stacks[8][16384] __attribute__((aligned(16)));
static volatile u32 tids[8];
static volatile u64 sums[8];

static void body(u64 n)
{
	for (int i = 0; i < 1000; i++)
		sums[n] += sys(TEST_CALL, 0, 0, 0, 0, 0, 0);
	for (;;)
		sys(SYS_exit, 0, 0, 0, 0, 0, 0);
}

static int main_(int argc, char **argv)
{
	u64 sum = 0;
	for (int round = 0; round < 20; round++) {
		for (u64 n = 0; n < 8; n++) {
			sums[n] = 0;
			if (thread(body, n, stacks[n] + sizeof stacks[n], (u32 *)&tids[n]) < 0)
				return 1;
		}
		for (u64 n = 0; n < 8; n++) {
			u32 tid;
			/* CHILD_SETTID is the kernel's: wait until the thread has begun and ended. */
			while (!sums[n])
				sys(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
			while ((tid = tids[n]))
				sys(SYS_futex, (u64)&tids[n], 0, tid, 0, 0, 0);
			sum += sums[n];
		}
	}
	tell("sum", sum);
	/* The first thread ends before the process. */
	thread(body, 0, stacks[0] + sizeof stacks[0], (u32 *)&tids[0]);
	return 0;
}
