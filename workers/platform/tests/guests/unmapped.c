/* Takes the stub page away. Plain calls go on; a trapped one has no handler to go to. */
#include "stub.h"

static int main_(int argc, char **argv)
{
	if (argc > 1 && argv[1][0] == 'p')
		sys(SYS_mprotect, STUB_TEXT, 4096, 0, 0, 0, 0);
	else if (argc > 1 && argv[1][0] == 's')
		sys(SYS_munmap, SLOTS, SLOT_SIZE, 0, 0, 0, 0);
	else
		sys(SYS_munmap, STUB_TEXT, 4096, 0, 0, 0, 0);
	print("plain calls work\n");
	i64 pid = sys(SYS_fork, 0, 0, 0, 0, 0, 0);
	if (pid == 0)
		for (;;)
			;
	print("forked\n");
	return 0;
}
