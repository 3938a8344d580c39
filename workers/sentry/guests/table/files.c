/* Names, what stat says, owners, modes, times, attributes, sizes, directories. */
#define FAMILY "files"
#include "case.h"
#include <dirent.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <utime.h>

static void listing(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        say("%s: %s", path, strerrorname_np(errno));
        return;
    }
    for (int n = 0; n < count; n++) say("  %s type %d", entries[n]->d_name, entries[n]->d_type);
}

CASE(making_names, "mkdir rmdir link unlink symlink readlink access") {
    R(mkdir("d", 0750));
    R(mkdir("d", 0750));
    R(mkdir("d/", 0750));
    R(mkdir("none/d", 0750));
    R(mkdir("", 0750));
    R(mkdir("new/", 0750));
    put("f", "text");
    R(mkdir("f/d", 0750));
    R(link("f", "g"));
    R(link("f", "g"));
    R(link("d", "h"));
    R(link("none", "h"));
    R(link("f", "/proc/x"));
    R(symlink("f", "s"));
    R(symlink("f", "s"));
    R(symlink("", "e"));
    R(link("s", "s2"));
    char buffer[64] = {0};
    R(readlink("s", buffer, 60));
    R(readlink("s2", buffer, 60));
    R(readlink("f", buffer, 60));
    R(readlink("s", buffer, 0));
    R(readlink("none", buffer, 60));
    symlink("a long target", "t");
    R(readlink("t", buffer, 6));
    say("[%s]", buffer);
    R(access("f", R_OK | W_OK));
    R(access("f", X_OK));
    R(access("none", F_OK));
    R(access("f", 8));
    R(unlink("d"));
    R(unlink("none"));
    R(unlink("s/"));
    R(unlink("s"));
    R(rmdir("f"));
    R(rmdir("none"));
    R(rmdir("."));
    R(rmdir("d/."));
    R(rmdir("d/.."));
    mkdir("d/sub", 0700);
    R(rmdir("d"));
    R(rmdir("d/sub"));
    R(rmdir("d"));
    R(rmdir("/proc"));
    R(unlink("/proc/self/status"));
    listing(".");
}

CASE(making_names_at, "mkdirat unlinkat linkat symlinkat readlinkat renameat mknodat faccessat faccessat2") {
    char buffer[64] = {0};
    R(mkdirat(AT_FDCWD, "d", 0700));
    int dir = open("d", O_RDONLY);
    R(mkdirat(dir, "sub", 0700));
    R(mkdirat(99, "sub", 0700));
    R(S(mknodat, dir, "plain", S_IFREG | 0644, 0));
    R(S(mknodat, dir, "fifo", S_IFIFO | 0644, 0));
    R(S(mknodat, dir, "sock", S_IFSOCK | 0644, 0));
    R(S(mknodat, dir, "dir", S_IFDIR | 0644, 0));
    R(S(mknodat, dir, "odd", 0170000, 0));
    R(S(mknodat, dir, "fifo", S_IFIFO | 0644, 0));
    R(symlinkat("plain", dir, "s"));
    R(readlinkat(dir, "s", buffer, 60));
    R(readlinkat(open("d/s", O_PATH | O_NOFOLLOW), "", buffer, 60));
    R(readlinkat(dir, "", buffer, 60));
    R(linkat(dir, "plain", AT_FDCWD, "hard", 0));
    R(linkat(dir, "s", dir, "hard_s", 0));
    R(linkat(dir, "s", dir, "followed", AT_SYMLINK_FOLLOW));
    R(linkat(dir, "s", dir, "x", 1));
    R(renameat(dir, "plain", AT_FDCWD, "moved"));
    R(renameat(dir, "none", AT_FDCWD, "moved"));
    R(faccessat(dir, "s", F_OK, 0));
    R(S(faccessat, dir, "fifo", R_OK));
    R(S(faccessat2, dir, "s", F_OK, AT_SYMLINK_NOFOLLOW));
    R(S(faccessat2, dir, "", F_OK, AT_EMPTY_PATH));
    R(S(faccessat2, dir, "fifo", W_OK, AT_EACCESS));
    R(S(faccessat2, dir, "fifo", W_OK, 1));
    R(S(faccessat2, dir, "fifo", 8, 0));
    R(unlinkat(dir, "sub", 0));
    R(unlinkat(dir, "sub", AT_REMOVEDIR));
    R(unlinkat(dir, "fifo", AT_REMOVEDIR));
    R(unlinkat(dir, "fifo", 1));
    R(unlinkat(dir, "fifo", 0));
    listing("d");
    listing(".");
}

