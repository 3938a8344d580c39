/* Plain and trapped calls keep every register but rax, rcx and r11; and the vector registers. */
#include "guest.h"

static u64 in[8], out[8];

#define CHECK(nr)                                                                                          \
	({                                                                                                 \
		i64 r;                                                                                     \
		__asm__ volatile("mov $0x1111, %%rbx\n\tmov $0x2222, %%r12\n\tmov $0x3333, %%r13\n\t"      \
				 "mov $0x4444, %%r14\n\tmov $0x5555, %%r15\n\tmovq %%rbx, %%xmm7\n\t"      \
				 "mov $7, %%edi\n\tmov $8, %%esi\n\tstd\n\tcld\n\tsyscall\n\t"             \
				 "movq %%xmm7, %%rcx\n\tcmp %%rcx, %%rbx\n\tjne 9f\n\t"                    \
				 "cmp $0x1111, %%rbx\n\tjne 9f\n\tcmp $0x2222, %%r12\n\tjne 9f\n\t"        \
				 "cmp $0x3333, %%r13\n\tjne 9f\n\tcmp $0x4444, %%r14\n\tjne 9f\n\t"        \
				 "cmp $0x5555, %%r15\n\tjne 9f\n\tcmp $7, %%rdi\n\tjne 9f\n\t"             \
				 "cmp $8, %%rsi\n\tjne 9f\n\tjmp 8f\n9:\tmov $-9999, %%rax\n8:"            \
				 : "=a"(r)                                                                 \
				 : "a"((u64)(nr))                                                          \
				 : "rbx", "rcx", "rdi", "rsi", "r11", "r12", "r13", "r14", "r15", "xmm7",  \
				   "memory");                                                              \
		r;                                                                                         \
	})

static int main_(int argc, char **argv)
{
	(void)in, (void)out;
	tell("plain", CHECK(TEST_CALL));
	tell("trapped", CHECK(SYS_tgkill));
	tell("resumed", CHECK(SYS_pause));
	/* Values that look like the platform's own words. */
	tell("order", sys(SYS_kill, 1, 0, 0, 0, 0, 0) == (i64)0xb01dab1e57000001);
	tell("restart", sys(SYS_kill, 2, 0, 0, 0, 0, 0));
	for (int i = 0; i < 20000; i++)
		if (sys(TEST_CALL, 0, 0, 0, 0, 0, 0) != 42 || sys(SYS_tgkill, 0, 0, 0, 0, 0, 0) != 43)
			return 1;
	return 0;
}
