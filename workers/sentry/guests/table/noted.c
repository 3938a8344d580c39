/* What the table notes as different from Linux: the errors that it names. Run in a sandbox only; a case says
 * nothing unless something is not as noted. */
#define FAMILY "noted"
#include "case.h"
#include <sys/ipc.h>
#include <sys/shm.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/ioprio.h>
#include <linux/membarrier.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* N: a call that fails with an error. */
#define N(call, error) (errno = 0, noted(#call, (long)(call), error))

static void noted(const char *text, long value, int error) {
    if (value != -1 || errno != error)
        say("%s = %ld %s, not %s", text, value, value == -1 ? strerrorname_np(errno) : "", strerrorname_np(error));
}

static long mapped(void *address) { return address == MAP_FAILED ? -1 : 0; }

CASE(memory, "mmap madvise memfd_create futex membarrier arch_prctl shmget") {
    N(shmget(IPC_PRIVATE, 2 << 20, IPC_CREAT | SHM_HUGETLB | 0600), ENOMEM);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    N(mapped(mmap(NULL, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0)), ENOMEM);
    N(madvise(page, 4096, MADV_REMOVE), EINVAL);
    N(madvise(page, 4096, 25), EINVAL);
    N(S(memfd_create, "x", MFD_HUGETLB), EINVAL);
    int word = 0;
    N(S(futex, &word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), ENOSYS);
    N(S(futex, &word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0), ENOSYS);
    N(S(futex, &word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), ENOSYS);
    N(S(membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0), EINVAL);
    N(S(membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0), EINVAL);
    N(S(arch_prctl, 0x1012, 0), EINVAL);
    N(S(arch_prctl, 0x5001, 1), EINVAL);
}

CASE(processes, "clone clone3 unshare seccomp prctl sched_setscheduler sched_setattr sched_setparam ioprio_set") {
    struct clone_args args = {.exit_signal = SIGCHLD, .flags = CLONE_VM};
    N(S(clone3, &args, sizeof args), ENOSYS);
    N(S(clone, CLONE_VM | SIGCHLD, 0, 0, 0, 0), ENOSYS);
    pid_t wanted = 77;
    args = (struct clone_args){.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    N(S(clone3, &args, sizeof args), EPERM);
    args = (struct clone_args){.exit_signal = SIGCHLD, .flags = CLONE_INTO_CGROUP};
    N(S(clone3, &args, sizeof args), EPERM);
    N(S(clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0), EPERM);
    N(S(clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0), EPERM);
    N(unshare(CLONE_NEWUSER), EPERM);
    struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog program = {1, &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    N(S(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
    N(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), EINVAL);
    N(prctl(PR_SET_MM, PR_SET_MM_MAP, 0, 0, 0), EPERM);
    struct sched_param one = {1};
    N(S(sched_setscheduler, 0, SCHED_FIFO, &one), EPERM);
    struct sched_param real = {1};
    N(S(sched_setparam, 0, &real), EINVAL);
    uint64_t deadline[7] = {48 | 6UL << 32};
    N(S(sched_setattr, 0, deadline, 0), EPERM);
    N(S(ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0)), EPERM);
}

CASE(files, "mknod mknodat renameat2 fallocate fcntl ioctl openat2") {
    N(S(mknod, "null", S_IFCHR | 0600, 0x103), EPERM);
    N(S(mknodat, AT_FDCWD, "loop", S_IFBLK | 0600, 0x700), EPERM);
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    N(S(renameat2, AT_FDCWD, "f", AT_FDCWD, "g", RENAME_WHITEOUT), EINVAL);
    N(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
    N(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096), EOPNOTSUPP);
    N(fallocate(fd, FALLOC_FL_UNSHARE_RANGE, 0, 4096), EOPNOTSUPP);
    N(fcntl(fd, F_SETLEASE, F_RDLCK), EINVAL);
    N(fcntl(open(".", O_RDONLY), F_NOTIFY, 1), EINVAL);
    N(ioctl(fd, 0xc020660b, 0), ENOTTY);
    struct open_how how = {.resolve = RESOLVE_CACHED};
    N(S(openat2, AT_FDCWD, "f", &how, sizeof how), EAGAIN);
}

CASE(sockets, "socket connect sendto recvfrom sendmsg recvmsg sendmmsg setsockopt getsockopt") {
    int s[2];
    char byte = 0;
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    N(send(s[0], &byte, 1, MSG_OOB), EOPNOTSUPP);
    N(recv(s[0], &byte, 1, MSG_OOB), EOPNOTSUPP);
    struct iovec part = {&byte, 1};
    struct mmsghdr message = {{.msg_iov = &part, .msg_iovlen = 1}};
    N(sendmsg(s[0], &message.msg_hdr, MSG_OOB), EOPNOTSUPP);
    N(sendmmsg(s[0], &message, 1, MSG_OOB), EOPNOTSUPP);
    N(recvmsg(s[0], &message.msg_hdr, MSG_OOB), EOPNOTSUPP);
    int on = 1;
    socklen_t length = sizeof on;
    N(setsockopt(s[0], SOL_SOCKET, SO_BINDTODEVICE, &on, 4), ENOPROTOOPT);
    N(getsockopt(s[0], SOL_SOCKET, SO_BINDTODEVICE, &on, &length), ENOPROTOOPT);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    N(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&address, sizeof address), ENETUNREACH);
    N(sendto(socket(AF_INET, SOCK_DGRAM, 0), &byte, 1, 0, (void *)&address, sizeof address), ENETUNREACH);
    N(socket(AF_VSOCK, SOCK_STREAM, 0), EAFNOSUPPORT);
}

/* fs.nr_open is what tables of descriptors hold; as many entries of a poll may all name one file. */
CASE(many_descriptors, "") {
    enum { MANY = 65536, TIMES = 10 };
    struct rlimit limit = {MANY, MANY};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) say("no %d descriptors: %s", MANY, strerrorname_np(errno));
    int p[2];
    pipe(p);
    struct pollfd *files = calloc(MANY + 1, sizeof *files);
    for (int n = 0; n <= MANY; n++) files[n] = (struct pollfd){p[n % 2], n % 2 ? 0 : POLLIN, 0};
    long begin = now_ms();
    for (int n = 0; n < TIMES; n++) {
        long ready = S(poll, files, MANY, 1);
        if (ready != 0) say("%ld are ready", ready);
    }
    if (now_ms() - begin > 10000) say("a poll takes %ld ms", (now_ms() - begin) / TIMES);
    write(p[1], "x", 1);
    long ready = S(poll, files, MANY, -1);
    if (ready != MANY / 2) say("%ld are ready, not half", ready);
    N(S(poll, files, MANY + 1, 0), EINVAL);
    limit.rlim_max = MANY + 1;
    N(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
    limit.rlim_max = RLIM_INFINITY;
    N(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
}
