/* Native calls with arguments that are not. */
#include "guest.h"

#define HIGH (1ul << 32)

static int main_(int argc, char **argv)
{
	u64 page = sys(SYS_mmap, 0, 8192, 3, 0x22, -1, 0);
	u64 time[2];
	tell("shared anonymous", sys(SYS_mmap, 0, 4096, 3, 0x21, -1, 0) > 0);
	tell("huge", sys(SYS_mmap, 0, 2 << 20, 3, 0x40022, -1, 0) > 0);
	tell("locked", sys(SYS_mmap, 0, 4096, 3, 0x2022, -1, 0) > 0);
	tell("mmap high flags", sys(SYS_mmap, 0, 4096, 3, HIGH | 0x22, -1, 0) > 0);
	tell("mmap high prot", sys(SYS_mmap, 0, 4096, HIGH | 3, 0x22, -1, 0) > 0);
	tell("mergeable", sys(SYS_madvise, page, 4096, 12, 0, 0, 0));
	tell("poison", sys(SYS_madvise, page, 4096, 100, 0, 0, 0));
	tell("offline", sys(SYS_madvise, page, 4096, 101, 0, 0, 0));
	tell("pageout", sys(SYS_madvise, page, 4096, 21, 0, 0, 0));
	/* The low half counts: an int. */
	tell("dontneed", sys(SYS_madvise, page, 4096, HIGH | 4, 0, 0, 0));
	tell("xcomp", sys(SYS_arch_prctl, 0x1023, 18, 0, 0, 0, 0));
	tell("shadow stack", sys(SYS_arch_prctl, 0x5001, 1, 0, 0, 0, 0));
	tell("cpuid", sys(SYS_arch_prctl, 0x1012, 0, 0, 0, 0, 0));
	u32 word = 0;
	tell("pi futex", sys(SYS_futex, (u64)&word, 6, 0, 0, 0, 0));
	tell("membarrier", sys(324, 1, 0, 0, 0, 0, 0));
	tell("cpu clock", sys(228, 2, (u64)time, 0, 0, 0, 0));
	tell("grows down", sys(SYS_mprotect, page, 4096, 0x1000003, 0, 0, 0));
	tell("image", sys(SYS_mmap, 0, 4096, 1, 2, 1000, 0) > 0);
	return 0;
}