CASE(devices, "mknod mknodat") {
    R(S(mknod, "regular", 0600, 0));
    R(S(mknod, "fifo", S_IFIFO | 0600, 0));
    R(S(mknod, "sock", S_IFSOCK | 0600, 0));
    R(S(mknod, "fifo", S_IFIFO | 0600, 0));
    R(S(mknod, "none/fifo", S_IFIFO | 0600, 0));
    become_user();
    R(S(mknod, "null", S_IFCHR | 0600, 0x103));
    R(S(mknodat, AT_FDCWD, "loop", S_IFBLK | 0600, 0x700));
    listing(".");
}

CASE(renaming, "rename renameat2") {
    put("a", "a");
    put("b", "b");
    mkdir("d", 0755);
    mkdir("e", 0755);
    put("e/x", "x");
    R(rename("a", "c"));
    R(rename("a", "c"));
    R(rename("b", "c"));
    show("c");
    R(rename("c", "d"));
    R(rename("d", "c"));
    R(rename("d", "e"));
    R(rename("e", "d"));
    show("d/x");
    R(rename("d", "d/sub"));
    R(rename("d", "."));
    R(rename("d", "none/d"));
    R(rename("c", "c/"));
    R(rename("c", "new/"));
    R(rename("d", "new/"));
    link("c", "c2");
    R(rename("c", "c2"));
    R(access("c", F_OK));
    R(rename("c", "/proc/c"));
    R(S(renameat2, AT_FDCWD, "c", AT_FDCWD, "c2", RENAME_NOREPLACE));
    R(S(renameat2, AT_FDCWD, "c", AT_FDCWD, "c3", RENAME_NOREPLACE));
    R(S(renameat2, AT_FDCWD, "c3", AT_FDCWD, "new", RENAME_EXCHANGE));
    show("c3");
    listing("new");
    R(S(renameat2, AT_FDCWD, "c3", AT_FDCWD, "none", RENAME_EXCHANGE));
    R(S(renameat2, AT_FDCWD, "c3", AT_FDCWD, "none", RENAME_EXCHANGE | RENAME_NOREPLACE));
    R(S(renameat2, AT_FDCWD, "c3", AT_FDCWD, "none", 64));
    listing(".");
}

CASE(sticky_and_permissions, "rename unlink mkdir chmod") {
    mkdir("s", 0777);
    chmod("s", 01777);
    put("s/roots", "");
    mkdir("closed", 0755);
    put("closed/x", "");
    put("open", "");
    mkdir("group", 0777);
    R(chown("group", 0, 50));
    R(chmod("group", 02777));
    become_user();
    R(unlink("s/roots"));
    R(rename("s/roots", "s/mine"));
    put("s/mine", "");
    R(unlink("s/mine"));
    R(unlink("closed/x"));
    R(mkdir("closed/y", 0755));
    R(rename("closed/x", "x"));
    R(chmod("open", 0777));
    R(chown("open", 1000, 1000));
    R(mkdir("group/d", 0755));
    struct stat st;
    stat("group/d", &st);
    say("%o gid %d", st.st_mode, st.st_gid);
    int fd = open("group/f", O_CREAT | O_RDWR, 0644);
    fstat(fd, &st);
    say("%o gid %d", st.st_mode, st.st_gid);
}

