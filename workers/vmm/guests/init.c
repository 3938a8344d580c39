// The guest's first program in the VMM's own tests: static, no agent. What to do comes by the kernel's command line
// (test=NAME); what it found goes to the console, one line a result, and the machine ends by a reboot.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <linux/fs.h>
#include <linux/vm_sockets.h>

enum { SECTOR = 512, HOST = 2 };

static void say(const char *text) { if (write(1, text, strlen(text)) < 0) _exit(1); }
static void result(const char *name, int good) { say(name); say(good ? " ok\n" : " BAD\n"); }
static void end(void) { sync(); reboot(RB_AUTOBOOT); for (;;) pause(); }

// Reads a whole disk by direct I/O and compares its first and last sector with what the test wrote there.
static void image(void) {
    int fd = open("/dev/vda", O_RDONLY); uint64_t bytes = 0; char block[SECTOR], beyond[SECTOR];
    result("image open", fd >= 0);
    result("image size", !ioctl(fd, BLKGETSIZE64, &bytes) && bytes == 3 * 1024 * 1024 + SECTOR);
    result("image first", pread(fd, block, SECTOR, 0) == SECTOR && !strncmp(block, "first sector", 12));
    // The file ends within this sector: the rest reads as zeroes.
    result("image last", pread(fd, block, SECTOR, bytes - SECTOR) == SECTOR && !strncmp(block, "last", 4) && !block[4] && !block[511]);
    result("image end", pread(fd, beyond, SECTOR, bytes) == 0);
    int ro = 0; ioctl(fd, BLKROGET, &ro); result("image read-only", ro);
    close(fd);
}

static void scratch(void) {
    int fd = open("/dev/vdb", O_RDWR | O_DIRECT); uint64_t bytes = 0; char *buffer, *again;
    if (fd < 0 || posix_memalign((void **)&buffer, 4096, 65536) || posix_memalign((void **)&again, 4096, 65536)) { result("scratch open", 0); return; }
    ioctl(fd, BLKGETSIZE64, &bytes);
    for (int i = 0; i < 65536; i++) buffer[i] = i * 31 + (i >> 8);
    result("scratch write", pwrite(fd, buffer, 65536, bytes - 65536) == 65536 && pwrite(fd, buffer, 4096, 0) == 4096);
    result("scratch flush", !fsync(fd));
    result("scratch read", pread(fd, again, 65536, bytes - 65536) == 65536 && !memcmp(buffer, again, 65536));
    uint64_t range[2] = { bytes - 65536, 65536 };
    result("scratch discard", !ioctl(fd, BLKDISCARD, range) && pread(fd, again, 65536, bytes - 65536) == 65536 && !again[1] && !memcmp(again, again + 1, 65535));
    result("scratch end", pwrite(fd, buffer, 4096, bytes) < 0);
    close(fd);
}

static int dial(unsigned port) {
    struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_cid = HOST, .svm_port = port };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (void *)&to, sizeof to)) { int saved = errno; close(fd); errno = saved; return -1; }
    return fd;
}

// Echoes everything until the host's end, then closes.
static void echo(void) {
    int fd = dial(1024); long total = 0; static char buffer[65536]; ssize_t n;
    result("vsock connect", fd >= 0);
    while ((n = read(fd, buffer, sizeof buffer)) > 0) for (ssize_t done = 0; done < n;) { ssize_t w = write(fd, buffer + done, n - done); if (w < 0) { result("vsock write", 0); return; } done += w; total += w; }
    result("vsock end", n == 0);
    printf("vsock echoed %ld\n", total); fflush(stdout);
    close(fd);
    result("vsock again", dial(1024) < 0 && errno == ECONNRESET);
    result("vsock nobody", dial(4711) < 0 && errno == ECONNRESET);
}

// Half-closed both ways: the host reads to the end of what was sent before it answers.
static void half(void) {
    int fd = dial(1028); char answer[64] = { 0 };
    result("half connect", fd >= 0);
    result("half send", write(fd, "question", 8) == 8 && !shutdown(fd, SHUT_WR));
    ssize_t n = 0, got; while ((got = read(fd, answer + n, sizeof answer - n - 1)) > 0) n += got;
    result("half answer", !strcmp(answer, "answer"));
    close(fd);
}

// The host has closed its reader: writing fails, and does not block.
static void refused(void) {
    int fd = dial(1026); char block[4096] = { 0 }; int failed = 0;
    result("refused connect", fd >= 0);
    for (int i = 0; i < 1000 && !failed; i++) failed = send(fd, block, sizeof block, MSG_NOSIGNAL) < 0;
    result("refused write", failed && errno == EPIPE);
    close(fd);
}

static void rng(void) {
    char a[64], b[64]; int fd = open("/dev/hwrng", O_RDONLY);
    result("rng", fd >= 0 && read(fd, a, 64) == 64 && read(fd, b, 64) == 64 && memcmp(a, b, 64));
}

int main(void) {
    static char line[4096]; char name[32] = "none";
    mount("proc", "/proc", "proc", 0, 0); mount("dev", "/dev", "devtmpfs", 0, 0);
    int console = open("/dev/console", O_RDWR); dup2(console, 0); dup2(console, 1); dup2(console, 2);
    int fd = open("/proc/cmdline", O_RDONLY); if (read(fd, line, sizeof line - 1) < 0) say("no command line\n");
    char *at = strstr(line, "test="); if (at) sscanf(at, "test=%31s", name);
    say("guest alive: "); say(name); say("\n");
    if (!strcmp(name, "devices")) { image(); scratch(); rng(); echo(); half(); refused(); }
    if (!strcmp(name, "cpus")) { printf("cpus %ld\n", sysconf(_SC_NPROCESSORS_ONLN)); fflush(stdout); }
    say("guest done\n");
    // The end of the first program panics the kernel.
    if (!strcmp(name, "cpus")) _exit(3);
    end();
}
