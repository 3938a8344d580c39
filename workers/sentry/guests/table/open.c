/* open and its relatives. */
#define FAMILY "open"
#include "case.h"
#include <linux/openat2.h>
#include <sys/xattr.h>

/* Past libc, which makes openat of it. */
#define open(...) syscall(SYS_open, __VA_ARGS__)

CASE(flags, "open creat") {
    R(open("f", O_RDONLY));
    R(open("f", O_RDWR | O_CREAT | O_EXCL, 0666));
    R(open("f", O_RDWR | O_CREAT | O_EXCL, 0666));
    R(open("f", O_RDONLY | O_DIRECTORY));
    R(creat("g", 0641));
    struct stat st;
    stat("g", &st);
    say("%o", st.st_mode);
    put("f", "content");
    R(open("f", O_WRONLY | O_TRUNC));
    show("f");
    mkdir("d", 0755);
    R(open("d", O_RDONLY));
    R(open("d", O_WRONLY));
    R(open("d", O_RDWR | O_CREAT, 0644));
    R(open("d", O_RDONLY | O_CREAT | O_DIRECTORY, 0644));
    R(open("f/x", O_RDONLY));
    R(open("none/x", O_RDWR | O_CREAT, 0644));
    R(open("", O_RDONLY));
    R(S(open, 8, O_RDONLY));
    symlink("f", "link");
    symlink("loop", "loop");
    symlink("made", "dangling");
    R(open("link", O_RDONLY | O_NOFOLLOW));
    R(open("link", O_PATH | O_NOFOLLOW));
    R(open("loop", O_RDONLY));
    R(open("dangling", O_RDONLY));
    R(open("dangling", O_RDWR | O_CREAT | O_EXCL, 0644));
    R(open("dangling", O_RDWR | O_CREAT, 0644));
    R(access("made", F_OK));
    R(open("f/", O_RDONLY));
    R(open("new/", O_RDWR | O_CREAT, 0644));
    R(open("d/", O_RDONLY));
    char name[300];
    memset(name, 'n', 299);
    name[256] = 0;
    R(S(open, name, O_RDONLY) == -1 ? errno == ENAMETOOLONG : 2);
    R(open("f", O_RDONLY | O_CLOEXEC));
    V(fcntl(14, F_GETFD));
    int fd = open("f", O_RDWR | O_APPEND | O_NONBLOCK | O_SYNC | O_NOATIME);
    V(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_NOATIME));
    R(open("f", 3));
    umask(027);
    fd = open("masked", O_RDWR | O_CREAT, 06777);
    fstat(fd, &st);
    say("%o", st.st_mode);
    fd = open("unreadable", O_RDWR | O_CREAT, 0);
    R(write(fd, "x", 1));
    chmod("/tmp/case", 0777);
    become_user();
    R(open("unreadable", O_RDONLY));
    R(open("masked", O_WRONLY));
    R(open("/etc/passwd", O_RDWR));
    R(open("f", O_RDONLY | O_NOATIME));
    mkdir("locked", 0);
    R(open("locked/x", O_RDONLY));
    R(open("/etc/new", O_RDWR | O_CREAT, 0644));
}

