#include "guest.h"

static volatile int shared;

static int main_(int argc, char **argv)
{
	for (int i = 0; i < 50; i++) {
		i64 pid;
		/* vfork by hand: the child must not return through the parent's stack. */
		__asm__ volatile("mov %1, %%eax\n\tsyscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\t"
				 "incl %2\n\tmov $7, %%edi\n\tmov %3, %%eax\n\tsyscall\n\thlt\n1:"
				 : "=&a"(pid)
				 : "i"(SYS_vfork), "m"(shared), "i"(SYS_exit_group)
				 : "rcx", "r11", "rdi", "memory");
		int status = 0;
		if (pid <= 0 || sys(SYS_wait4, -1, (u64)&status, 0, 0, 0, 0) != pid || status != 7 << 8)
			return 1;
	}
	tell("shared", shared);
	/* And one that execs. */
	static char *args[] = {"x", "vforked", 0};
	i64 pid;
	__asm__ volatile("mov %1, %%eax\n\tsyscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\t"
			 "mov %3, %%eax\n\tsyscall\n\thlt\n1:"
			 : "=&a"(pid)
			 : "i"(SYS_vfork), "D"(argv[1]), "i"(SYS_execve), "S"(args), "d"(0)
			 : "rcx", "r11", "memory");
	int status = 0;
	if (pid <= 0 || sys(SYS_wait4, -1, (u64)&status, 0, 0, 0, 0) != pid)
		return 2;
	return status >> 8;
}
