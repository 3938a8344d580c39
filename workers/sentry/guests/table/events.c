/* Waiting for several files, and files that only wait. */
#define FAMILY "events"
#include "case.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static volatile int handled;
static void on_signal(int number) { handled = number; }

static void handle(int number, int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

/* Sends this process a signal after some time. */
static pid_t later(int number, long milliseconds) {
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        pause_ms(milliseconds);
        kill(self, number);
        _exit(0);
    }
    return child;
}

static void done(pid_t child) { waitpid(child, NULL, 0); }

CASE(polling, "poll ppoll") {
    int p[2], q[2];
    pipe(p);
    pipe(q);
    struct pollfd fds[4] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {-1, POLLIN, 7}, {99, POLLIN, 0}};
    R(S(poll, fds, 4, 0));
    say("%x %x %x %x", fds[0].revents, fds[1].revents, fds[2].revents, fds[3].revents);
    R(S(poll, fds, 1, 0));
    long begin = now_ms();
    R(S(poll, fds, 1, 30));
    V(now_ms() - begin >= 30);
    write(p[1], "x", 1);
    R(S(poll, fds, 1, -1));
    V(fds[0].revents);
    close(p[1]);
    R(S(poll, fds, 1, -1));
    V(fds[0].revents);
    close(q[0]);
    struct pollfd out = {q[1], POLLOUT, 0};
    R(S(poll, &out, 1, -1));
    V(out.revents);
    R(S(poll, NULL, 0, 1));
    R(S(poll, 8, 1, 0));
    R(S(poll, fds, 2000, 0));
    struct timespec time = {0, 20000000}, bad = {0, -1};
    fds[0].fd = -1;
    begin = now_ms();
    R(S(ppoll, fds, 1, &time, NULL, 8));
    V(now_ms() - begin >= 20);
    V(time.tv_sec * 1000000000 + time.tv_nsec);
    R(S(ppoll, fds, 1, &bad, NULL, 8));
    /* A blocked signal that the mask lets through ends the wait. */
    sigset_t set, empty;
    sigemptyset(&empty);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle(SIGUSR1, SA_RESTART);
    raise(SIGUSR1);
    V(handled);
    R(S(ppoll, fds, 1, NULL, &empty, 8));
    V(handled);
    R(S(ppoll, fds, 1, NULL, &empty, 7));
    pid_t child = later(SIGUSR1, 20);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    R(S(poll, fds, 1, 5000));
    done(child);
    mkdir("d", 0755);
    struct pollfd file = {open("d", O_RDONLY), POLLIN | POLLOUT, 0};
    R(S(poll, &file, 1, 0));
    V(file.revents);
}

CASE(selecting, "select pselect6") {
    int p[2];
    pipe(p);
    fd_set in, out, except;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&except);
    FD_SET(p[0], &in), FD_SET(p[1], &out);
    struct timeval time = {0, 0};
    R(S(select, p[1] + 1, &in, &out, &except, &time));
    V(FD_ISSET(p[0], &in) * 10 + FD_ISSET(p[1], &out));
    FD_SET(p[0], &in);
    time.tv_usec = 20000;
    long begin = now_ms();
    R(S(select, p[1] + 1, &in, NULL, NULL, &time));
    V(now_ms() - begin >= 20);
    V(time.tv_usec);
    write(p[1], "x", 1);
    FD_SET(p[0], &in);
    R(S(select, p[1] + 1, &in, NULL, NULL, NULL));
    V(FD_ISSET(p[0], &in));
    FD_ZERO(&in);
    FD_SET(50, &in);
    R(S(select, 51, &in, NULL, NULL, &time));
    R(S(select, -1, NULL, NULL, NULL, &time));
    R(S(select, 5, 8, NULL, NULL, &time));
    time.tv_usec = -1;
    R(S(select, 0, NULL, NULL, NULL, &time));
    struct timespec spec = {0, 10000000};
    R(S(pselect6, 0, NULL, NULL, NULL, &spec, NULL));
    spec.tv_nsec = 1000000000;
    R(S(pselect6, 0, NULL, NULL, NULL, &spec, NULL));
    sigset_t set, empty;
    sigemptyset(&empty);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle(SIGUSR1, SA_RESTART);
    raise(SIGUSR1);
    struct { const sigset_t *set; size_t size; } mask = {&empty, 8};
    R(S(pselect6, 0, NULL, NULL, NULL, NULL, &mask));
    V(handled);
    mask.size = 4;
    R(S(pselect6, 0, NULL, NULL, NULL, NULL, &mask));
}

