/* Making, waiting for, and ending processes and threads. */
#define FAMILY "processes"
#include "case.h"
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <poll.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

CASE(forking, "fork vfork exit exit_group wait4") {
    pid_t child = S(fork);
    if (child == 0) S(exit, 3);
    await(child);
    child = S(fork);
    if (child == 0) S(exit_group, 300);
    await(child);
    int shared = 1;
    child = vfork();
    if (child == 0) {
        shared = 2;
        _exit(4);
    }
    V(shared);
    await(child);
    child = vfork();
    if (child == 0) {
        execl("/bin/busybox", "sh", "-c", "exit 9", NULL);
        _exit(1);
    }
    await(child);
    int status = -1;
    R(S(wait4, -1, &status, 0, NULL));
    child = fork();
    if (child == 0) _exit(0);
    V(S(wait4, child, NULL, 0, NULL) == child);
    R(S(wait4, child, NULL, 0, NULL));
    R(S(wait4, -1, NULL, 1 << 20, NULL));
    R(S(wait4, INT_MIN, NULL, 0, NULL));
    child = fork();
    if (child == 0) {
        pause_ms(50);
        _exit(7);
    }
    R(S(wait4, child, &status, WNOHANG, NULL));
    V(S(wait4, 0, &status, 0, NULL) == child);
    say("%x", status);
    child = fork();
    if (child == 0) {
        setpgid(0, 0);
        _exit(8);
    }
    pause_ms(30);
    R(S(wait4, 0, &status, WNOHANG, NULL));
    V(S(wait4, -child, &status, 0, NULL) == child);
    child = fork();
    if (child == 0) _exit(0);
    pause_ms(30);
    R(S(wait4, child, 8, 0, NULL));
}

CASE(waiting_by_id, "waitid pidfd_open") {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    pid_t child = fork();
    if (child == 0) _exit(5);
    R(S(waitid, P_PID, child, &info, WEXITED | WNOWAIT, NULL));
    say("%d %d %d %d", info.si_signo, info.si_code, info.si_pid == child, info.si_status);
    memset(&info, 0, sizeof info);
    R(S(waitid, P_ALL, 0, &info, WEXITED, NULL));
    say("%d %d %d %d", info.si_signo, info.si_code, info.si_pid == child, info.si_status);
    R(S(waitid, P_ALL, 0, &info, WEXITED, NULL));
    child = fork();
    if (child == 0) pause_ms(5000);
    info.si_pid = 7;
    R(S(waitid, P_PGID, 0, &info, WEXITED | WNOHANG, NULL));
    V(info.si_pid);
    kill(child, SIGSTOP);
    R(S(waitid, P_PID, child, &info, WSTOPPED, NULL));
    say("%d %d", info.si_code, info.si_status);
    kill(child, SIGCONT);
    R(S(waitid, P_PID, child, &info, WCONTINUED, NULL));
    say("%d %d", info.si_code, info.si_status);
    int fd = S(pidfd_open, child, 0);
    kill(child, SIGKILL);
    R(S(waitid, P_PIDFD, fd, &info, WEXITED, NULL));
    say("%d %d", info.si_code, info.si_status);
    R(S(waitid, P_PIDFD, fd, &info, WEXITED, NULL));
    R(S(waitid, P_PIDFD, 99, &info, WEXITED, NULL));
    R(S(waitid, P_PIDFD, 0, &info, WEXITED, NULL));
    R(S(waitid, P_ALL, 0, &info, 0, NULL));
    R(S(waitid, P_ALL, 0, &info, WEXITED | 1 << 20, NULL));
    R(S(waitid, 9, 0, &info, WEXITED, NULL));
    R(S(waitid, P_PID, 0, &info, WEXITED, NULL));
    R(S(waitid, P_PGID, -1, &info, WEXITED, NULL));
    child = fork();
    if (child == 0) abort();
    R(S(waitid, P_PID, child, NULL, WEXITED, NULL));
    int self = S(pidfd_open, getpid(), O_NONBLOCK);
    R(S(waitid, P_PIDFD, self, &info, WEXITED, NULL));
    child = fork();
    if (child == 0) {
        pause_ms(50);
        _exit(0);
    }
    fd = S(pidfd_open, child, O_NONBLOCK);
    R(S(waitid, P_PIDFD, fd, &info, WEXITED, NULL));
    R(S(waitid, P_PID, child, &info, WEXITED, NULL));
}

static void *other_thread(void *argument) {
    for (;;) pause_ms(1000);
    return argument;
}

