/* System calls of the other tables: 32-bit numbers mean other calls. */
#include "guest.h"

static i64 int80(u32 nr, u32 a, u32 b, u32 c)
{
	i64 r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
	return (int)r;
}

static int main_(int argc, char **argv)
{
	static const char root[] = "/";
	/* 12 is chdir here and brk, which is native, in the 64-bit table. */
	tell("chdir", int80(12, (u32)(u64)root, 0, 0));
	/* 11 is execve here and munmap there. */
	static const char missing[] = "/missing";
	tell("execve", int80(11, (u32)(u64)missing, 0, 0));
	tell("open", int80(5, (u32)(u64)root, 0, 0));
	/* x32. */
	tell("x32 yield", sys(0x40000000 | SYS_sched_yield, 0, 0, 0, 0, 0, 0));
	tell("x32 openat", sys(0x40000000 | SYS_openat, -100, (u64)root, 0, 0, 0, 0));
	tell("minus one", sys(-1, 0, 0, 0, 0, 0, 0));
	return 0;
}
