#include "guest.h"

static int main_(int argc, char **argv)
{
	print("hello ");
	print(argv[argc - 1]);
	print("\n");
	return 3;
}
