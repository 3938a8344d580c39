#include "guest.h"

static int shared = 1;

static int main_(int argc, char **argv)
{
	for (int i = 0; i < 200; i++) {
		i64 pid = sys(SYS_fork, 0, 0, 0, 0, 0, 0);
		if (pid == 0) {
			shared = 2; /* the child's own copy */
			leave(i & 63);
		}
		int status = -1;
		i64 got = sys(SYS_wait4, -1, (u64)&status, 0, 0, 0, 0);
		if (pid < 0 || got != pid || status != (i & 63) << 8 || shared != 1) {
			tell("pid", pid);
			tell("got", got);
			tell("status", status);
			return 1;
		}
	}
	/* A tree: every child forks once. */
	i64 pid = 0;
	int depth = 0;
	while (depth < 5 && (pid = sys(SYS_fork, 0, 0, 0, 0, 0, 0)) == 0)
		depth++;
	int status = 0;
	if (depth < 5)
		sys(SYS_wait4, -1, (u64)&status, 0, 0, 0, 0);
	return (status >> 8) + 1;
}