CASE(process_descriptors, "pidfd_open pidfd_send_signal pidfd_getfd process_mrelease") {
    R(S(pidfd_open, 0, 0));
    R(S(pidfd_open, 99999, 0));
    R(S(pidfd_open, getpid(), 1));
    pid_t child = fork();
    if (child == 0) {
        put("f", "0123456789");
        int own = open("f", O_RDWR);
        dup2(own, 40);
        lseek(own, 3, SEEK_SET);
        pause_ms(5000);
        _exit(0);
    }
    pause_ms(50);
    int fd = S(pidfd_open, child, 0);
    R(fd);
    V(fcntl(fd, F_GETFD));
    struct pollfd wait = {fd, POLLIN, 0};
    R(poll(&wait, 1, 0));
    int taken = S(pidfd_getfd, fd, 40, 0);
    R(taken);
    V(fcntl(taken, F_GETFD));
    V(lseek(taken, 0, SEEK_CUR));
    R(S(pidfd_getfd, fd, 90, 0));
    R(S(pidfd_getfd, fd, 40, 1));
    R(S(pidfd_getfd, 0, 40, 0));
    R(S(pidfd_send_signal, fd, 0, NULL, 0));
    R(S(pidfd_send_signal, fd, 65, NULL, 0));
    R(S(pidfd_send_signal, 0, SIGTERM, NULL, 0));
    R(S(pidfd_send_signal, fd, SIGTERM, NULL, 1 << 20));
    R(S(pidfd_send_signal, 99, SIGTERM, NULL, 0));
    R(S(process_mrelease, fd, 0));
    R(S(process_mrelease, fd, 1));
    R(S(process_mrelease, 99, 0));
    R(S(process_mrelease, 0, 0));
    char byte;
    R(read(fd, &byte, 1));
    R(S(pidfd_send_signal, fd, SIGTERM, NULL, 0));
    R(poll(&wait, 1, 5000));
    V(wait.revents);
    await(child);
    R(S(pidfd_send_signal, fd, SIGTERM, NULL, 0));
    R(S(pidfd_getfd, fd, 40, 0));
    R(S(process_mrelease, fd, 0));
    R(S(pidfd_open, child, 0));
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, NULL);
    fd = S(pidfd_open, getpid(), 0);
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    info.si_value.sival_int = 5;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    R(S(pidfd_send_signal, fd, SIGUSR2, &info, 0));
    _exit(0);
}

static char child_stack[65536] __attribute__((aligned(16)));
static volatile int seen;

static int body(void *argument) {
    seen++;
    return (int)(long)argument;
}

static int sleeps(void *argument) {
    pause_ms(50);
    return (int)(long)argument;
}

CASE(cloning, "clone") {
    char *top = child_stack + sizeof child_stack;
    int parent_tid = 0, child_tid = 0, fd = -1;
    pid_t child = clone(body, top, SIGCHLD, (void *)5);
    await(child);
    V(seen);
    child = clone(body, top, CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)6);
    V(seen);
    await(child);
    child = clone(body, top, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, NULL, &parent_tid, NULL, &child_tid);
    V(parent_tid == child);
    await(child);
    child = clone(sleeps, top, CLONE_PIDFD | SIGCHLD, (void *)7, &fd);
    V(fcntl(fd, F_GETFD));
    siginfo_t info;
    R(S(waitid, P_PIDFD, fd, &info, WEXITED, NULL));
    V(info.si_status);
    signal(SIGUSR1, SIG_IGN);
    child = clone(body, top, CLONE_FILES | CLONE_FS | SIGUSR1, (void *)8);
    R(waitpid(child, NULL, 0));
    V(waitpid(child, NULL, __WCLONE) == child);
    child = clone(body, top, CLONE_VFORK | SIGCHLD, (void *)3);
    await(child);
    child = clone(body, top, CLONE_PARENT | SIGCHLD, (void *)3);
    R(waitpid(child, NULL, 0));
    R(S(clone, CLONE_THREAD, top, 0, 0, 0));
    R(S(clone, CLONE_SIGHAND, top, 0, 0, 0));
    R(S(clone, CLONE_THREAD | CLONE_SIGHAND, top, 0, 0, 0));
    R(S(clone, CLONE_FS | CLONE_NEWNS, top, 0, 0, 0));
    R(S(clone, CLONE_PIDFD | CLONE_PARENT_SETTID, top, &fd, 0, 0));
    R(S(clone, CLONE_PIDFD | CLONE_DETACHED, top, &fd, 0, 0));
    become_user();
    R(S(clone, CLONE_NEWNS | SIGCHLD, top, 0, 0, 0));
    R(S(clone, CLONE_NEWPID | SIGCHLD, top, 0, 0, 0));
}

static long clone3(struct clone_args *args, size_t size) { return S(clone3, args, size); }

