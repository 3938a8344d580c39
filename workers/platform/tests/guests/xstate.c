/* The kernel changes a vector register in a trap. */
#include "guest.h"

static int main_(int argc, char **argv)
{
	u64 before = 0x1111222233334444, after = 0;
	i64 r;
	__asm__ volatile("movq %2, %%xmm3\n\tsyscall\n\tmovq %%xmm3, %1"
			 : "=a"(r), "=&r"(after)
			 : "r"(before), "a"(SYS_tgkill), "D"(1)
			 : "rcx", "r11", "xmm3", "memory");
	tell("xmm3", after == 0x5555666677778888);
	return 0;
}
