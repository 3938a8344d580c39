/* What a guest program without libc needs. */
#pragma once
typedef unsigned long u64;
typedef long i64;
typedef unsigned int u32;

enum {
	SYS_read = 0, SYS_write = 1, SYS_mmap = 9, SYS_mprotect = 10, SYS_munmap = 11, SYS_rt_sigreturn = 15,
	SYS_sched_yield = 24, SYS_mremap = 25, SYS_madvise = 28, SYS_pause = 34, SYS_getpid = 39, SYS_clone = 56,
	SYS_fork = 57, SYS_vfork = 58, SYS_execve = 59, SYS_exit = 60, SYS_wait4 = 61, SYS_kill = 62,
	SYS_ptrace = 101, SYS_getppid = 110, SYS_prctl = 157, SYS_arch_prctl = 158, SYS_gettid = 186,
	SYS_futex = 202, SYS_tgkill = 234, SYS_openat = 257, SYS_process_vm_readv = 310, SYS_seccomp = 317,
	SYS_exit_group = 231, TEST_CALL = 5000,
};

static inline i64 sys(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	i64 r;
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static void print(const char *text)
{
	u64 n = 0;
	while (text[n])
		n++;
	sys(SYS_write, 1, (u64)text, n, 0, 0, 0);
}

static void number(i64 value)
{
	char buffer[24];
	int at = 24;
	u64 rest = value < 0 ? -value : value;
	do
		buffer[--at] = '0' + rest % 10;
	while (rest /= 10);
	if (value < 0)
		buffer[--at] = '-';
	sys(SYS_write, 1, (u64)buffer + at, 24 - at, 0, 0, 0);
}

/* "name value\n" */
static void tell(const char *name, i64 value)
{
	print(name);
	print(" ");
	number(value);
	print("\n");
}

static void __attribute__((noreturn)) leave(int status)
{
	for (;;)
		sys(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

/* A thread on its own stack that runs body(argument) and must not return. */
static i64 thread(void (*body)(u64), u64 argument, void *stack_top, u32 *clear_tid)
{
	i64 r;
	/* VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | CHILD_SETTID | CHILD_CLEARTID */
	u64 flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x1000000 | 0x200000;
	register u64 r10 __asm__("r10") = (u64)clear_tid;
	register u64 r8 __asm__("r8") = 0;
	register u64 r13 __asm__("r13") = (u64)body;
	register u64 r14 __asm__("r14") = argument;
	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tmov %%r14, %%rdi\n\tcall *%%r13\n\tud2\n1:"
			 : "=a"(r)
			 : "a"(SYS_clone), "D"(flags), "S"(((u64)stack_top & ~15ul)), "d"(0), "r"(r10), "r"(r8),
			   "r"(r13), "r"(r14)
			 : "rcx", "r11", "memory");
	return r;
}

static int main_(int argc, char **argv);

__attribute__((used)) static void start_(u64 *stack)
{
	leave(main_((int)stack[0], (char **)(stack + 1)));
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start_\n\thlt\n");
