/* Prints what things cost, in nanoseconds. */
#include "guest.h"

static i64 now(void)
{
	u64 time[2];
	sys(228, 1, (u64)time, 0, 0, 0, 0);
	return time[0] * 1000000000 + time[1];
}

static char stack[16384] __attribute__((aligned(16)));
static volatile u32 tid;

static void body(u64 n)
{
	for (;;)
		sys(SYS_exit, 0, 0, 0, 0, 0, 0);
}

#define COST(name, times, what)                          \
	do {                                             \
		i64 from = now();                        \
		for (int i = 0; i < (times); i++)        \
			what;                            \
		tell(name, (now() - from) / (times));    \
	} while (0)

static int main_(int argc, char **argv)
{
	static char buffer[4096];
	COST("native call", 100000, sys(SYS_sched_yield, 0, 0, 0, 0, 0, 0));
	COST("plain call", 100000, sys(TEST_CALL, 0, 0, 0, 0, 0, 0));
	COST("plain call, 40 bytes read", 100000, sys(TEST_CALL, 1, (u64)buffer, 40, 0, 0, 0));
	COST("trapped call, value", 100000, sys(SYS_tgkill, 0, 0, 0, 0, 0, 0));
	COST("trapped call, registers", 100000, sys(SYS_pause, 0, 0, 0, 0, 0, 0));
	COST("redirected call", 20000, sys(TEST_CALL, 2, 0, 0, 0, 0, 0));
	COST("fork, exit, wait", 1000, {
		if (sys(SYS_fork, 0, 0, 0, 0, 0, 0) == 0)
			leave(0);
		sys(SYS_wait4, -1, 0, 0, 0, 0, 0);
	});
	COST("thread, exit, join", 1000, {
		tid = 1;
		thread(body, 0, stack + sizeof stack, (u32 *)&tid);
		for (u32 t; (t = tid);)
			sys(SYS_futex, (u64)&tid, 0, t, 0, 0, 0);
	});
	return 0;
}
