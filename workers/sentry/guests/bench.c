/* What things cost: `bench ROW...` prints "ROW NANOSECONDS" lines (calls_* rows: calls per second). The same static
 * program runs natively, in the sentry and in its peers. BENCH_MS is the time for each row; with BENCH_TIMES
 * instead so many operations are done, whatever they take (to see what processor time they cost).
 * calls_N: N threads that call; again:ROW: in a new run of this program; program:NAME: a program of /bench/programs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define IMAGE_FILE "/bench/data"
#define TMPFS_FILE "/dev/shm/bench-data"
#define SIZE 65536
#define PAGES 256

static char buffer[SIZE];
static char *self;
static double budget;
static long exactly;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void need(int ok, const char *what)
{
	if (!ok)
		fail(what);
}

/* Runs `once` in batches until the budget is used up; nanoseconds for each, after a warm-up. */
static double cost(int batch, void (*once)(void))
{
	for (int i = 0; i < batch / 4 + 1; i++)
		once();
	double from = now(), spent;
	long times = 0;
	do {
		for (int i = 0; i < batch && !(exactly && times >= exactly); i++, times++)
			once();
		spent = now() - from;
	} while (exactly ? times < exactly : spent < budget);
	return spent / times;
}

static int fd;

static void do_getppid(void) { syscall(SYS_getppid); }
static double getppid_row(void) { return cost(1000, do_getppid); }

static void do_read(void) { need(read(fd, buffer, 1) == 1, "read"); }
static double read_dev_zero_1(void)
{
	fd = open("/dev/zero", O_RDONLY);
	need(fd >= 0, "/dev/zero");
	double ns = cost(1000, do_read);
	close(fd);
	return ns;
}

static void do_pread(void)
{
	static unsigned at;
	at = (at + 4096) % SIZE;
	need(pread(fd, buffer, 4096, at) == 4096, "pread");
}
static double pread_row(const char *path)
{
	fd = open(path, O_RDONLY);
	need(fd >= 0, path);
	double ns = cost(500, do_pread);
	close(fd);
	return ns;
}

static void tmpfs_file(void)
{
	int file = open(TMPFS_FILE, O_CREAT | O_RDWR | O_TRUNC, 0600);
	need(file >= 0 && write(file, buffer, SIZE) == SIZE, TMPFS_FILE);
	close(file);
}
static double pread_4k_tmpfs(void) { tmpfs_file(); return pread_row(TMPFS_FILE); }
static double pread_4k_image(void) { return pread_row(IMAGE_FILE); }

static const char *path;
static void do_open(void)
{
	int file = open(path, O_RDONLY);
	need(file >= 0, path);
	close(file);
}
static double open_close_tmpfs(void) { tmpfs_file(); path = TMPFS_FILE; return cost(200, do_open); }
static double open_close_image(void) { path = IMAGE_FILE; return cost(200, do_open); }

static void do_stat(void)
{
	struct stat s;
	need(stat(IMAGE_FILE, &s) == 0, "stat");
}
static double stat_image(void) { return cost(500, do_stat); }

