#include "guest.h"

static int main_(int argc, char **argv)
{
	/* mov (%rax), %rbx: three bytes, skipped by the kernel. */
	u64 rbx = 5;
	__asm__ volatile("mov (%%rax), %%rbx" : "+b"(rbx) : "a"(0xdead0000ul));
	tell("rbx", rbx);
	__asm__ volatile("ud2");
	print("after ud2\n");
	__asm__ volatile("int3");
	print("after int3\n");
	*(volatile int *)8 = 1;
	return 0;
}
