#include "guest.h"

static volatile int flag;
static volatile u32 word;

static int main_(int argc, char **argv)
{
	/* Computing: the kernel kicks and sets the flag. */
	sys(TEST_CALL, 1, (u64)&flag, 0, 0, 0, 0);
	while (!flag)
		;
	print("computing\n");
	/* In a native futex wait: kicked, sees EINTR set by the kernel. */
	sys(TEST_CALL, 2, 0, 0, 0, 0, 0);
	tell("futex", sys(SYS_futex, (u64)&word, 0, 0, 0, 0, 0));
	/* In a timed one: Linux itself says EINTR. */
	u64 timeout[2] = {1000, 0};
	sys(TEST_CALL, 2, 0, 0, 0, 0, 0);
	tell("timed futex", sys(SYS_futex, (u64)&word, 0, 0, (u64)timeout, 0, 0));
	/* Parked in a plain call, which the kernel redirects. */
	tell("parked", sys(TEST_CALL, 3, 0, 0, 0, 0, 0));
	for (int i = 0; i < 1000; i++)
		if (sys(TEST_CALL, 4, 0, 0, 0, 0, 0) != 1234)
			return 1;
	return 0;
}
