#!/bin/bash
# what: a C program on files: O_TMPFILE, links, holes, splice, sendfile, copy_file_range, xattrs, locks, mappings, statx
# image: toolchain
# weight: light
# files: d
mkdir d; cat > f.c <<'C'
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#define SAY(what, call) do { errno = 0; long r_ = (long)(call); printf("%s %ld %s\n", what, r_, errno ? strerrorname_np(errno) : "ok"); } while (0)
int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0); char b[9000]; struct stat s; int t = open("d", O_TMPFILE | O_RDWR, 0640); write(t, "tmpfile", 7); char p[64]; sprintf(p, "/proc/self/fd/%d", t); SAY("linkat", linkat(AT_FDCWD, p, AT_FDCWD, "d/linked", AT_SYMLINK_FOLLOW)); stat("d/linked", &s); printf("%o %ld %ld\n", s.st_mode, (long)s.st_size, (long)s.st_nlink);
  int f = open("d/holes", O_RDWR | O_CREAT, 0600); pwrite(f, "a", 1, 0); pwrite(f, "b", 1, 1 << 20); SAY("hole", lseek(f, 0, SEEK_HOLE) > 0 && lseek(f, 0, SEEK_HOLE) <= 65536); SAY("data", lseek(f, 100000, SEEK_DATA) > 100000); SAY("punch", fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)); pread(f, b, 1, 0); printf("%d\n", b[0]); SAY("zero", fallocate(f, FALLOC_FL_ZERO_RANGE, 1 << 20, 10)); SAY("grow", fallocate(f, 0, 0, 2 << 20)); fstat(f, &s); printf("%ld\n", (long)s.st_size); SAY("trunc", ftruncate(f, 3)); SAY("negative", ftruncate(f, -1));
  int g = open("d/copy", O_RDWR | O_CREAT | O_EXCL, 0644), src = open("/bin/true", O_RDONLY); fstat(src, &s); SAY("cfr", copy_file_range(src, 0, g, 0, s.st_size, 0) == s.st_size); loff_t o = 0; SAY("sendfile", sendfile(g, src, &o, 1000)); int pp[2]; pipe(pp); SAY("splice", splice(src, &(loff_t){0}, pp[1], 0, 5000, 0)); SAY("tee", ({ int q[2]; pipe(q); tee(pp[0], q[1], 3000, 0); })); SAY("out", splice(pp[0], 0, g, &(loff_t){10}, 5000, 0)); SAY("vmsplice", vmsplice(pp[1], &(struct iovec){"hello", 5}, 1, 0)); SAY("excl", open("d/copy", O_CREAT | O_EXCL, 0)); SAY("dir", open("d", O_WRONLY)); SAY("nofollow", (symlink("copy", "d/sym"), open("d/sym", O_NOFOLLOW))); SAY("path", open("d/sym", O_PATH | O_NOFOLLOW) > 0);
  SAY("setxattr", setxattr("d/copy", "user.k", "value", 5, 0)); SAY("create", setxattr("d/copy", "user.k", "x", 1, XATTR_CREATE)); SAY("getxattr", getxattr("d/copy", "user.k", b, sizeof b)); SAY("list", listxattr("d/copy", b, sizeof b) >= 7); SAY("remove", removexattr("d/copy", "user.k")); SAY("none", getxattr("d/copy", "user.k", b, 9)); SAY("long", mkdir("d/"
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0));
  int l1 = open("d/lock", O_RDWR | O_CREAT, 0600), l2 = open("d/lock", O_RDWR); SAY("flock", flock(l1, LOCK_EX)); SAY("again", flock(l2, LOCK_EX | LOCK_NB)); flock(l1, LOCK_UN); struct flock k = {F_WRLCK, SEEK_SET, 0, 10}; SAY("setlk", fcntl(l1, F_SETLK, &k)); if (!fork()) { struct flock q = {F_RDLCK, SEEK_SET, 5, 1}; SAY("child", fcntl(l2, F_SETLK, &q)); q.l_type = F_WRLCK; fcntl(l2, F_GETLK, &q); printf("%d %ld %ld %d\n", q.l_type, (long)q.l_start, (long)q.l_len, q.l_pid == getppid()); fflush(stdout); _exit(0); } wait(0); k = (struct flock){F_WRLCK, SEEK_SET, 20, 5}; SAY("ofd", fcntl(l1, F_OFD_SETLK, &k)); k = (struct flock){F_WRLCK, SEEK_SET, 20, 5}; SAY("ofd2", fcntl(l2, F_OFD_SETLK, &k));
  char *m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, g, 0); memcpy(m + 100, "mapped", 6); SAY("msync", msync(m, 8192, MS_SYNC)); pread(g, b, 6, 100); b[6] = 0; puts(b); pwrite(g, "written", 7, 200); printf("%.7s\n", m + 200); char *pr = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, g, 0); pr[0] = 'Z'; pread(g, b, 1, 0); printf("%d\n", b[0] == 'Z'); SAY("mremap", mremap(m, 8192, 4096, 0) == m); SAY("rdonly", mmap(0, 4096, PROT_WRITE, MAP_SHARED, src, 0)); SAY("memfd", ({ int x = memfd_create("x", MFD_ALLOW_SEALING); ftruncate(x, 100); fcntl(x, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW); ftruncate(x, 50); }));
  int e = epoll_create1(0), ev = eventfd(3, EFD_NONBLOCK), tf = timerfd_create(CLOCK_MONOTONIC, 0); struct epoll_event ee = {EPOLLIN | EPOLLET, {.u32 = 7}}, got[4]; epoll_ctl(e, EPOLL_CTL_ADD, ev, &ee); SAY("epoll", epoll_wait(e, got, 4, 100)); SAY("edge", epoll_wait(e, got, 4, 10)); eventfd_write(ev, 1); SAY("edge2", epoll_wait(e, got, 4, 10)); SAY("file", epoll_ctl(e, EPOLL_CTL_ADD, g, &ee)); struct itimerspec it = {{0, 0}, {0, 10000000}}; timerfd_settime(tf, 0, &it, 0); unsigned long n; SAY("timerfd", read(tf, &n, 8)); printf("%lu\n", n); SAY("eventfd", read(ev, &n, 8)); printf("%lu\n", n);
  struct statx sx; SAY("statx", statx(AT_FDCWD, "d/copy", 0, STATX_ALL, &sx)); printf("%o %d %d\n", sx.stx_mode, sx.stx_nlink, (sx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS); mkdir("d/many", 0700); for (int i = 0; i < 3000; i++) { sprintf(p, "d/many/file%d", i); close(open(p, O_CREAT | O_WRONLY, 0600)); } DIR *dir = opendir("d/many"); int c = 0; while (readdir(dir)) c++; printf("%d\n", c); rewinddir(dir); for (struct dirent *x; (x = readdir(dir));) if (x->d_name[0] != '.' && strtol(x->d_name + 4, 0, 10) % 10) unlinkat(dirfd(dir), x->d_name, 0); rewinddir(dir); c = 0; while (readdir(dir)) c++; printf("%d\n", c); SAY("rmdir", rmdir("d/many")); SAY("rename", rename("d/many", "d/fewer")); SAY("noreplace", renameat2(AT_FDCWD, "d/copy", AT_FDCWD, "d/lock", RENAME_NOREPLACE)); SAY("exchange", renameat2(AT_FDCWD, "d/copy", AT_FDCWD, "d/lock", RENAME_EXCHANGE)); SAY("loop", rename("d", "d/fewer/x")); SAY("usr", (rename("/usr/bin/bc", "/usr/bin/cb"), access("/usr/bin/cb", X_OK))); SAY("gone", access("/usr/bin/bc", F_OK)); struct timespec ts[2] = {{1000, 5}, {2000, 6}}; utimensat(AT_FDCWD, "d/lock", ts, 0); stat("d/lock", &s); printf("%ld %ld\n", s.st_mtim.tv_sec, s.st_mtim.tv_nsec); return 0;
}
C
gcc -O1 -w -o f f.c && ./f; echo "status $?"