CASE(temporary_files, "open openat linkat") {
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    R(fd);
    R(write(fd, "text", 4));
    struct stat st;
    fstat(fd, &st);
    say("%o %ld links, %ld bytes", st.st_mode, (long)st.st_nlink, (long)st.st_size);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    R(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    show("named");
    fstat(fd, &st);
    V(st.st_nlink);
    R(open(".", O_TMPFILE | O_RDONLY, 0640));
    put("f", "");
    R(open("f", O_TMPFILE | O_RDWR, 0640));
    R(open("none", O_TMPFILE | O_RDWR, 0640));
    fd = openat(AT_FDCWD, ".", O_TMPFILE | O_WRONLY | O_EXCL, 0640);
    R(fd >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    R(linkat(AT_FDCWD, path, AT_FDCWD, "named2", AT_SYMLINK_FOLLOW));
    R(linkat(open(".", O_TMPFILE | O_RDWR, 0600), "", AT_FDCWD, "named3", AT_EMPTY_PATH));
}

CASE(only_the_path, "open openat newfstatat fchdir dup") {
    put("f", "text");
    mkdir("d", 0755);
    put("d/x", "in");
    int fd = open("f", O_PATH), dir = open("d", O_PATH | O_DIRECTORY);
    char buffer[10];
    struct stat st;
    R(read(fd, buffer, 1));
    R(fstat(fd, &st));
    V(st.st_size);
    R(fchmod(fd, 0600));
    R(fchown(fd, 0, 0));
    R(ftruncate(fd, 0));
    R(fcntl(fd, F_GETFL) & O_PATH ? 1 : 0);
    R(fcntl(fd, F_SETFL, 0));
    R(dup(fd));
    R(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    R(openat(dir, "x", O_RDONLY));
    R(fchdir(dir));
    show("x");
    R(fchdir(fd));
    R(getxattr("/proc/self/fd/3", "user.a", buffer, 1));
    R(fgetxattr(fd, "user.a", buffer, 1));
    R(lseek(fd, 0, SEEK_SET));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    R(open(path, O_RDONLY));
    R(close(fd));
}

CASE(relative_to, "openat mkdirat") {
    mkdir("d", 0755);
    put("d/x", "in");
    int dir = open("d", O_RDONLY);
    R(openat(dir, "x", O_RDONLY));
    R(openat(dir, "../d/x", O_RDONLY));
    R(openat(99, "x", O_RDONLY));
    R(openat(99, "/tmp/case/d/x", O_RDONLY));
    R(openat(open("d/x", O_RDONLY), "x", O_RDONLY));
    R(openat(dir, "", O_RDONLY));
    R(openat(AT_FDCWD, "d", O_RDONLY));
    R(mkdirat(dir, "sub", 0700));
    rename("d", "e");
    R(openat(dir, "x", O_RDONLY));
    system("/bin/busybox rm -r e");
    R(openat(dir, "new", O_RDWR | O_CREAT, 0644));
    R(openat(dir, ".", O_RDONLY));
}

static long open_how(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve, size_t size) {
    struct {
        struct open_how how;
        uint64_t more;
    } how = {{flags, mode, resolve}, size == 40 ? 1 : 0};
    return S(openat2, dir, path, &how, size == 40 ? 32 : size);
}

CASE(with_resolution, "openat2") {
    mkdir("d", 0755);
    put("d/x", "in");
    put("out", "out");
    symlink("x", "d/link");
    symlink("../out", "d/up");
    symlink("/tmp/case/out", "d/absolute");
    symlink("/x", "d/root");
    int dir = open("d", O_RDONLY);
    R(open_how(dir, "x", O_RDONLY, 0, 0, 24));
    R(open_how(dir, "../out", O_RDONLY, 0, RESOLVE_BENEATH, 24));
    R(open_how(dir, "up", O_RDONLY, 0, RESOLVE_BENEATH, 24));
    R(open_how(dir, "link", O_RDONLY, 0, RESOLVE_BENEATH, 24));
    R(open_how(dir, "absolute", O_RDONLY, 0, RESOLVE_BENEATH, 24));
    R(open_how(dir, "/tmp", O_RDONLY, 0, RESOLVE_BENEATH, 24));
    R(open_how(dir, "root", O_RDONLY, 0, RESOLVE_IN_ROOT, 24));
    R(open_how(dir, "../../x", O_RDONLY, 0, RESOLVE_IN_ROOT, 24));
    R(open_how(dir, "/x", O_RDONLY, 0, RESOLVE_IN_ROOT, 24));
    R(open_how(dir, "link", O_RDONLY, 0, RESOLVE_NO_SYMLINKS, 24));
    R(open_how(dir, "x", O_RDONLY, 0, RESOLVE_NO_SYMLINKS, 24));
    R(open_how(dir, "/proc/self/fd/3/x", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS, 24));
    R(open_how(dir, "/proc/self/status", O_RDONLY, 0, RESOLVE_NO_XDEV, 24));
    R(open_how(dir, "new", O_RDWR | O_CREAT, 0600, RESOLVE_BENEATH, 24));
    R(open_how(dir, "x", O_RDONLY, 0600, 0, 24));
    R(open_how(dir, "x", O_RDWR | O_CREAT, 0200000, 0, 24));
    R(open_how(dir, "x", 1ULL << 40, 0, 0, 24));
    R(open_how(dir, "x", O_RDONLY, 0, 1 << 20, 24));
    R(open_how(dir, "x", O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT, 24));
    R(open_how(dir, "x", O_RDONLY, 0, 0, 16));
    R(open_how(dir, "x", O_RDONLY, 0, 0, 32));
    R(open_how(dir, "x", O_RDONLY, 0, 0, 40));
    R(open_how(99, "x", O_RDONLY, 0, 0, 24));
    R(open_how(dir, "x", O_WRONLY | O_CREAT, 0600, RESOLVE_CACHED, 24));
    R(open_how(dir, "x", O_PATH | O_WRONLY, 0, 0, 24));
    R(open_how(dir, "x", O_TMPFILE, 0600, 0, 24));
}

CASE(fifos, "open mknodat read write") {
    R(mkfifo("p", 0600));
    R(open("p", O_WRONLY | O_NONBLOCK));
    int reader = open("p", O_RDONLY | O_NONBLOCK);
    R(reader);
    char buffer[16] = {0};
    R(read(reader, buffer, 10));
    int writer = open("p", O_WRONLY | O_NONBLOCK);
    R(writer);
    R(read(reader, buffer, 10));
    R(write(writer, "data", 4));
    R(read(reader, buffer, 10));
    close(writer);
    R(read(reader, buffer, 10));
    close(reader);
    pid_t child = fork();
    if (child == 0) {
        int fd = open("p", O_WRONLY);
        write(fd, "from a child", 12);
        _exit(3);
    }
    int fd = open("p", O_RDONLY);
    R(read(fd, buffer, 15));
    say("[%s]", buffer);
    R(read(fd, buffer, 15));
    await(child);
    R(open("p", O_RDWR));
}
