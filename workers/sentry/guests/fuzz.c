/* Makes random system calls from several threads of several processes: `fuzz SEED CALLS`.
 *
 * The first process makes the others, replaces those that end or take long, and ends when all calls are made. What
 * they may do to it is bounded: most are user 1000, and the others leave out the calls that could end it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES 4
#define THREADS 3
/* A process is replaced after so many calls, or so many milliseconds: it may have closed or unmapped everything. */
#define CALLS_OF_ONE 400
#define LIFE_MS 400
/* How often everything that they left behind is killed. */
#define SWEEP_MS 1500

struct shared {
    volatile long made, wanted;
};
static struct shared *shared;

struct random {
    uint64_t state;
};

static uint64_t next(struct random *random) {
    uint64_t z = (random->state += 0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t below(struct random *random, uint64_t bound) { return next(random) % bound; }

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char *const paths[] = {"f", "d", "d/x", "link", "fifo", "sock", "/proc/self/status", "/proc/self/maps", "/dev/zero",
                                    "/dev/null", "/bin/busybox", ".", "..", "/", "", "none/x", "/proc/self/fd/3",
                                    "/sys/devices/system/cpu/online", "/proc/self/exe", "/tmp"};
static const uint64_t odd[] = {0, 1, 2, 3, 7, 8, 16, 24, 64, 88, 100, 127, 128, 255, 256, 512, 1000, 1024, 4095, 4096, 4097,
                               65536, 1 << 20, 1 << 30, 0x7fffffff, 0x80000000, 0xffffffff, 1UL << 32, 1UL << 46,
                               0x7ffffffff000, 1UL << 63, -1UL, -2UL, -100UL, 0x7fffffffffffffff};

#define ROOM 65536
/* Each thread's memory for arguments: structures, vectors, names. */
static __thread char *room;

static uint64_t pointer(struct random *random) {
    switch (below(random, 8)) {
    case 0: return 0;
    case 1: return 8;
    case 2: return (uint64_t)paths[below(random, sizeof paths / sizeof *paths)];
    default: return (uint64_t)room + below(random, ROOM / 8) * 8;
    }
}

/* Fills a part of the thread's memory with small numbers, addresses and noise. */
static void scribble(struct random *random) {
    uint64_t *words = (uint64_t *)room;
    for (int n = 0; n < 32; n++) {
        uint64_t *word = &words[below(random, ROOM / 8)];
        switch (below(random, 5)) {
        case 0: *word = below(random, 64); break;
        case 1: *word = pointer(random); break;
        case 2: *word = odd[below(random, sizeof odd / sizeof *odd)]; break;
        case 3: *word = next(random); break;
        default: *word = 0;
        }
    }
}

static uint64_t argument(struct random *random) {
    switch (below(random, 10)) {
    case 0:
    case 1:
    case 2: return below(random, 12);
    case 3:
    case 4:
    case 5: return pointer(random);
    case 6: return odd[below(random, sizeof odd / sizeof *odd)];
    case 7: return 1UL << below(random, 40);
    case 8: return below(random, 1 << below(random, 17));
    default: return next(random) >> below(random, 64);
    }
}

/* Calls that say nothing about the sentry but end the caller, or take its time. */
static int is_useless(long number) {
    return number == SYS_exit || number == SYS_exit_group || number == SYS_rt_sigreturn;
}

/* Calls by which root could end the first process, and with it the run. */
static int reaches_others(long number) {
    switch (number) {
    case SYS_kill:
    case SYS_tkill:
    case SYS_tgkill:
    case SYS_rt_sigqueueinfo:
    case SYS_rt_tgsigqueueinfo:
    case SYS_pidfd_send_signal:
    case SYS_prlimit64:
    case SYS_process_vm_writev:
    case SYS_setpriority:
        return 1;
    }
    return 0;
}

static void *make_calls(void *given) {
    struct random random = {(uint64_t)given};
    room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return NULL;
    int is_root = geteuid() == 0;
    for (int n = 0; n < CALLS_OF_ONE && shared->made < shared->wanted; n++) {
        long number = below(&random, 463);
        if (is_useless(number) || (is_root && reaches_others(number))) continue;
        if (n % 4 == 0) scribble(&random);
        uint64_t a[6];
        for (int i = 0; i < 6; i++) a[i] = argument(&random);
        __sync_fetch_and_add(&shared->made, 1);
        /* A clone without a stack of its own would share this one; a child of a fork just goes on. */
        if (number == SYS_clone) a[0] &= ~0x100UL, a[1] = 0;
        if (number == SYS_clone3 || number == SYS_vfork) number = SYS_fork;
        if (number == SYS_fork && below(&random, 4)) continue;
        syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
    return NULL;
}

static void nothing(int number) { (void)number; }

static void fuzz(uint64_t seed, int index) {
    setsid();
    /* Blocking calls are interrupted now and then. */
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &often, NULL);
    /* What is printed is for the first process alone. */
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    char directory[32];
    snprintf(directory, sizeof directory, "/tmp/fuzz%d", index);
    mkdir(directory, 0777);
    chmod(directory, 0777);
    if (chdir(directory)) _exit(1);
    if (index != 0) {
        setgroups(0, NULL);
        if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) _exit(1);
    }
    close(open("f", O_CREAT | O_RDWR, 0666));
    mkdir("d", 0777);
    symlink("f", "link");
    mkfifo("fifo", 0666);
    open("f", O_RDWR);
    int pair[2];
    pipe2(pair, O_NONBLOCK);
    pthread_t threads[THREADS];
    for (int n = 0; n < THREADS; n++) pthread_create(&threads[n], NULL, make_calls, (void *)(seed * 31 + n));
    for (int n = 0; n < THREADS; n++) pthread_join(threads[n], NULL);
    _exit(0);
}

static int removes(const char *path, const struct stat *status, int kind, struct FTW *where) {
    (void)status, (void)kind, (void)where;
    remove(path);
    return 0;
}

int main(int count, char **arguments) {
    struct random random = {count > 1 ? strtoul(arguments[1], NULL, 0) : 1};
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared->wanted = count > 2 ? atol(arguments[2]) : 10000;
    usleep(400000);
    pid_t children[PROCESSES] = {0};
    long born[PROCESSES] = {0}, made = 0, swept = now_ms();
    while (shared->made < shared->wanted) {
        for (int n = 0; n < PROCESSES; n++) {
            if (children[n] > 0 && now_ms() - born[n] > LIFE_MS) kill(-children[n], SIGKILL), kill(children[n], SIGKILL);
            if (children[n] > 0 && waitpid(children[n], NULL, WNOHANG) == children[n]) children[n] = 0;
            if (children[n] > 0) continue;
            uint64_t seed = next(&random);
            pid_t child = fork();
            if (child == 0) fuzz(seed, n);
            if (child > 0) children[n] = child, born[n] = now_ms(), made++;
            /* What they forked may wait for ever, or be stopped. */
            if (child < 0) kill(-1, SIGKILL);
        }
        usleep(5000);
        if (now_ms() - swept > SWEEP_MS) kill(-1, SIGKILL), swept = now_ms();
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        for (int n = 0; n < PROCESSES; n++)
            if (children[n] > 0 && kill(children[n], 0) != 0) children[n] = 0;
    }
    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
    }
    /* What files cost is theirs as long as they are there. */
    nftw("/tmp", removes, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    printf("%ld calls, %s\n", shared->made >= shared->wanted ? shared->wanted : shared->made, made > 1 ? "many processes" : "one");
    fflush(stdout);
    /* Time for whoever measures. */
    usleep(800000);
    return 0;
}
