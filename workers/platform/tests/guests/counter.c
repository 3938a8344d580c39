/* Tells the kernel where it counts, and counts. */
#include "guest.h"

static volatile u64 counter;

static int main_(int argc, char **argv)
{
	sys(TEST_CALL, (u64)&counter, (u64)main_, 0, 0, 0, 0);
	for (;;)
		counter++;
}