static void print(const struct stat *st) {
    say("  mode %o links %ld owner %d:%d size %ld blocks %ld blksize %ld", st->st_mode, (long)st->st_nlink, st->st_uid,
        st->st_gid, S_ISDIR(st->st_mode) ? 0 : (long)st->st_size, S_ISDIR(st->st_mode) ? 0 : (long)st->st_blocks,
        (long)st->st_blksize);
}

CASE(what_stat_says, "stat lstat fstat newfstatat") {
    struct stat st;
    put("f", "some text");
    mkdir("d", 0711);
    mkdir("d/e", 0711);
    symlink("f", "s");
    mkfifo("p", 0622);
    R(S(stat, "f", &st));
    print(&st);
    R(S(stat, "d", &st));
    print(&st);
    R(S(stat, "s", &st));
    R(S(lstat, "s", &st));
    print(&st);
    R(S(lstat, "p", &st));
    print(&st);
    R(S(fstat, open("f", O_RDONLY), &st));
    print(&st);
    R(S(fstat, 99, &st));
    R(S(stat, "none", &st));
    R(S(stat, "f/x", &st));
    R(S(stat, "", &st));
    R(S(stat, "f", 8));
    R(S(newfstatat, AT_FDCWD, "s", &st, AT_SYMLINK_NOFOLLOW));
    V(S_ISLNK(st.st_mode));
    R(S(newfstatat, open("d", O_RDONLY), "e", &st, 0));
    R(S(newfstatat, 3, "", &st, AT_EMPTY_PATH));
    V(S_ISREG(st.st_mode));
    R(S(newfstatat, AT_FDCWD, "", &st, AT_EMPTY_PATH));
    V(S_ISDIR(st.st_mode));
    R(S(newfstatat, AT_FDCWD, "", &st, 0));
    R(S(newfstatat, AT_FDCWD, "f", &st, 1));
    R(S(newfstatat, 99, "f", &st, 0));
    R(S(stat, "/dev/null", &st));
    say("%o %lx", st.st_mode, (long)st.st_rdev);
    truncate("f", 1 << 20);
    R(S(stat, "f", &st));
    print(&st);
    struct stat one, two;
    link("f", "g");
    stat("f", &one);
    stat("g", &two);
    V(one.st_ino == two.st_ino && one.st_dev == two.st_dev);
    V(one.st_ctim.tv_sec >= one.st_mtim.tv_sec);
}

CASE(what_statx_says, "statx") {
    struct statx st;
    put("f", "some text");
    symlink("f", "s");
    R(S(statx, AT_FDCWD, "f", 0, STATX_ALL, &st));
    say("mask %x mode %o links %u size %lld blocks %lld", st.stx_mask & STATX_BASIC_STATS, st.stx_mode, st.stx_nlink,
        (long long)st.stx_size, (long long)st.stx_blocks);
    V(!!(st.stx_mask & STATX_BTIME));
    V(st.stx_btime.tv_sec <= st.stx_ctime.tv_sec);
    V(st.stx_mtime.tv_sec == st.stx_ctime.tv_sec);
    R(S(statx, AT_FDCWD, "s", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st));
    V(S_ISLNK(st.stx_mode));
    R(S(statx, open("f", O_RDONLY), "", AT_EMPTY_PATH, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "f", AT_STATX_FORCE_SYNC, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "f", AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "f", AT_STATX_DONT_SYNC | AT_STATX_FORCE_SYNC, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "f", 1, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "f", 0, 0x80000000U, &st));
    R(S(statx, AT_FDCWD, "none", 0, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "", 0, STATX_SIZE, &st));
    R(S(statx, AT_FDCWD, "f", 0, STATX_SIZE, 8));
    R(S(statx, AT_FDCWD, "/", 0, STATX_BASIC_STATS, &st));
    V(!!(st.stx_attributes & STATX_ATTR_MOUNT_ROOT));
    R(S(statx, AT_FDCWD, "/dev/null", 0, STATX_BASIC_STATS, &st));
    say("%u %u", st.stx_rdev_major, st.stx_rdev_minor);
}

