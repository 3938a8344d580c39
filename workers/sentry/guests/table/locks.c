/* fcntl, flock, ioctl, memory files. */
#define FAMILY "locks"
#include "case.h"
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

CASE(flags_of_descriptors, "fcntl") {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    V(fcntl(fd, F_GETFD));
    R(fcntl(fd, F_SETFD, FD_CLOEXEC));
    V(fcntl(fd, F_GETFD));
    R(fcntl(fd, F_DUPFD, 10));
    R(fcntl(fd, F_DUPFD_CLOEXEC, 10));
    V(fcntl(11, F_GETFD));
    R(fcntl(fd, F_DUPFD, 2000));
    R(fcntl(fd, F_DUPFD, -1));
    V(fcntl(fd, F_GETFL) & O_ACCMODE);
    R(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK | O_WRONLY | O_CREAT));
    V(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    V(fcntl(10, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    R(fcntl(99, F_GETFL));
    R(fcntl(fd, 9999, 0));
    R(fcntl(fd, F_GETOWN));
    R(fcntl(fd, F_SETOWN, getpid()));
    V(fcntl(fd, F_GETOWN) == getpid());
    R(fcntl(fd, F_SETOWN, 99999));
    R(fcntl(fd, F_GETSIG));
    R(fcntl(fd, F_SETSIG, SIGRTMIN));
    V(fcntl(fd, F_GETSIG) == SIGRTMIN);
    R(fcntl(fd, F_SETSIG, 65));
    struct f_owner_ex owner = {F_OWNER_PID, getpid()}, got = {9, 9};
    R(fcntl(fd, F_SETOWN_EX, &owner));
    R(fcntl(fd, F_GETOWN_EX, &got));
    V(got.type * 10 + (got.pid == getpid()));
}

static long lock(int fd, int command, int type, long start, long length) {
    struct flock flock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    long result = fcntl(fd, command, &flock);
    if (result == 0 && (command == F_GETLK || command == F_OFD_GETLK))
        say("  type %d start %ld length %ld pid %d", flock.l_type, (long)flock.l_start, (long)flock.l_len,
            flock.l_pid <= 0 ? flock.l_pid : 1);
    return result;
}

CASE(record_locks, "fcntl") {
    int fd = open("f", O_RDWR | O_CREAT, 0600), second = open("f", O_RDWR), only_read = open("f", O_RDONLY);
    R(lock(fd, F_SETLK, F_WRLCK, 10, 10));
    R(lock(second, F_SETLK, F_WRLCK, 10, 10));
    R(lock(fd, F_GETLK, F_WRLCK, 10, 10));
    R(lock(only_read, F_SETLK, F_WRLCK, 0, 1));
    R(lock(fd, F_SETLK, 9, 0, 1));
    R(lock(fd, F_SETLK, F_WRLCK, -1, 1));
    struct flock flock = {.l_type = F_RDLCK, .l_whence = 9};
    R(fcntl(fd, F_SETLK, &flock));
    R(fcntl(fd, F_SETLK, (void *)8));
    pid_t child = fork();
    if (child == 0) {
        R(lock(fd, F_SETLK, F_RDLCK, 0, 10));
        R(lock(fd, F_SETLK, F_RDLCK, 0, 11));
        R(lock(fd, F_GETLK, F_RDLCK, 0, 0));
        R(lock(fd, F_SETLK, F_WRLCK, 20, 0));
        R(lock(fd, F_SETLK, F_UNLCK, 0, 0));
        _exit(0);
    }
    await(child);
    R(lock(fd, F_SETLK, F_UNLCK, 12, 2));
    child = fork();
    if (child == 0) {
        R(lock(fd, F_SETLK, F_WRLCK, 12, 2));
        R(lock(fd, F_GETLK, F_WRLCK, 14, 0));
        alarm(1);
        R(lock(fd, F_SETLKW, F_WRLCK, 10, 1));
        _exit(0);
    }
    pause_ms(300);
    /* Closing any descriptor of the file gives the locks back. */
    close(second);
    await(child);
    lseek(fd, 100, SEEK_SET);
    struct flock relative = {.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = 5, .l_len = -3};
    R(fcntl(fd, F_SETLK, &relative));
    child = fork();
    if (child == 0) {
        R(lock(fd, F_GETLK, F_WRLCK, 0, 0));
        _exit(0);
    }
    await(child);
    /* A deadlock. */
    R(lock(fd, F_SETLK, F_WRLCK, 0, 1));
    child = fork();
    if (child == 0) {
        lock(fd, F_SETLK, F_WRLCK, 1, 1);
        lock(fd, F_SETLKW, F_WRLCK, 0, 1);
        _exit(0);
    }
    pause_ms(300);
    R(lock(fd, F_SETLKW, F_WRLCK, 1, 1));
    R(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    await(child);
}

CASE(locks_of_open_files, "fcntl") {
    int fd = open("f", O_RDWR | O_CREAT, 0600), second = open("f", O_RDWR);
    R(lock(fd, F_OFD_SETLK, F_WRLCK, 0, 10));
    R(lock(second, F_OFD_SETLK, F_WRLCK, 0, 10));
    R(lock(second, F_OFD_SETLK, F_RDLCK, 10, 10));
    R(lock(second, F_OFD_GETLK, F_WRLCK, 0, 0));
    R(lock(second, F_SETLK, F_WRLCK, 0, 1));
    struct flock with_pid = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_pid = 1};
    R(fcntl(fd, F_OFD_SETLK, &with_pid));
    pid_t child = fork();
    if (child == 0) {
        /* The same open file: no conflict. */
        R(lock(fd, F_OFD_SETLK, F_WRLCK, 0, 5));
        long result = lock(second, F_OFD_SETLKW, F_WRLCK, 0, 1);
        pause_ms(300);
        V(result);
        _exit(0);
    }
    pause_ms(300);
    R(lock(fd, F_OFD_SETLK, F_UNLCK, 0, 0));
    await(child);
    R(lock(fd, F_OFD_SETLK, F_RDLCK, 0, 1));
    close(second);
    R(lock(fd, F_OFD_SETLK, F_RDLCK, 0, 1));
}

CASE(whole_files, "flock") {
    int fd = open("f", O_RDWR | O_CREAT, 0600), second = open("f", O_RDONLY);
    R(flock(fd, LOCK_SH));
    R(flock(second, LOCK_SH));
    R(flock(second, LOCK_EX | LOCK_NB));
    R(flock(fd, LOCK_UN));
    R(flock(second, LOCK_EX | LOCK_NB));
    R(flock(fd, LOCK_SH | LOCK_NB));
    R(flock(fd, 9));
    R(flock(fd, 16));
    R(flock(99, LOCK_SH));
    R(flock(open("f", O_PATH), LOCK_SH));
    pid_t child = fork();
    if (child == 0) {
        R(flock(second, LOCK_EX | LOCK_NB));
        long result = flock(fd, LOCK_EX);
        pause_ms(300);
        V(result);
        _exit(0);
    }
    pause_ms(300);
    R(flock(second, LOCK_UN));
    await(child);
    R(flock(second, LOCK_EX | LOCK_NB));
    close(fd);
    R(flock(second, LOCK_EX | LOCK_NB));
}

CASE(leases_and_notices, "fcntl") {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    R(fcntl(fd, F_GETPIPE_SZ));
    R(fcntl(fd, F_GET_SEALS));
    R(fcntl(fd, F_ADD_SEALS, 1));
}

CASE(controls, "ioctl") {
    int p[2], count = -1, on = 1;
    pipe(p);
    put("f", "0123456789");
    int fd = open("f", O_RDWR);
    write(p[1], "abc", 3);
    R(ioctl(p[0], FIONREAD, &count));
    V(count);
    lseek(fd, 3, SEEK_SET);
    R(ioctl(fd, FIONREAD, &count));
    V(count);
    R(ioctl(p[0], FIONBIO, &on));
    V(fcntl(p[0], F_GETFL) & O_NONBLOCK);
    R(ioctl(fd, FIOCLEX));
    V(fcntl(fd, F_GETFD));
    R(ioctl(fd, FIONCLEX));
    V(fcntl(fd, F_GETFD));
    R(ioctl(fd, FIGETBSZ, &count));
    V(count);
    R(ioctl(fd, TCGETS, &count));
    R(ioctl(p[0], TIOCGWINSZ, &count));
    R(ioctl(open("/dev/null", O_RDWR), TCGETS, &count));
    R(ioctl(99, FIONREAD, &count));
    R(ioctl(p[0], FIONREAD, (void *)8));
    R(ioctl(fd, 0x12345, 0));
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[0], "hello", 5);
    R(ioctl(s[1], FIONREAD, &count));
    V(count);
    R(ioctl(open("f", O_PATH), FIONREAD, &count));
}

CASE(memory_files, "memfd_create fcntl") {
    struct stat st;
    int fd = S(memfd_create, "name", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    V(fcntl(fd, F_GETFD));
    R(write(fd, "sealed", 6));
    fstat(fd, &st);
    say("%o %ld links %d", st.st_mode, (long)st.st_size, (int)st.st_nlink);
    char path[64] = {0}, link[64] = {0};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    readlink(path, link, 60);
    say("%s", link);
    V(fcntl(fd, F_GET_SEALS));
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    R(ftruncate(fd, 100));
    R(write(fd, "more", 4));
    R(pwrite(fd, "S", 1, 0));
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    R(ftruncate(fd, 1));
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    V(map != MAP_FAILED);
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    munmap(map, 4096);
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    R(write(fd, "x", 1));
    R(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    R(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    R(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1));
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    V(fcntl(fd, F_GET_SEALS));
    R(fcntl(fd, F_ADD_SEALS, 1 << 20));
    fd = S(memfd_create, "", 0);
    V(fcntl(fd, F_GET_SEALS));
    R(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    R(S(memfd_create, "x", 1 << 20));
    R(S(memfd_create, 8, 0));
    char name[300];
    memset(name, 'n', 299);
    name[250] = 0;
    R(S(memfd_create, name, 0) == -1 ? -1 : 0);
    name[249] = 0;
    R(S(memfd_create, name, 0) == -1 ? -1 : 0);
}
