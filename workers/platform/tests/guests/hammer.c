/* A second thread scribbles over slot, frame and alternate stack of the first while that makes trapped calls; or the
   bell is rung by hand, with nonsense. Whatever comes of it concerns this process alone. */
#include "stub.h"

static char stack[16384] __attribute__((aligned(16)));
static u32 tid;
static u64 seed;

static u64 random_(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void scribble(u64 unused)
{
	for (;;) {
		/* The frame lies at the top, the commands at the bottom. */
		u64 offset = random_() % 2 ? SLOT_SIZE - 8 - random_() % 4096 : random_() % 0x400;
		*(volatile u64 *)(SLOTS + (offset & ~7ul)) = random_() % 3 ? random_() : random_() % 400;
	}
}

static int main_(int argc, char **argv)
{
	seed = 88172645463325252ul;
	for (char *p = argv[1]; *p; p++)
		seed = seed * 31 + *p;
	if (argv[2][0] == 'b') {
		for (int i = 0; i < 2000; i++) {
			static const u64 kinds[] = {31, 11, 10, 0x100, 0x101, 0x102, 5, 0, 77};
			u64 kind = kinds[random_() % 9];
			static char frame[4096];
			u64 uc = random_() % 2 ? (u64)frame : random_();
			sys(BELL, kind, random_(), uc, random_(), random_(), random_());
		}
		return 0;
	}
	thread(scribble, 0, stack + sizeof stack, &tid);
	for (int i = 0; i < 20000; i++)
		sys(SYS_tgkill, i, i, 0, 0, 0, 0);
	return 0;
}