CASE(cloning_anew, "clone3") {
    int tid = 0, fd = -1;
    struct clone_args args = {.flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .exit_signal = SIGCHLD};
    args.pidfd = (uintptr_t)&fd;
    args.parent_tid = (uintptr_t)&tid;
    pid_t child = clone3(&args, sizeof args);
    if (child == 0) _exit(5);
    V(child == tid);
    V(fcntl(fd, F_GETFD));
    await(child);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, (void (*)(int))body);
    args = (struct clone_args){.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
    child = clone3(&args, sizeof args);
    if (child == 0) {
        struct sigaction old;
        sigaction(SIGUSR1, NULL, &old);
        V(old.sa_handler == SIG_IGN);
        sigaction(SIGUSR2, NULL, &old);
        V(old.sa_handler == SIG_DFL);
        _exit(0);
    }
    await(child);
    args = (struct clone_args){.exit_signal = SIGCHLD, .flags = CLONE_CLEAR_SIGHAND | CLONE_SIGHAND | CLONE_VM};
    R(clone3(&args, sizeof args));
    args = (struct clone_args){.exit_signal = 65};
    R(clone3(&args, sizeof args));
    args = (struct clone_args){.exit_signal = SIGCHLD, .flags = SIGCHLD};
    R(clone3(&args, sizeof args));
    args = (struct clone_args){.exit_signal = SIGCHLD, .stack = 4096};
    R(clone3(&args, sizeof args));
    args = (struct clone_args){.exit_signal = SIGCHLD, .stack_size = 4096};
    R(clone3(&args, sizeof args));
    R(clone3(&args, 8));
    R(clone3(&args, 5000));
    R(clone3((void *)8, 64));
    args = (struct clone_args){.exit_signal = SIGCHLD, .flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM};
    R(clone3(&args, sizeof args));
}

static void *thread_exits(void *argument) {
    S(exit, 0);
    return argument;
}

static void *thread_execs(void *argument) {
    execl("/bin/busybox", "sh", "-c", "echo from a thread; exit 6", NULL);
    return argument;
}

static void leader_exits(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, NULL);
    pthread_create(&thread, NULL, thread_execs, NULL);
    S(exit, 1);
}

static void all_end(void) {
    pthread_t thread;
    for (int n = 0; n < 3; n++) pthread_create(&thread, NULL, other_thread, NULL);
    S(exit_group, 11);
}

CASE(threads, "clone exit exit_group set_tid_address set_robust_list get_robust_list") {
    pthread_t thread;
    pthread_create(&thread, NULL, thread_exits, NULL);
    R(pthread_join(thread, NULL));
    in_child(leader_exits);
    in_child(all_end);
    int tid;
    V(S(set_tid_address, &tid) == getpid());
    struct { void *head; long offset; void *pending; } head = {&head, 0, NULL}, *got = NULL;
    size_t size = 0;
    R(S(set_robust_list, &head, 24));
    R(S(set_robust_list, &head, 23));
    R(S(get_robust_list, 0, &got, &size));
    V((void *)got == &head && size == 24);
    R(S(get_robust_list, 99999, &got, &size));
    R(S(get_robust_list, 0, 8, &size));
}

CASE(executing, "execve execveat") {
    char *arguments[] = {"sh", "-c", "echo $0 $X; exit 3", NULL}, *environment[] = {"X=y", NULL};
    pid_t child = fork();
    if (child == 0) {
        S(execve, "/bin/sh", arguments, environment);
        _exit(1);
    }
    await(child);
    put("script", "#!/bin/sh\necho script $0 $1\n");
    R(S(execve, "script", arguments, environment));
    chmod("script", 0755);
    put("plain", "text");
    chmod("plain", 0755);
    put("bad", "#!/none/x\n");
    chmod("bad", 0755);
    put("loop", "#!loop\n");
    chmod("loop", 0755);
    R(S(execve, "none", arguments, environment));
    R(S(execve, "plain", arguments, environment));
    R(S(execve, "bad", arguments, environment));
    R(S(execve, "loop", arguments, environment));
    R(S(execve, "/tmp", arguments, environment));
    R(S(execve, "script/x", arguments, environment));
    R(S(execve, 8, arguments, environment));
    R(S(execve, "script", 8, environment));
    char *large = malloc(200000);
    memset(large, 'x', 199999);
    large[199999] = 0;
    char *too_large[] = {"script", large, NULL};
    R(S(execve, "script", too_large, environment));
    child = fork();
    if (child == 0) {
        S(execve, "script", arguments, environment);
        _exit(1);
    }
    await(child);
    int fd = open("/bin/busybox", O_PATH | O_CLOEXEC), dir = open("/bin", O_RDONLY | O_CLOEXEC);
    child = fork();
    if (child == 0) {
        S(execveat, fd, "", arguments, environment, AT_EMPTY_PATH);
        _exit(1);
    }
    await(child);
    child = fork();
    if (child == 0) {
        S(execveat, dir, "sh", arguments, environment, 0);
        _exit(1);
    }
    await(child);
    R(S(execveat, dir, "sh", arguments, environment, AT_SYMLINK_NOFOLLOW));
    R(S(execveat, dir, "sh", arguments, environment, 1));
    R(S(execveat, fd, "", arguments, environment, 0));
    R(S(execveat, 99, "sh", arguments, environment, 0));
    int writer = open("script", O_RDWR);
    R(S(execve, "script", arguments, environment));
    close(writer);
    /* Close on exec, ignored signals, pending ones. */
    child = fork();
    if (child == 0) {
        signal(SIGUSR1, SIG_IGN);
        signal(SIGUSR2, (void (*)(int))body);
        dup2(1, 20);
        fcntl(20, F_SETFD, FD_CLOEXEC);
        dup2(1, 21);
        char *check[] = {"sh", "-c", "ls /proc/self/fd | busybox tr '\\n' ' '; busybox grep Sig[IC] /proc/self/status", NULL};
        S(execve, "/bin/sh", check, (char *[]){"PATH=/bin", NULL});
        _exit(1);
    }
    await(child);
}

