/* Memory. */
#define FAMILY "memory"
#include "case.h"
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define PAGE 4096L
#define MAP(length, prot, flags, fd, offset) mmap(NULL, length, prot, flags, fd, offset)
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

/* The signal that reading, or writing, at an address causes; 0 is none. */
static int touches(volatile char *address, int write_it) {
    pid_t child = fork();
    if (child == 0) {
        if (write_it)
            *address = 1;
        else
            (void)*address;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static long mapped(void *address) { return address == MAP_FAILED ? -1 : 0; }

CASE(anonymous, "mmap munmap mprotect brk") {
    char *map = MAP(3 * PAGE, RW, ANONYMOUS, -1, 0);
    map[0] = map[2 * PAGE] = 'x';
    R(mprotect(map + PAGE, PAGE, PROT_NONE));
    V(touches(map + PAGE, 0));
    V(touches(map, 1));
    R(mprotect(map, PAGE, PROT_READ));
    V(touches(map, 1));
    R(munmap(map + PAGE, PAGE));
    V(touches(map + PAGE, 0));
    R(mprotect(map, 3 * PAGE, RW));
    R(munmap(map, 3 * PAGE));
    R(munmap(map, 3 * PAGE));
    R(munmap(map + 1, PAGE));
    R(munmap(map, 0));
    R(mprotect(map, PAGE, RW));
    R(mprotect(map + 1, PAGE, RW));
    R(mprotect(map, PAGE, 64));
    R(mapped(MAP(0, RW, ANONYMOUS, -1, 0)));
    R(mapped(MAP(-1UL, RW, ANONYMOUS, -1, 0)));
    R(mapped(MAP(PAGE, RW, MAP_ANONYMOUS, -1, 0)));
    R(mapped(MAP(PAGE, RW, MAP_PRIVATE, -1, 0)));
    R(mapped(MAP(PAGE, RW, MAP_PRIVATE, 99, 0)));
    R(mapped(MAP(1L << 46, RW, ANONYMOUS, -1, 0)));
    char *at = MAP(4 * PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0);
    V(mmap(at + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0) == at + PAGE);
    R(mapped(mmap(at + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)));
    munmap(at + 2 * PAGE, PAGE);
    V(mmap(at + 2 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at + 2 * PAGE);
    R(mapped(mmap(at + 1, PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0)));
    V((unsigned long)MAP(PAGE, RW, ANONYMOUS | MAP_32BIT, -1, 0) >> 32);
    R(mapped(MAP(PAGE, RW, ANONYMOUS | MAP_POPULATE | MAP_STACK, -1, 0)));
    R(mapped(MAP(PAGE, RW | PROT_EXEC, ANONYMOUS, -1, 0)));
    char *down = MAP(PAGE, RW, ANONYMOUS | MAP_GROWSDOWN, -1, 0);
    R(mapped(down));
    R(mapped(MAP(PAGE, RW, ANONYMOUS | MAP_LOCKED, -1, 0)));
    char *old = (char *)S(brk, 0);
    V((char *)S(brk, old + 2 * PAGE) == old + 2 * PAGE);
    old[PAGE] = 1;
    V((char *)S(brk, old) == old);
    V(touches(old + PAGE, 0));
    V((char *)S(brk, 8) == old);
    /* Shared with a child. */
    int *shared = MAP(PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0), *own = MAP(PAGE, RW, ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        *shared = 5;
        *own = 5;
        _exit(0);
    }
    await(child);
    say("%d %d", *shared, *own);
}

CASE(files, "mmap msync munmap mprotect") {
    char buffer[16] = {0};
    int fd = open("f", O_RDWR | O_CREAT, 0644);
    ftruncate(fd, 2 * PAGE + 10);
    pwrite(fd, "start", 5, 0);
    pwrite(fd, "second", 6, PAGE);
    char *shared = MAP(3 * PAGE, RW, MAP_SHARED, fd, 0), *own = MAP(PAGE, RW, MAP_PRIVATE, fd, PAGE);
    say("%.5s %.6s", shared, own);
    shared[0] = 'S';
    own[0] = 'O';
    pread(fd, buffer, 5, 0);
    say("%.5s %c", buffer, shared[PAGE]);
    pwrite(fd, "T", 1, 1);
    say("%.5s", shared);
    V(shared[2 * PAGE + 10]);
    V(touches(shared + 3 * PAGE - 1, 1));
    ftruncate(fd, PAGE);
    V(touches(shared + PAGE, 0));
    V(touches(shared, 1));
    ftruncate(fd, 3 * PAGE);
    V(touches(shared + 2 * PAGE, 1));
    R(msync(shared, PAGE, MS_SYNC));
    R(msync(shared, PAGE, MS_ASYNC | MS_INVALIDATE));
    R(msync(shared, PAGE, MS_ASYNC | MS_SYNC));
    R(msync(shared + 1, PAGE, MS_SYNC));
    R(msync(shared, PAGE, 64));
    munmap(shared, PAGE);
    R(msync(shared, 2 * PAGE, MS_SYNC));
    int only_read = open("f", O_RDONLY), only_write = open("f", O_WRONLY);
    R(mapped(MAP(PAGE, RW, MAP_SHARED, only_read, 0)));
    char *map = MAP(PAGE, PROT_READ, MAP_SHARED, only_read, 0);
    R(mprotect(map, PAGE, RW));
    map = MAP(PAGE, PROT_READ, MAP_PRIVATE, only_read, 0);
    R(mprotect(map, PAGE, RW));
    R(mapped(MAP(PAGE, PROT_READ, MAP_PRIVATE, only_write, 0)));
    R(mapped(MAP(PAGE, PROT_READ, MAP_PRIVATE, fd, 1)));
    R(mapped(MAP(PAGE, PROT_READ, MAP_SHARED_VALIDATE, fd, 0)));
    R(mapped(MAP(PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0)));
    int p[2];
    pipe(p);
    R(mapped(MAP(PAGE, PROT_READ, MAP_PRIVATE, p[0], 0)));
    R(mapped(MAP(PAGE, PROT_READ, MAP_PRIVATE, open(".", O_RDONLY), 0)));
    R(mapped(MAP(PAGE, RW, MAP_PRIVATE, open("/dev/zero", O_RDWR), 0)));
    R(mapped(MAP(PAGE, RW, MAP_PRIVATE, open("/dev/null", O_RDWR), 0)));
    map = MAP(PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, open("/bin/busybox", O_RDONLY), 0);
    say("%.3s", map + 1);
    R(mapped(MAP(PAGE, PROT_READ, MAP_PRIVATE, fd, 1L << 40)));
    /* A written mapping outlives its descriptor. */
    shared = MAP(PAGE, RW, MAP_SHARED, fd, 0);
    close(fd);
    strcpy(shared, "last");
    munmap(shared, PAGE);
    pread(only_read, buffer, 4, 0);
    say("%.4s", buffer);
}

CASE(moving, "mremap") {
    char *map = MAP(4 * PAGE, RW, ANONYMOUS, -1, 0);
    map[0] = 'a';
    map[3 * PAGE] = 'd';
    V(mremap(map, 4 * PAGE, 2 * PAGE, 0) == map);
    V(touches(map + 2 * PAGE, 0));
    char *large = mremap(map, 2 * PAGE, 100 * PAGE, MREMAP_MAYMOVE);
    V(large != MAP_FAILED && large[0] == 'a' && large[99 * PAGE] == 0);
    char *target = MAP(2 * PAGE, PROT_NONE, ANONYMOUS, -1, 0);
    V(mremap(large, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    V(target[0]);
    char *block = MAP(4 * PAGE, RW, ANONYMOUS, -1, 0);
    mmap(block + PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    R(mapped(mremap(block, PAGE, 2 * PAGE, 0)));
    R(mapped(mremap(block + 1, PAGE, PAGE, 0)));
    R(mapped(mremap(block, PAGE, 0, 0)));
    R(mapped(mremap(block, PAGE, PAGE, 64)));
    R(mapped(mremap(block, PAGE, PAGE, MREMAP_FIXED, target)));
    R(mapped(mremap(block, 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE)));
    munmap(block, 4 * PAGE);
    R(mapped(mremap(block, PAGE, 2 * PAGE, MREMAP_MAYMOVE)));
    volatile char *kept = MAP(PAGE, RW, ANONYMOUS, -1, 0);
    kept[0] = 'k';
    char *moved = mremap((char *)kept, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
    V(moved != MAP_FAILED && moved[0] == 'k' && kept[0] == 0);
}

CASE(advice, "madvise") {
    char *map = MAP(4 * PAGE, RW, ANONYMOUS, -1, 0);
    memset(map, 'x', 4 * PAGE);
    R(madvise(map, PAGE, MADV_DONTNEED));
    V(map[0]);
    V(map[PAGE]);
    R(madvise(map, 4 * PAGE, MADV_NORMAL));
    R(madvise(map, 4 * PAGE, MADV_RANDOM));
    R(madvise(map, 4 * PAGE, MADV_SEQUENTIAL));
    R(madvise(map, 4 * PAGE, MADV_WILLNEED));
    R(madvise(map, 4 * PAGE, MADV_FREE));
    R(madvise(map, 4 * PAGE, MADV_NOHUGEPAGE));
    R(madvise(map, 4 * PAGE, MADV_HUGEPAGE));
    R(madvise(map, 4 * PAGE, MADV_DONTDUMP));
    R(madvise(map, 4 * PAGE, MADV_DODUMP));
    R(madvise(map, 4 * PAGE, MADV_COLD));
    R(madvise(map, 4 * PAGE, MADV_PAGEOUT));
    R(madvise(map, 4 * PAGE, MADV_POPULATE_READ));
    R(madvise(map, 4 * PAGE, MADV_POPULATE_WRITE));
    R(madvise(map, PAGE, MADV_DONTFORK));
    V(touches(map, 0));
    R(madvise(map, PAGE, MADV_DOFORK));
    V(touches(map, 0));
    map[PAGE] = 'w';
    R(madvise(map + PAGE, PAGE, MADV_WIPEONFORK));
    pid_t child = fork();
    if (child == 0) {
        V(map[PAGE]);
        _exit(0);
    }
    await(child);
    R(madvise(map + 1, PAGE, MADV_NORMAL));
    R(madvise(map, PAGE, 9999));
    R(madvise(map, 0, MADV_NORMAL));
    munmap(map, PAGE);
    R(madvise(map, 2 * PAGE, MADV_DONTNEED));
    R(madvise(map, PAGE, MADV_HWPOISON));
}

CASE(residence, "mincore mlock munlock mlock2 mlockall munlockall") {
    unsigned char vector[4] = {9, 9, 9, 9};
    char *map = MAP(4 * PAGE, RW, ANONYMOUS, -1, 0);
    map[0] = 1;
    R(mincore(map, PAGE, vector));
    V(vector[0] & 1);
    R(mincore(map + 1, PAGE, vector));
    R(mincore(map, 2 * PAGE, (void *)8));
    R(mlock(map, 4 * PAGE));
    R(mincore(map, 4 * PAGE, vector));
    V(vector[3] & 1);
    R(munlock(map, 4 * PAGE));
    R(S(mlock2, map, PAGE, 0));
    R(S(mlock2, map, PAGE, MLOCK_ONFAULT));
    R(S(mlock2, map, PAGE, 2));
    R(mlock(map, 1UL << 40));
    R(mlockall(0));
    R(mlockall(64));
    R(mlockall(MCL_ONFAULT));
    R(munlockall());
    munmap(map + PAGE, PAGE);
    R(mincore(map, 2 * PAGE, vector));
    R(mlock(map, 2 * PAGE));
    R(munlock(map, 2 * PAGE));
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_MEMLOCK, &none);
    become_user();
    R(mlock(map, PAGE));
    R(mlockall(MCL_CURRENT));
}

static void too_much_space(void) {
    struct rlimit limit = {64 << 20, 64 << 20};
    R(S(setrlimit, RLIMIT_AS, &limit));
    R(mapped(MAP(80 << 20, RW, ANONYMOUS, -1, 0)));
    R(mapped(MAP(8 << 20, RW, ANONYMOUS, -1, 0)));
    V(malloc(100 << 20) == NULL);
}

static void too_much_data(void) {
    struct rlimit limit = {16 << 20, 16 << 20};
    R(S(setrlimit, RLIMIT_DATA, &limit));
    char *now = sbrk(0);
    R(brk(now + (32 << 20)));
    R(mapped(MAP(32 << 20, RW, ANONYMOUS, -1, 0)));
    R(mapped(MAP(32 << 20, PROT_READ, ANONYMOUS, -1, 0)));
}

static int deep(int depth) {
    volatile char room[4096];
    room[0] = depth;
    return depth == 0 ? room[0] : deep(depth - 1) + room[0];
}

static void deep_enough(void) {
    V(deep(1000));
    deep(10000);
}

CASE(limits, "setrlimit mmap brk") {
    in_child(too_much_space);
    in_child(too_much_data);
    in_child(deep_enough);
}

static volatile int word, woken;
static void *waiter(void *argument) {
    long result = S(futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    __sync_fetch_and_add(&woken, result == 0);
    return argument;
}

CASE(futexes, "futex") {
    struct timespec time = {0, 20000000}, bad = {0, -1};
    long begin = now_ms();
    R(S(futex, &word, FUTEX_WAIT, 0, &time, NULL, 0));
    V(now_ms() - begin >= 20);
    R(S(futex, &word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, &time, NULL, 0));
    R(S(futex, &word, FUTEX_WAIT, 0, &bad, NULL, 0));
    R(S(futex, 8, FUTEX_WAIT, 0, &time, NULL, 0));
    R(S(futex, (char *)&word + 1, FUTEX_WAIT, 0, &time, NULL, 0));
    R(S(futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    R(S(futex, &word, 99, 1, NULL, NULL, 0));
    pthread_t threads[4];
    for (int n = 0; n < 4; n++) pthread_create(&threads[n], NULL, waiter, NULL);
    pause_ms(200);
    R(S(futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    int other = 0;
    R(S(futex, &word, FUTEX_CMP_REQUEUE, 1, 1L, &other, 0));
    R(S(futex, &word, FUTEX_CMP_REQUEUE, 1, 1L, &other, 5));
    R(S(futex, &other, FUTEX_WAKE, 10, NULL, NULL, 0));
    R(S(futex, &word, FUTEX_WAKE_OP, 10, 10L, &other, FUTEX_OP(FUTEX_OP_SET, 7, FUTEX_OP_CMP_EQ, 0)));
    V(other);
    for (int n = 0; n < 4; n++) pthread_join(threads[n], NULL);
    V(woken);
    struct timespec past = {1, 0};
    R(S(futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &past, NULL, 1));
    R(S(futex, &word, FUTEX_WAIT_BITSET, 0, &past, NULL, 0));
    R(S(futex, &word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0));
    /* Between processes. */
    int *shared = MAP(PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        long result = S(futex, shared, FUTEX_WAIT, 0, NULL, NULL, 0);
        pause_ms(30);
        V(result);
        _exit(0);
    }
    while (S(futex, shared, FUTEX_WAKE, 1, NULL, NULL, 0) == 0) pause_ms(5);
    await(child);
}

CASE(barriers, "membarrier") {
    V(S(membarrier, MEMBARRIER_CMD_QUERY, 0, 0) & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    R(S(membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    R(S(membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    R(S(membarrier, MEMBARRIER_CMD_QUERY, 1, 0));
    R(S(membarrier, 1 << 20, 0, 0));
}