static volatile uint32_t turn;
static void wait_for(uint32_t mine)
{
	while (turn != mine)
		syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
}
static void pass(uint32_t to)
{
	turn = to;
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
static volatile int over;
static void *other_side(void *unused)
{
	while (!over) {
		wait_for(1);
		pass(0);
	}
	return unused;
}
static void do_futex(void) { pass(1); wait_for(0); }
static double futex_pingpong(void)
{
	pthread_t thread;
	turn = 0;
	over = 0;
	need(pthread_create(&thread, NULL, other_side, NULL) == 0, "pthread_create");
	double ns = cost(500, do_futex);
	over = 1;
	pass(1);
	pthread_join(thread, NULL);
	return ns;
}

static double page_fault(void)
{
	double from = now(), spent, faulting = 0;
	long pages = 0;
	do {
		char *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		need(memory != MAP_FAILED, "mmap");
		double begin = now();
		for (int i = 0; i < PAGES; i++)
			memory[i * 4096] = 1;
		faulting += now() - begin;
		pages += PAGES;
		munmap(memory, PAGES * 4096);
		spent = now() - from;
	} while (spent < budget);
	return faulting / pages;
}

static int there[2], back[2];
static void do_pipe(void)
{
	need(write(there[1], buffer, 1) == 1 && read(back[0], buffer, 1) == 1, "pipe");
}
static double pipe_pingpong(void)
{
	need(pipe(there) == 0 && pipe(back) == 0, "pipe");
	pid_t child = fork();
	need(child >= 0, "fork");
	if (child == 0) {
		close(there[1]);
		while (read(there[0], buffer, 1) == 1)
			need(write(back[1], buffer, 1) == 1, "write");
		_exit(0);
	}
	double ns = cost(200, do_pipe);
	close(there[1]);
	close(there[0]);
	close(back[0]);
	close(back[1]);
	waitpid(child, NULL, 0);
	return ns;
}

static void do_fork(void)
{
	pid_t child = fork();
	need(child >= 0, "fork");
	if (child == 0)
		_exit(0);
	need(waitpid(child, NULL, 0) == child, "waitpid");
}
static double fork_wait(void) { return cost(20, do_fork); }

static void do_exec(void)
{
	int status;
	pid_t child = fork();
	need(child >= 0, "fork");
	if (child == 0) {
		execl("/bin/true", "true", NULL);
		_exit(127);
	}
	need(waitpid(child, &status, 0) == child && status == 0, "/bin/true");
}
static double fork_exec_wait(void) { return cost(10, do_exec); }

static void *nothing(void *unused) { return unused; }
static void do_thread(void)
{
	pthread_t thread;
	need(pthread_create(&thread, NULL, nothing, NULL) == 0, "pthread_create");
	pthread_join(thread, NULL);
}
static double thread_create_join(void) { return cost(50, do_thread); }

static volatile sig_atomic_t handled;
static void handler(int unused) { (void)unused; handled++; }
static void do_signal(void)
{
	sig_atomic_t before = handled;
	kill(getpid(), SIGUSR1);
	need(handled == before + 1, "the handler");
}
static double signal_self(void)
{
	struct sigaction action = {.sa_handler = handler};
	sigaction(SIGUSR1, &action, NULL);
	return cost(200, do_signal);
}

static void do_mmap(void)
{
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(memory != MAP_FAILED, "mmap");
	*(volatile char *)memory = 1;
	munmap(memory, 4096);
}
static double mmap_munmap(void) { return cost(200, do_mmap); }

/* Calls per second of several threads at once. */
static pthread_barrier_t barrier;
static void *caller(void *calls)
{
	pthread_barrier_wait(&barrier);
	while (!over) {
		for (int i = 0; i < 50; i++)
			syscall(SYS_getppid);
		*(long *)calls += 50;
	}
	return NULL;
}
static double calls(int threads)
{
	static struct { long calls; char pad[120]; } each[64];
	pthread_t thread[64];
	over = 0;
	pthread_barrier_init(&barrier, NULL, threads + 1);
	for (int i = 0; i < threads; i++)
		need(pthread_create(&thread[i], NULL, caller, &each[i].calls) == 0, "pthread_create");
	pthread_barrier_wait(&barrier);
	double from = now();
	struct timespec rest = {.tv_sec = (long)(2 * budget / 1e9), .tv_nsec = (long)(2 * budget) % 1000000000};
	nanosleep(&rest, NULL);
	over = 1;
	double spent = now() - from;
	long sum = 0;
	for (int i = 0; i < threads; i++) {
		pthread_join(thread[i], NULL);
		sum += each[i].calls;
	}
	return sum / spent * 1e9;
}

/* Runs this program anew: what a sandbox learns of a program counts from its next run on. */
static void run_again(const char *row)
{
	fflush(stdout);
	pid_t child = fork();
	need(child >= 0, "fork");
	if (child == 0) {
		execl(self, self, row, NULL);
		fail(self);
	}
	waitpid(child, NULL, 0);
}

static double busy(void)
{
	for (;;)
		over = 0;
	return 0;
}

/* A program of the image: a file with four lines: folder, preparation, command, clean-up; the command's words are
 * separated by single spaces, the other two are the shell's. Run twice, the second one counts: caches are warm. */
static void line(FILE *file, char *into, size_t size)
{
	need(fgets(into, size, file) != NULL, "four lines");
	into[strcspn(into, "\n")] = 0;
}
static double timed(const char *folder, char *command)
{
	char *words[64];
	int count = 0, status;
	for (char *word = strtok(command, " "); word && count < 63; word = strtok(NULL, " "))
		words[count++] = word;
	words[count] = NULL;
	double from = now();
	pid_t child = fork();
	need(child >= 0, "fork");
	if (child == 0) {
		int null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		need(chdir(folder) == 0, folder);
		execvp(words[0], words);
		_exit(127);
	}
	need(waitpid(child, &status, 0) == child, "waitpid");
	double spent = now() - from;
	if (status) {
		fprintf(stderr, "%s ended with %#x\n", words[0], status);
		exit(1);
	}
	return spent;
}
static double program(const char *name)
{
	char file_name[256], folder[1024], before[1024], command[1024], words[1024], after[1024];
	snprintf(file_name, sizeof file_name, "/bench/programs/%s", name);
	FILE *file = fopen(file_name, "r");
	need(file != NULL, file_name);
	line(file, folder, sizeof folder);
	line(file, before, sizeof before);
	line(file, command, sizeof command);
	line(file, after, sizeof after);
	fclose(file);
	setenv("HOME", "/tmp", 1);
	setenv("GOCACHE", "/tmp/go-cache", 1);
	setenv("GOPATH", "/tmp/go", 1);
	setenv("CGO_ENABLED", "0", 1);
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	double spent = 0;
	for (int i = 0; i < (exactly ? exactly : 2); i++) {
		if (*before)
			need(system(before) == 0, before);
		spent = timed(folder, strcpy(words, command));
		if (*after)
			need(system(after) == 0, after);
	}
	return spent;
}

struct row {
	const char *name;
	double (*run)(void);
} rows[] = {
	{"getppid", getppid_row},
	{"read_dev_zero_1", read_dev_zero_1},
	{"pread_4k_tmpfs", pread_4k_tmpfs},
	{"pread_4k_image", pread_4k_image},
	{"open_close_tmpfs", open_close_tmpfs},
	{"open_close_image", open_close_image},
	{"stat_image", stat_image},
	{"futex_pingpong", futex_pingpong},
	{"page_fault", page_fault},
	{"pipe_pingpong", pipe_pingpong},
	{"fork_wait", fork_wait},
	{"fork_exec_wait", fork_exec_wait},
	{"thread_create_join", thread_create_join},
	{"signal_self", signal_self},
	{"mmap_munmap", mmap_munmap},
	{"busy", busy},
};

static void run(const char *name)
{
	if (!strncmp(name, "calls_", 6)) {
		printf("%s %.0f\n", name, calls(atoi(name + 6)));
		return;
	}
	if (!strncmp(name, "program:", 8)) {
		printf("%s %.0f\n", name + 8, program(name + 8));
		return;
	}
	if (!strncmp(name, "again:", 6))
		return run_again(name + 6);
	for (struct row *row = rows; row < rows + sizeof rows / sizeof *rows; row++)
		if (!strcmp(name, row->name)) {
			printf("%s %.0f\n", name, row->run());
			return;
		}
	fprintf(stderr, "no row %s\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	const char *ms = getenv("BENCH_MS"), *n = getenv("BENCH_TIMES");
	exactly = n ? atol(n) : 0;
	self = argv[0];
	budget = (ms ? atof(ms) : 50) * 1e6;
	for (int i = 1; i < argc; i++) {
		run(argv[i]);
		fflush(stdout);
	}
	return 0;
}