CASE(epoll, "epoll_create epoll_create1 epoll_ctl epoll_wait") {
    int p[2], q[2];
    pipe(p);
    pipe(q);
    R(S(epoll_create, 0));
    R(S(epoll_create, 1));
    R(S(epoll_create1, 1));
    int e = S(epoll_create1, EPOLL_CLOEXEC);
    V(fcntl(e, F_GETFD));
    struct epoll_event event = {EPOLLIN, {.u64 = 42}}, out[4];
    R(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
    R(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
    R(epoll_ctl(e, EPOLL_CTL_MOD, q[0], &event));
    R(epoll_ctl(e, EPOLL_CTL_DEL, q[0], NULL));
    R(epoll_ctl(e, EPOLL_CTL_ADD, e, &event));
    R(epoll_ctl(e, EPOLL_CTL_ADD, 99, &event));
    R(epoll_ctl(99, EPOLL_CTL_ADD, p[0], &event));
    R(epoll_ctl(p[0], EPOLL_CTL_ADD, q[0], &event));
    R(epoll_ctl(e, 9, q[0], &event));
    R(epoll_ctl(e, EPOLL_CTL_ADD, open("/etc/passwd", O_RDONLY), &event));
    R(epoll_ctl(e, EPOLL_CTL_ADD, q[0], (void *)8));
    R(S(epoll_wait, e, out, 4, 0));
    write(p[1], "x", 1);
    R(S(epoll_wait, e, out, 4, -1));
    say("%x %ld", out[0].events, (long)out[0].data.u64);
    R(S(epoll_wait, e, out, 4, -1));
    event.events = EPOLLIN | EPOLLET;
    R(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
    R(S(epoll_wait, e, out, 4, 0));
    R(S(epoll_wait, e, out, 4, 0));
    write(p[1], "x", 1);
    R(S(epoll_wait, e, out, 4, 0));
    event.events = EPOLLIN | EPOLLONESHOT;
    R(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
    R(S(epoll_wait, e, out, 4, 0));
    write(p[1], "x", 1);
    R(S(epoll_wait, e, out, 4, 0));
    R(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
    R(S(epoll_wait, e, out, 4, 0));
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
    R(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
    R(epoll_ctl(e, EPOLL_CTL_ADD, q[0], &event));
    event.events = EPOLLIN;
    R(epoll_ctl(e, EPOLL_CTL_MOD, q[0], &event));
    R(epoll_ctl(e, EPOLL_CTL_DEL, q[0], NULL));
    R(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
    event.events = EPOLLOUT;
    event.data.u64 = 43;
    R(epoll_ctl(e, EPOLL_CTL_ADD, q[1], &event));
    R(S(epoll_wait, e, out, 1, 0));
    R(S(epoll_wait, e, out, 4, 0));
    R(S(epoll_wait, e, out, 0, 0));
    R(S(epoll_wait, e, 8, 4, 0));
    R(S(epoll_wait, p[0], out, 4, 0));
    R(S(epoll_wait, 99, out, 4, 0));
    close(q[0]);
    S(epoll_wait, e, out, 4, 0);
    close(q[1]);
    R(S(epoll_wait, e, out, 4, 0));
    close(p[1]);
    R(S(epoll_wait, e, out, 4, 0));
    V(out[0].events);
    /* Nested. */
    int outer = epoll_create1(0);
    event.events = EPOLLIN;
    event.data.u64 = 7;
    R(epoll_ctl(outer, EPOLL_CTL_ADD, e, &event));
    R(S(epoll_wait, outer, out, 4, 0));
    R(epoll_ctl(e, EPOLL_CTL_ADD, outer, &event));
    struct pollfd fd = {outer, POLLIN, 0};
    R(poll(&fd, 1, 0));
    V(fd.revents);
}

CASE(epoll_with_masks, "epoll_pwait epoll_pwait2") {
    int p[2], e = epoll_create1(0);
    pipe(p);
    struct epoll_event event = {EPOLLIN, {.u64 = 1}}, out;
    epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event);
    sigset_t set, empty;
    sigemptyset(&empty);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle(SIGUSR1, SA_RESTART);
    raise(SIGUSR1);
    R(S(epoll_pwait, e, &out, 1, 10, NULL, 8));
    V(handled);
    R(S(epoll_pwait, e, &out, 1, -1, &empty, 8));
    V(handled);
    R(S(epoll_pwait, e, &out, 1, -1, &empty, 4));
    struct timespec time = {0, 20000000}, bad = {0, 1000000000};
    long begin = now_ms();
    R(S(epoll_pwait2, e, &out, 1, &time, NULL, 8));
    V(now_ms() - begin >= 20);
    R(S(epoll_pwait2, e, &out, 1, &bad, NULL, 8));
    raise(SIGUSR1);
    R(S(epoll_pwait2, e, &out, 1, NULL, &empty, 8));
    write(p[1], "x", 1);
    R(S(epoll_pwait2, e, &out, 1, NULL, NULL, 0));
    V(out.events);
}

CASE(eventfds, "eventfd eventfd2") {
    uint64_t value = 0;
    int fd = S(eventfd, 3);
    R(read(fd, &value, 8));
    V(value);
    fd = S(eventfd2, 0, EFD_NONBLOCK | EFD_CLOEXEC);
    R(read(fd, &value, 8));
    value = 5;
    R(write(fd, &value, 8));
    R(write(fd, &value, 8));
    R(read(fd, &value, 100));
    V(value);
    R(read(fd, &value, 4));
    R(write(fd, &value, 4));
    value = -1;
    R(write(fd, &value, 8));
    value = -2;
    R(write(fd, &value, 8));
    value = 1;
    R(write(fd, &value, 8));
    struct pollfd poll_fd = {fd, POLLIN | POLLOUT, 0};
    R(poll(&poll_fd, 1, 0));
    V(poll_fd.revents);
    read(fd, &value, 8);
    R(poll(&poll_fd, 1, 0));
    V(poll_fd.revents);
    fd = S(eventfd2, 2, EFD_SEMAPHORE | EFD_NONBLOCK);
    R(read(fd, &value, 8));
    V(value);
    R(read(fd, &value, 8));
    R(read(fd, &value, 8));
    R(S(eventfd2, 0, 2));
    R(lseek(fd, 0, SEEK_SET));
    R(pread(fd, &value, 8, 0));
}

CASE(timerfds, "timerfd_create timerfd_settime timerfd_gettime") {
    uint64_t count = 0;
    struct itimerspec set = {{0, 0}, {0, 20000000}}, old;
    R(timerfd_create(99, 0));
    R(timerfd_create(CLOCK_MONOTONIC, 1));
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), other = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    R(timerfd_create(CLOCK_BOOTTIME, 0));
    R(timerfd_settime(fd, 0, &set, &old));
    V(old.it_value.tv_sec + old.it_value.tv_nsec);
    R(timerfd_gettime(fd, &old));
    V(old.it_value.tv_sec == 0 && old.it_value.tv_nsec > 0);
    R(read(fd, &count, 8));
    V(count);
    R(timerfd_gettime(fd, &old));
    V(old.it_value.tv_sec + old.it_value.tv_nsec);
    R(read(other, &count, 8));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct itimerspec absolute = {{0, 5000000}, {now.tv_sec - 1, now.tv_nsec}};
    R(timerfd_settime(other, TFD_TIMER_ABSTIME, &absolute, NULL));
    pause_ms(20);
    R(read(other, &count, 8));
    V(count > 3);
    struct itimerspec stop = {{0, 0}, {0, 0}};
    R(timerfd_settime(other, 0, &stop, &old));
    V(old.it_interval.tv_nsec);
    R(read(other, &count, 8));
    set.it_value.tv_nsec = 1000000000;
    R(timerfd_settime(fd, 0, &set, NULL));
    set.it_value.tv_nsec = 1;
    R(timerfd_settime(fd, 8, &set, NULL));
    R(timerfd_settime(0, 0, &set, NULL));
    R(timerfd_settime(99, 0, &set, NULL));
    R(S(timerfd_settime, fd, 0, 8, NULL));
    R(timerfd_gettime(0, &old));
    R(read(fd, &count, 4));
    set.it_value.tv_nsec = 10000000;
    timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &set, NULL);
    struct pollfd poll_fd = {fd, POLLIN, 0};
    R(poll(&poll_fd, 1, 1000));
    V(poll_fd.revents);
}

CASE(signalfds, "signalfd signalfd4") {
    struct signalfd_siginfo info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = S(signalfd4, -1, &set, 8, SFD_NONBLOCK | SFD_CLOEXEC);
    R(read(fd, &info, sizeof info));
    raise(SIGUSR1);
    R(read(fd, &info, sizeof info));
    say("%d %d %d", info.ssi_signo, info.ssi_code, info.ssi_pid == getpid());
    union sigval value = {.sival_int = 77};
    sigqueue(getpid(), SIGRTMIN, value);
    value.sival_int = 78;
    sigqueue(getpid(), SIGRTMIN, value);
    struct signalfd_siginfo both[3];
    R(read(fd, both, sizeof both));
    say("%d %d %d", both[0].ssi_int, both[1].ssi_int, both[1].ssi_code);
    R(read(fd, &info, 10));
    struct pollfd poll_fd = {fd, POLLIN, 0};
    R(poll(&poll_fd, 1, 0));
    kill(getpid(), SIGUSR1);
    R(poll(&poll_fd, 1, 0));
    sigset_t other;
    sigemptyset(&other);
    sigaddset(&other, SIGUSR2);
    R(S(signalfd, fd, &other, 8));
    R(poll(&poll_fd, 1, 0));
    R(S(signalfd, fd, &other, 4));
    R(S(signalfd, 0, &other, 8));
    R(S(signalfd4, 99, &other, 8, 0));
    R(S(signalfd4, -1, &other, 8, 1));
    R(write(fd, &info, 8));
    /* A child's own signals. */
    R(S(signalfd, fd, &set, 8));
    pid_t child = fork();
    if (child == 0) {
        R(read(fd, &info, sizeof info));
        raise(SIGUSR1);
        R(read(fd, &info, sizeof info));
        _exit(0);
    }
    await(child);
    R(read(fd, &info, sizeof info));
}

static void drain(int fd) {
    char buffer[4096] __attribute__((aligned(8)));
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0) {
        say("  %s", strerrorname_np(errno));
        return;
    }
    for (char *at = buffer; at < buffer + got;) {
        struct inotify_event *event = (void *)at;
        say("  wd %d mask %x cookie %d %s", event->wd, event->mask, event->cookie != 0, event->len ? event->name : "");
        at += sizeof *event + event->len;
    }
}

CASE(inotify, "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch") {
    V(S(inotify_init) > 2);
    R(S(inotify_init1, 1));
    int fd = S(inotify_init1, IN_NONBLOCK | IN_CLOEXEC);
    mkdir("d", 0755);
    put("f", "x");
    R(inotify_add_watch(fd, "d", IN_ALL_EVENTS));
    R(inotify_add_watch(fd, "f", IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE));
    R(inotify_add_watch(fd, "none", IN_MODIFY));
    R(inotify_add_watch(fd, "f", 0));
    R(inotify_add_watch(fd, "f", IN_ONLYDIR | IN_MODIFY));
    R(inotify_add_watch(0, "f", IN_MODIFY));
    R(inotify_add_watch(99, "f", IN_MODIFY));
    drain(fd);
    put("d/new", "text");
    drain(fd);
    rename("d/new", "d/renamed");
    drain(fd);
    mkdir("d/sub", 0755);
    link("f", "d/link");
    symlink("f", "d/symlink");
    drain(fd);
    chmod("f", 0600);
    drain(fd);
    show("d/renamed");
    drain(fd);
    rename("d/renamed", "out");
    drain(fd);
    unlink("d/link");
    unlink("d/symlink");
    rmdir("d/sub");
    drain(fd);
    int pending = -1;
    put("f", "y");
    V(ioctl(fd, FIONREAD, &pending));
    V(pending);
    drain(fd);
    char byte;
    put("f", "z");
    R(read(fd, &byte, 1));
    drain(fd);
    R(inotify_rm_watch(fd, 2));
    drain(fd);
    R(inotify_rm_watch(fd, 2));
    R(inotify_rm_watch(0, 1));
    R(inotify_add_watch(fd, "f", IN_ONESHOT | IN_OPEN));
    show("f");
    show("f");
    drain(fd);
    R(inotify_add_watch(fd, "out", IN_DELETE_SELF | IN_MOVE_SELF));
    rename("out", "out2");
    unlink("out2");
    drain(fd);
    rmdir("d");
    drain(fd);
}
