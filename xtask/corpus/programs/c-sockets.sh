#!/bin/bash
# what: a C program on Unix sockets, System V shared memory and futexes between processes: descriptors, credentials
# image: toolchain
# weight: light
cat > u.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#define SAY(what, call) do { errno = 0; long r_ = (long)(call); printf("%s %ld %s\n", what, r_, errno ? strerrorname_np(errno) : "ok"); } while (0)
static void pass(int s, int fd) { char c[CMSG_SPACE(4)] = {0}, x = 'x'; struct iovec v = {&x, 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c}; struct cmsghdr *h = CMSG_FIRSTHDR(&m); *h = (struct cmsghdr){CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS}; memcpy(CMSG_DATA(h), &fd, 4); sendmsg(s, &m, 0); }
static int take(int s) { char c[256], x; struct iovec v = {&x, 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c}; if (recvmsg(s, &m, MSG_CMSG_CLOEXEC) < 0) return -1; int fd = -1; for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) { if (h->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(h), 4); if (h->cmsg_type == SCM_CREDENTIALS) { struct ucred u; memcpy(&u, CMSG_DATA(h), sizeof u); printf("cred %d %d\n", u.pid > 0, u.uid); } } return fd; }
int main(void) {
  int st, p[2]; setvbuf(stdout, 0, _IOLBF, 0); for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type += type == SOCK_DGRAM ? 3 : 1) { socketpair(AF_UNIX, type, 0, p); write(p[0], "one", 3); write(p[0], "two", 3); char b[20]; SAY("read", read(p[1], b, 20)); SAY("peek", recv(p[1], b, 1, MSG_PEEK | MSG_DONTWAIT)); shutdown(p[0], SHUT_WR); SAY("after", recv(p[1], b, 20, MSG_DONTWAIT)); SAY("eof", recv(p[1], b, 20, MSG_DONTWAIT)); signal(SIGPIPE, SIG_IGN); SAY("pipe", send(p[0], "x", 1, 0)); close(p[0]); close(p[1]); }
  socketpair(AF_UNIX, SOCK_STREAM, 0, p); setsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &(int){1}, 4); if (!fork()) { int f = memfd_create("f", 0); write(f, "from child", 10); pass(p[0], f); _exit(0); } int f = take(p[1]); char b[100] = ""; pread(f, b, 99, 0); puts(b); wait(&st); struct ucred u; socklen_t l = sizeof u; getsockopt(p[0], SOL_SOCKET, SO_PEERCRED, &u, &l); printf("peer %d\n", u.pid == getpid());
  int s = socket(AF_UNIX, SOCK_STREAM, 0); struct sockaddr_un a = {AF_UNIX, "/tmp/u.sock"}; SAY("bind", bind(s, (void *)&a, sizeof a)); SAY("listen", listen(s, 2)); SAY("inuse", bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof a)); for (int i = 0; i < 5; i++) if (!fork()) { int c = socket(AF_UNIX, SOCK_STREAM, 0); if (connect(c, (void *)&a, sizeof a)) _exit(1); char x[8]; sprintf(x, "%d", i); write(c, x, 1); read(c, x, 1); _exit(x[0]); } int sum = 0; for (int i = 0; i < 5; i++) { int c = accept4(s, 0, 0, SOCK_CLOEXEC); char x; read(c, &x, 1); sum += x - '0'; write(c, &x, 1); close(c); } int codes = 0; while (wait(&st) > 0) codes += WEXITSTATUS(st) - '0'; printf("sums %d %d\n", sum, codes); struct sockaddr_un ab = {AF_UNIX, "\0abstract"}; int d = socket(AF_UNIX, SOCK_DGRAM, 0); SAY("abstract", bind(d, (void *)&ab, 11)); SAY("to", sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "hey", 3, 0, (void *)&ab, 11)); SAY("refused", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&(struct sockaddr_un){AF_UNIX, "/tmp/none"}, 20)); SAY("inet", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&(struct sockaddr){AF_INET, "\0\x50\x7f\0\0\1"}, 16)); struct pollfd pf[2] = {{d, POLLIN}, {s, POLLIN}}; SAY("poll", poll(pf, 2, 50)); printf("%d %d\n", pf[0].revents, pf[1].revents);
  int id = shmget(0x1234, 100000, IPC_CREAT | IPC_EXCL | 0600); SAY("shmget", id >= 0); SAY("exists", shmget(0x1234, 10, IPC_CREAT | IPC_EXCL | 0600)); SAY("large", shmget(0x1234, 200000, 0)); SAY("find", shmget(0x1234, 0, 0) == id); char *m = shmat(id, 0, 0), *r = shmat(id, 0, SHM_RDONLY); strcpy(m, "shared"); puts(r); if (!fork()) { strcpy(m + 10, "child"); struct shmid_ds ds; shmctl(id, IPC_STAT, &ds); printf("attached %ld %ld %o\n", (long)ds.shm_nattch, (long)ds.shm_segsz, ds.shm_perm.mode); shmdt(m); SAY("twice", shmdt(m)); shmctl(id, IPC_STAT, &ds); printf("attached %ld\n", (long)ds.shm_nattch); _exit(0); } wait(&st); puts(r + 10); struct shmid_ds ds; shmctl(id, IPC_STAT, &ds); printf("attached %ld last %d\n", (long)ds.shm_nattch, ds.shm_lpid > 1); SAY("rmid", shmctl(id, IPC_RMID, 0)); SAY("key gone", shmget(0x1234, 0, 0)); shmctl(id, IPC_STAT, &ds); printf("dest %o\n", ds.shm_perm.mode); SAY("again", shmat(id, 0, 0) != (void *)-1); SAY("fixed", shmat(id, m, 0)); SAY("remap", shmat(id, m, SHM_REMAP) == m); shmdt(r); if (!fork()) { *(volatile char *)r = 1; } wait(&st); printf("unmapped %d\n", WTERMSIG(st)); SAY("bad", shmat(999999, 0, 0)); SAY("zero", shmget(IPC_PRIVATE, 0, IPC_CREAT)); SAY("none", shmget(0x77, 10, 0));
  int *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); if (!fork()) { usleep(30000); w[0] = 1; syscall(SYS_futex, w, FUTEX_WAKE, 10, 0, 0, 0); _exit(0); } while (!w[0]) syscall(SYS_futex, w, FUTEX_WAIT, 0, 0, 0, 0); puts("woken"); wait(0); pthread_mutexattr_t ma; pthread_mutexattr_init(&ma); pthread_mutexattr_setpshared(&ma, 1); pthread_mutexattr_setrobust(&ma, 1); pthread_mutex_t *mu = (void *)(w + 16); pthread_mutex_init(mu, &ma); if (!fork()) { pthread_mutex_lock(mu); _exit(0); } wait(0); int e = pthread_mutex_lock(mu); printf("robust %s\n", e == EOWNERDEAD ? "owner dead" : "no"); pthread_mutex_consistent(mu); pthread_mutex_unlock(mu); sem_t *sem = sem_open("/corpus", O_CREAT, 0600, 0); if (!fork()) { sem_post(sem); _exit(0); } sem_wait(sem); wait(0); sem_unlink("/corpus"); puts("posted"); SAY("timeout", syscall(SYS_futex, w + 900, FUTEX_WAIT, 0, &(struct timespec){0, 20000000}, 0, 0)); return 0;
}
C
gcc -O1 -w -pthread -o u u.c && timeout 60 ./u; echo "status $?"