CASE(file_systems, "statfs fstatfs") {
    struct statfs st;
    R(statfs("/proc", &st));
    say("%lx %ld %ld", (long)st.f_type, (long)st.f_bsize, (long)st.f_namelen);
    R(statfs("/tmp", &st));
    say("%ld %ld", (long)st.f_bsize, (long)st.f_namelen);
    V(st.f_blocks >= st.f_bfree && st.f_bfree > 0 && st.f_files >= st.f_ffree);
    R(fstatfs(open("/tmp", O_RDONLY), &st));
    V(st.f_blocks >= st.f_bavail);
    R(statfs("none", &st));
    R(S(statfs, "/tmp", 8));
    R(fstatfs(99, &st));
    int p[2];
    pipe(p);
    R(fstatfs(p[0], &st));
    say("%lx", (long)st.f_type);
}

CASE(modes_and_owners, "chmod fchmod fchmodat chown fchown lchown fchownat umask") {
    struct stat st;
    put("f", "x");
    symlink("f", "s");
    int fd = open("f", O_RDWR);
    R(chmod("f", 0604));
    R(fchmod(fd, 04755));
    R(chmod("none", 0));
    R(fchmod(99, 0));
    R(S(fchmodat, AT_FDCWD, "s", 02711));
    R(S(fchmodat, 99, "s", 02711));
    stat("f", &st);
    say("%o", st.st_mode);
    R(chown("f", 10, 20));
    stat("f", &st);
    say("%o %d:%d", st.st_mode, st.st_uid, st.st_gid);
    R(fchown(fd, -1, 21));
    R(lchown("s", 30, 31));
    lstat("s", &st);
    say("%d:%d", st.st_uid, st.st_gid);
    R(fchownat(AT_FDCWD, "s", 40, 41, AT_SYMLINK_NOFOLLOW));
    R(fchownat(fd, "", 42, -1, AT_EMPTY_PATH));
    R(fchownat(AT_FDCWD, "f", 1, 1, 1));
    R(fchownat(AT_FDCWD, "", 1, 1, 0));
    stat("f", &st);
    say("%d:%d", st.st_uid, st.st_gid);
    chmod("f", 06777);
    write(fd, "y", 1);
    stat("f", &st);
    say("%o", st.st_mode);
    V(umask(077));
    V(umask(01777));
    V(umask(022));
    chown("f", 1000, 1000);
    gid_t groups[] = {50};
    setgroups(1, groups);
    chmod("f", 06775);
    setresgid(1000, 1000, 1000);
    setresuid(1000, 1000, 1000);
    R(chown("f", 1000, 50));
    stat("f", &st);
    say("%o %d:%d", st.st_mode, st.st_uid, st.st_gid);
    R(chown("f", 1000, 51));
    R(chown("f", 0, -1));
    R(chown("f", -1, -1));
    R(chmod("f", 02775));
    stat("f", &st);
    say("%o", st.st_mode);
    R(chmod("/etc/passwd", 0777));
}

CASE(modes_by_path, "fchmodat2") {
    struct stat st;
    put("f", "x");
    symlink("f", "s");
    R(S(fchmodat2, AT_FDCWD, "s", 0600, 0));
    R(S(fchmodat2, AT_FDCWD, "s", 0640, AT_SYMLINK_NOFOLLOW));
    R(S(fchmodat2, open("f", O_PATH), "", 0611, AT_EMPTY_PATH));
    R(S(fchmodat2, AT_FDCWD, "f", 0640, 1));
    stat("f", &st);
    say("%o", st.st_mode);
}

