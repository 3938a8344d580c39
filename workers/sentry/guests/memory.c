/* Mappings: files private and shared, shared anonymous memory, ends of files, heap. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;

static void fault(int signal, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    printf("signal %d\n", signal);
    siglongjmp(back, 1);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    char name[] = "/tmp/memory-XXXXXX", text[16] = {0};
    int file = mkstemp(name);
    unlink(name);
    ftruncate(file, 5000);
    char *shared = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    memcpy(shared, "written", 8);
    pread(file, text, 8, 0);
    printf("shared writes reach the file: %s\n", text);
    pwrite(file, "WRITTEN", 8, 100);
    printf("file writes reach the mapping: %s\n", shared + 100);
    if (!sigsetjmp(back, 1)) printf("beyond the end: %d\n", shared[12000]);
    ftruncate(file, 20000);
    printf("after growth: %d\n", shared[12000]);
    char *private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    private[0] = 'W';
    pread(file, text, 8, 0);
    printf("private writes stay: %s %c\n", text, private[0]);
    char *anonymous = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fork() == 0) {
        strcpy(anonymous, "from the child");
        _exit(0);
    }
    wait(NULL);
    printf("shared anonymous: %s\n", anonymous);
    int readable = open("/proc/self/exe", O_RDONLY);
    void *refused = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, readable, 0);
    printf("writable mapping of a readable file: %d %s\n", refused == MAP_FAILED, strerror(errno));
    char *code = mmap(NULL, 4096, PROT_READ, MAP_SHARED, readable, 0);
    int writable = mprotect(code, 4096, PROT_READ | PROT_WRITE);
    printf("read-only mapping: %.3s, made writable %d %s\n", code + 1, writable, strerror(errno));
    if (!sigsetjmp(back, 1)) {
        munmap(private, 8192);
        printf("unmapped: %d\n", private[0]);
    }
    void *end = sbrk(0);
    char *grown = sbrk(100000);
    grown[99999] = 1;
    printf("heap: %d\n", end == (void *)grown);
    char *moved = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(moved, "moved");
    moved = mremap(moved, 4096, 1 << 20, MREMAP_MAYMOVE);
    moved[(1 << 20) - 1] = 1;
    printf("mremap: %s\n", moved);
    // What nobody maps or has open any more costs nothing: together these are more than there is.
    int rounds = 0;
    for (; rounds < 5000; rounds++) {
        int memory = memfd_create("round", 0);
        if (ftruncate(memory, 4 << 20) != 0) break;
        char *page = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        if (page == MAP_FAILED) break;
        page[0] = 1;
        munmap(page, 4 << 20);
        close(memory);
    }
    printf("rounds: %d, still mapped: %s\n", rounds, shared + 100);
    printf("bad requests: %d", mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    printf(" %s", strerror(errno));
    printf(" %d", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 99, 0) == MAP_FAILED);
    printf(" %s\n", strerror(errno));
    return 0;
}