CASE(comparing, "kcmp") {
    int fd = open("f", O_RDWR | O_CREAT, 0600), same = dup(fd), other = open("f", O_RDWR);
    pid_t self = getpid();
    R(S(kcmp, self, self, KCMP_FILE, fd, same));
    V(S(kcmp, self, self, KCMP_FILE, fd, other) != 0);
    R(S(kcmp, self, self, KCMP_FILE, fd, 99));
    R(S(kcmp, self, self, KCMP_VM, 0, 0));
    pid_t child = fork();
    if (child == 0) pause_ms(5000);
    V(S(kcmp, self, child, KCMP_VM, 0, 0) != 0);
    R(S(kcmp, self, child, KCMP_FILE, fd, fd));
    V(S(kcmp, self, child, KCMP_FILES, 0, 0) != 0);
    V(S(kcmp, self, child, KCMP_FS, 0, 0) != 0);
    V(S(kcmp, self, child, KCMP_SIGHAND, 0, 0) != 0);
    R(S(kcmp, self, self, 99, 0, 0));
    R(S(kcmp, self, 99999, KCMP_VM, 0, 0));
    kill(child, SIGKILL);
    await(child);
}

CASE(memory_of_others, "process_vm_readv process_vm_writev") {
    static char text[8192] = "before";
    char buffer[64] = {0};
    int p[2];
    pipe(p);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        read(p[0], &byte, 1);
        say("[%s]", text);
        _exit(0);
    }
    struct iovec local[2] = {{buffer, 3}, {buffer + 3, 4}}, remote[2] = {{text, 7}, {(void *)8, 4}};
    R(S(process_vm_readv, child, local, 2, remote, 1, 0));
    say("[%s]", buffer);
    R(S(process_vm_readv, child, local, 2, remote + 1, 1, 0));
    strcpy(buffer, "after!");
    R(S(process_vm_writev, child, local, 2, remote, 1, 0));
    R(S(process_vm_readv, getpid(), local, 1, remote, 1, 0));
    R(S(process_vm_readv, 99999, local, 1, remote, 1, 0));
    R(S(process_vm_readv, child, local, 1, remote, 1, 1));
    R(S(process_vm_readv, child, local, 1025, remote, 1, 0));
    R(S(process_vm_readv, child, 8, 1, remote, 1, 0));
    R(S(process_vm_readv, child, local, 0, remote, 1, 0));
    R(S(process_vm_writev, child, &remote[1], 1, remote, 1, 0));
    write(p[1], "x", 1);
    await(child);
    become_user();
    R(S(process_vm_readv, 1, local, 1, remote, 1, 0));
}

static void orphans(void) {
    pid_t middle = fork();
    if (middle == 0) {
        if (fork() == 0) {
            pause_ms(50);
            V(getppid());
            _exit(0);
        }
        _exit(0);
    }
    await(middle);
}

CASE(orphans_and_reapers, "prctl getppid wait4") {
    orphans();
    pause_ms(100);
    R(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int reaps = 0;
    R(prctl(PR_GET_CHILD_SUBREAPER, &reaps));
    V(reaps);
    orphans();
    R(wait(NULL) > 0);
    signal(SIGCHLD, SIG_IGN);
    pid_t child = fork();
    if (child == 0) _exit(1);
    R(waitpid(child, NULL, 0));
    signal(SIGCHLD, SIG_DFL);
    R(prctl(PR_SET_PDEATHSIG, SIGTERM));
    int number = 0;
    R(prctl(PR_GET_PDEATHSIG, &number));
    V(number);
    R(prctl(PR_SET_PDEATHSIG, 65));
}