static void times(const char *path) {
    struct stat st;
    lstat(path, &st);
    say("  %ld.%09ld %ld.%09ld", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

CASE(times_of_files, "utime utimes futimesat utimensat") {
    put("f", "x");
    symlink("f", "s");
    struct utimbuf buf = {1000, 2000};
    R(S(utime, "f", &buf));
    times("f");
    struct timeval tv[2] = {{3000, 123456}, {4000, 654321}};
    R(S(utimes, "s", tv));
    times("f");
    R(S(futimesat, AT_FDCWD, "f", tv));
    R(S(futimesat, open("f", O_RDONLY), NULL, tv));
    tv[0].tv_usec = 1000000;
    R(S(utimes, "f", tv));
    struct timespec ts[2] = {{5000, 5}, {6000, 999999999}};
    R(S(utimensat, AT_FDCWD, "s", ts, AT_SYMLINK_NOFOLLOW));
    times("s");
    ts[0].tv_nsec = UTIME_OMIT;
    R(S(utimensat, AT_FDCWD, "f", ts, 0));
    times("f");
    ts[1].tv_nsec = UTIME_NOW;
    R(S(utimensat, 3, NULL, ts, 0));
    struct stat st;
    stat("f", &st);
    V(st.st_atim.tv_sec == 3000);
    V(labs(time(NULL) - st.st_mtim.tv_sec) < 5);
    ts[1].tv_nsec = 1000000000;
    R(S(utimensat, AT_FDCWD, "f", ts, 0));
    ts[1].tv_nsec = UTIME_OMIT;
    R(S(utimensat, AT_FDCWD, "none", ts, 0));
    R(S(utimensat, AT_FDCWD, "f", NULL, 0));
    R(S(utimensat, AT_FDCWD, "none", NULL, 0));
    R(S(utimensat, AT_FDCWD, NULL, NULL, 0));
    R(S(utimensat, AT_FDCWD, "f", NULL, 1));
    R(S(utimensat, 3, "", NULL, AT_EMPTY_PATH));
    R(S(utime, "none", &buf));
    chmod("f", 0666);
    become_user();
    R(S(utime, "f", NULL));
    R(S(utime, "f", &buf));
}

CASE(attributes, "setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr "
                 "lremovexattr fremovexattr") {
    char buffer[256] = {0};
    put("f", "x");
    symlink("f", "s");
    int fd = open("f", O_RDWR);
    R(setxattr("f", "user.a", "one", 3, 0));
    R(setxattr("f", "user.a", "two", 3, XATTR_CREATE));
    R(setxattr("f", "user.b", "two", 3, XATTR_REPLACE));
    R(setxattr("s", "user.a", "three", 5, XATTR_REPLACE));
    R(fsetxattr(fd, "user.b", "", 0, 0));
    R(lsetxattr("s", "user.a", "x", 1, 0));
    R(lsetxattr("f", "user.c", "x", 1, 0));
    R(getxattr("f", "user.a", buffer, 100));
    say("[%s]", buffer);
    R(getxattr("f", "user.a", buffer, 2));
    R(getxattr("f", "user.a", NULL, 0));
    R(fgetxattr(fd, "user.b", buffer, 10));
    R(lgetxattr("s", "user.a", buffer, 10));
    R(getxattr("f", "user.none", buffer, 10));
    R(getxattr("f", "odd.a", buffer, 10));
    R(getxattr("f", "user.", buffer, 10));
    R(getxattr("f", "", buffer, 10));
    R(getxattr("none", "user.a", buffer, 10));
    R(listxattr("f", buffer, 100));
    R(listxattr("f", buffer, 5));
    R(listxattr("f", NULL, 0));
    R(llistxattr("s", buffer, 100));
    R(flistxattr(fd, buffer, 100));
    R(setxattr("f", "user.a", "x", 1, 4));
    R(setxattr("f", "user.big", buffer, 65537, 0));
    R(setxattr("f", "security.odd", "x", 1, 0));
    R(setxattr("f", "trusted.a", "x", 1, 0));
    char name[300];
    memset(name, 'n', 300);
    memcpy(name, "user.", 5);
    name[256] = 0;
    R(setxattr("f", name, "x", 1, 0) == -1 ? errno == ERANGE : 0);
    R(removexattr("f", "user.a"));
    R(removexattr("f", "user.a"));
    R(fremovexattr(fd, "user.b"));
    R(lremovexattr("f", "user.c"));
    R(lremovexattr("s", "user.c"));
    R(listxattr("f", buffer, 100));
    mkfifo("p", 0600);
    R(setxattr("p", "user.a", "x", 1, 0));
    R(fgetxattr(99, "user.a", buffer, 1));
    chmod("f", 0444);
    become_user();
    R(setxattr("f", "user.a", "x", 1, 0));
    R(getxattr("f", "user.a", buffer, 1));
}

CASE(sizes, "truncate ftruncate") {
    struct stat st;
    put("f", "0123456789");
    int fd = open("f", O_RDWR);
    R(ftruncate(fd, 4));
    show("f");
    R(ftruncate(fd, 8));
    char buffer[16];
    R(pread(fd, buffer, 16, 0));
    V(buffer[4] + buffer[7]);
    R(truncate("f", 1L << 30));
    stat("f", &st);
    V(st.st_size);
    R(ftruncate(fd, -1));
    R(truncate("f", -1));
    R(truncate(".", 0));
    R(truncate("none", 0));
    R(ftruncate(open("f", O_RDONLY), 0));
    R(ftruncate(99, 0));
    int p[2];
    pipe(p);
    R(ftruncate(p[1], 0));
    mkfifo("p", 0600);
    R(truncate("p", 0));
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    R(ftruncate(fd, 1001));
    R(ftruncate(fd, 1000));
    R(pwrite(fd, buffer, 16, 990));
    R(pwrite(fd, buffer, 16, 1000));
    chmod("f", 0444);
    become_user();
    R(truncate("f", 0));
}

CASE(space, "fallocate") {
    struct stat st;
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    R(fallocate(fd, 0, 0, 10000));
    fstat(fd, &st);
    V(st.st_size);
    V(st.st_blocks > 0);
    R(fallocate(fd, FALLOC_FL_KEEP_SIZE, 10000, 50000));
    fstat(fd, &st);
    V(st.st_size);
    char buffer[4096];
    memset(buffer, 'x', sizeof buffer);
    for (int n = 0; n < 4; n++) pwrite(fd, buffer, 4096, n * 4096);
    R(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
    R(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 4096, 4096));
    pread(fd, buffer, 1, 4095);
    V(buffer[0]);
    pread(fd, buffer, 1, 4096);
    V(buffer[0]);
    R(lseek(fd, 0, SEEK_HOLE));
    R(fallocate(fd, FALLOC_FL_ZERO_RANGE, 8192, 100));
    pread(fd, buffer, 1, 8192);
    V(buffer[0]);
    pread(fd, buffer, 1, 8292);
    V(buffer[0]);
    R(fallocate(fd, 0, 0, 0));
    R(fallocate(fd, 0, -1, 1));
    R(fallocate(fd, 1 << 20, 0, 1));
    R(fallocate(open("f", O_RDONLY), 0, 0, 1));
    R(fallocate(open(".", O_RDONLY), 0, 0, 1));
    int p[2];
    pipe(p);
    R(fallocate(p[1], 0, 0, 1));
    R(fallocate(99, 0, 0, 1));
    R(fallocate(fd, 0, LONG_MAX, 1));
}

CASE(syncing, "fsync fdatasync sync syncfs sync_file_range readahead fadvise64") {
    put("f", "x");
    int fd = open("f", O_RDWR), p[2];
    pipe(p);
    R(fsync(fd));
    R(fdatasync(fd));
    R(fsync(99));
    R(fsync(p[0]));
    R(fdatasync(open("f", O_PATH)));
    R(fsync(open(".", O_RDONLY)));
    R(S(sync));
    R(syncfs(fd));
    R(syncfs(99));
    R(sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WRITE));
    R(sync_file_range(fd, 0, 0, 7));
    R(sync_file_range(fd, 0, 1, 8));
    R(sync_file_range(fd, -1, 1, 0));
    R(sync_file_range(p[0], 0, 1, 1));
    R(readahead(fd, 0, 10));
    R(readahead(open("f", O_WRONLY), 0, 10));
    R(readahead(p[0], 0, 10));
    R(readahead(99, 0, 10));
    R(S(fadvise64, fd, 0, 0, POSIX_FADV_WILLNEED));
    R(S(fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED));
    R(S(fadvise64, fd, 0, 0, 9));
    R(S(fadvise64, fd, 0, -1, 0));
    R(S(fadvise64, p[0], 0, 0, 0));
    R(S(fadvise64, 99, 0, 0, 0));
}

CASE(directories, "getdents getdents64 getcwd chdir fchdir") {
    char buffer[4096];
    mkdir("d", 0755);
    put("d/a", "");
    put("d/b", "");
    mkdir("d/c", 0755);
    listing("d");
    int fd = open("d", O_RDONLY);
    long total = 0, calls = 0, got;
    while ((got = S(getdents64, fd, buffer, 64)) > 0) {
        for (long at = 0; at < got; at += *(unsigned short *)(buffer + at + 16)) total++;
        calls++;
    }
    V(got);
    V(total);
    V(calls > 1);
    R(S(getdents64, fd, buffer, sizeof buffer));
    lseek(fd, 0, SEEK_SET);
    R(S(getdents64, fd, buffer, 10));
    R(S(getdents64, fd, 8, sizeof buffer));
    lseek(fd, 0, SEEK_SET);
    total = 0;
    got = S(getdents, fd, buffer, sizeof buffer);
    for (long at = 0; at < got; at += *(unsigned short *)(buffer + at + 16)) total++;
    V(total);
    R(S(getdents64, open("d/a", O_RDONLY), buffer, sizeof buffer));
    R(S(getdents64, 99, buffer, sizeof buffer));
    R(chdir("d"));
    R(S(getcwd, buffer, sizeof buffer));
    say("%s", buffer);
    R(S(getcwd, buffer, 5));
    R(chdir("a"));
    R(chdir("none"));
    R(fchdir(open("/", O_RDONLY)));
    R(S(getcwd, buffer, sizeof buffer));
    R(fchdir(99));
    R(fchdir(open("/tmp/case/d/a", O_RDONLY)));
    chdir("/tmp/case/d/c");
    rmdir("/tmp/case/d/c");
    R(S(getcwd, buffer, sizeof buffer));
    R(chdir(".."));
    R(S(getcwd, buffer, sizeof buffer));
    fd = open("/tmp/case/d", O_RDONLY);
    S(getdents64, fd, buffer, sizeof buffer);
    unlink("/tmp/case/d/a");
    unlink("/tmp/case/d/b");
    rmdir("/tmp/case/d");
    R(S(getdents64, fd, buffer, sizeof buffer));
    chdir("/tmp/case");
    mkdir("locked", 0700);
    become_user();
    R(chdir("locked"));
}

CASE(another_root, "chroot") {
    mkdir("root", 0755);
    put("root/x", "inside");
    put("f", "");
    R(chroot("f"));
    R(chroot("none"));
    R(chroot("root"));
    show("/x");
    show("x");
    R(chdir("/"));
    show("../x");
    R(access("/proc", F_OK));
    become_user();
    R(chroot("/"));
}

static int fill_directory(void) {
    char name[32];
    mkdir("many", 0755);
    for (int n = 0; n < 3000; n++) {
        snprintf(name, sizeof name, "many/%d", n);
        int fd = open(name, O_CREAT | O_WRONLY | O_EXCL, 0644);
        if (fd < 0) return n;
        close(fd);
    }
    return 3000;
}

CASE(a_large_directory, "getdents64 unlinkat") {
    V(fill_directory());
    DIR *dir = opendir("many");
    int seen = 0, removed = 0;
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        seen++;
        /* Removing what has been seen must not hide the rest. */
        if (seen % 2) removed += unlinkat(dirfd(dir), entry->d_name, 0) == 0;
    }
    V(seen);
    V(removed);
    rewinddir(dir);
    seen = 0;
    while ((entry = readdir(dir))) seen++;
    V(seen);
}
