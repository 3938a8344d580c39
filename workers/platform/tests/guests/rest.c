/* Everything that is not on a list. Reported by a trapped call, since write is one of them. */
#include "stub.h"

static int main_(int argc, char **argv)
{
	static char buffer[64];
	u64 local[2] = {(u64)buffer, 8};
	report(1, sys(SYS_openat, -100, (u64) "/etc/passwd", 0, 0, 0, 0));
	report(2, sys(SYS_prctl, 3, 0, 0, 0, 0, 0));
	report(3, sys(SYS_ptrace, 2, 1, 0, 0, 0, 0)); /* PEEKDATA of the sentry */
	report(4, sys(SYS_process_vm_readv, 1, (u64)local, 1, (u64)local, 1, 0));
	report(5, sys(SYS_seccomp, 1, 0, 0, 0, 0, 0));
	report(6, sys(41, 1, 1, 0, 0, 0, 0));	 /* socket */
	report(7, sys(272, 0x20000, 0, 0, 0, 0, 0)); /* unshare */
	report(8, sys(425, 8, (u64)buffer, 0, 0, 0, 0)); /* io_uring_setup */
	report(9, sys(SYS_getppid, 0, 0, 0, 0, 0, 0));
	report(10, sys(321, 0, (u64)buffer, 64, 0, 0, 0)); /* bpf */
	report(11, sys(131, 0, (u64)buffer, 0, 0, 0, 0));  /* sigaltstack */
	report(12, sys(302, 0, 7, 0, (u64)buffer, 0, 0));  /* prlimit64 */
	return 0;
}
