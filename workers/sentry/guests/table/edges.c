/* What has gone wrong before: limits of values, and things that happen at the same time. */
#define FAMILY "edges"
#include "case.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static volatile int handled, blocked_inside;

static int is_blocked(int number) {
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    return sigismember(&now, number);
}

static void on_signal(int number) {
    handled++;
    blocked_inside = is_blocked(SIGUSR2);
}

static void handle(int number) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(number, &action, NULL);
}

/* Uses processor time. */
static void burn(long milliseconds) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    long end = now.tv_sec * 1000 + now.tv_nsec / 1000000 + milliseconds;
    do {
        for (volatile int n = 0; n < 100000; n++) {
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    } while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < end);
}

static int ends[2], queue;

/* Waits for the pipe under another mask, in one of three ways; with nowhere to write to if it is to fail. */
static long wait_masked(int way, long milliseconds, const sigset_t *mask, int fails) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    if (way == 0) {
        struct pollfd file = {ends[0], POLLIN, 0};
        return S(ppoll, fails ? (void *)8 : &file, 1, &time, mask, 8);
    }
    if (way == 1) {
        struct {
            const sigset_t *mask;
            size_t size;
        } masked = {mask, 8};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(ends[0], &set);
        return S(pselect6, ends[0] + 1, fails ? (void *)8 : &set, NULL, NULL, &time, &masked);
    }
    struct epoll_event event;
    return S(epoll_pwait, queue, fails ? (void *)8 : &event, 1, milliseconds, mask, 8);
}

/* The mask of a wait holds no longer than the wait. */
CASE(masks_of_waits, "") {
    sigset_t own, none, other;
    sigemptyset(&none);
    sigemptyset(&own);
    sigaddset(&own, SIGUSR1);
    sigemptyset(&other);
    sigaddset(&other, SIGUSR2);
    handle(SIGUSR1);
    pipe(ends);
    queue = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.u64 = 1}};
    epoll_ctl(queue, EPOLL_CTL_ADD, ends[0], &event);
    char byte;
    for (int way = 0; way < 3; way++) {
        say("way %d", way);
        handled = 0;
        sigprocmask(SIG_SETMASK, &own, NULL);
        write(ends[1], "x", 1);
        R(wait_masked(way, 1000, &none, 0));
        V(is_blocked(SIGUSR1));
        R(wait_masked(way, 1000, &none, 1));
        V(is_blocked(SIGUSR1));
        read(ends[0], &byte, 1);
        R(wait_masked(way, 10, &none, 0));
        V(is_blocked(SIGUSR1));
        raise(SIGUSR1);
        V(handled);
        R(wait_masked(way, 10, &own, 0));
        V(handled);
        /* A mask that was set between two waits stays. */
        sigaddset(&own, SIGTERM);
        sigprocmask(SIG_SETMASK, &own, NULL);
        write(ends[1], "x", 1);
        R(wait_masked(way, 1000, &none, 0));
        V(handled);
        read(ends[0], &byte, 1);
        R(wait_masked(way, 1000, &other, 0));
        V(handled);
        V(blocked_inside);
        V(is_blocked(SIGUSR1) * 100 + is_blocked(SIGUSR2) * 10 + is_blocked(SIGTERM));
        /* Without any time, poll and select still see to signals. */
        raise(SIGUSR1);
        R(wait_masked(way, 0, &none, 0));
        V(handled);
        sigprocmask(SIG_SETMASK, &none, NULL);
    }
}

/* Times beyond what a clock can count. */
CASE(longest_times, "") {
    struct timespec longest = {INT64_MAX, 999999999};
    struct itimerval forever = {{INT64_MAX, 0}, {0, 1000}}, old;
    handle(SIGALRM);
    R(S(setitimer, ITIMER_REAL, &forever, NULL));
    pause_ms(30);
    R(S(getitimer, ITIMER_REAL, &old));
    V(old.it_interval.tv_sec);
    V(old.it_value.tv_sec > 1000000000);
    V(handled);
    forever.it_interval.tv_sec = INT64_MAX / 1000000 + 1;
    handle(SIGPROF);
    R(S(setitimer, ITIMER_PROF, &forever, NULL));
    struct sigevent silent = {.sigev_notify = SIGEV_NONE}, loud = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    int id;
    /* 2^64 nanoseconds. */
    struct itimerspec round = {{18446744073, 709551616}, {0, 1}}, seen;
    static const int clocks[] = {CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC};
    for (int n = 0; n < 6; n++) {
        R(S(timer_create, clocks[n / 2], n % 2 ? &loud : &silent, &id));
        round.it_interval.tv_sec = 18446744073 + n % 2;
        R(S(timer_settime, id, 0, &round, NULL));
    }
    burn(60);
    for (int n = 0; n < 6; n++) {
        R(S(timer_gettime, n, &seen));
        say("%ld %ld", (long)seen.it_interval.tv_sec, seen.it_interval.tv_nsec);
    }
    for (int n = 0; n < 6; n++) {
        seen.it_value = longest;
        R(S(timer_settime, n, n % 2 ? TIMER_ABSTIME : 0, &seen, NULL));
        R(S(timer_gettime, n, &seen));
        V(seen.it_value.tv_sec > 1000000000);
    }
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    uint64_t count = 0;
    R(timerfd_settime(fd, 0, &round, NULL));
    pause_ms(5);
    R(read(fd, &count, 8));
    V(count);
    R(timerfd_gettime(fd, &seen));
    say("%ld %ld", (long)seen.it_interval.tv_sec, seen.it_interval.tv_nsec);
    V(seen.it_value.tv_sec > 1000000000);
    round.it_value = longest;
    R(timerfd_settime(fd, 0, &round, NULL));
    R(timerfd_settime(fd, TFD_TIMER_ABSTIME, &round, NULL));
    R(timerfd_gettime(fd, &seen));
    V(seen.it_value.tv_sec > 1000000000);
    for (int n = 0; n < 6; n++) R(S(timer_delete, n));
    S(alarm, 0);
    R(S(alarm, UINT_MAX));
    R(S(alarm, 0));
    int p[2];
    pipe(p);
    write(p[1], "x", 1);
    struct pollfd file = {p[0], POLLIN, 0};
    R(S(ppoll, &file, 1, &longest, NULL, 8));
    longest = (struct timespec){INT64_MAX, 999999999};
    struct timeval wide = {INT64_MAX, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(p[0], &set);
    R(S(select, p[0] + 1, &set, NULL, NULL, &wide));
    R(S(pselect6, p[0] + 1, &set, NULL, NULL, &longest, NULL));
    longest = (struct timespec){INT64_MAX, 999999999};
    queue = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.u64 = 1}};
    epoll_ctl(queue, EPOLL_CTL_ADD, p[0], &event);
    R(S(epoll_pwait2, queue, &event, 1, &longest, NULL, 8));
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarms, NULL);
    ualarm(20000, 0);
    V(S(rt_sigtimedwait, &alarms, NULL, &longest, 8) == SIGALRM);
    sigprocmask(SIG_UNBLOCK, &alarms, NULL);
    ualarm(20000, 0);
    R(S(nanosleep, &longest, NULL));
    ualarm(20000, 0);
    R(S(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &longest, NULL));
    int sockets[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, sockets);
    struct timeval most = {INT64_MAX, 999999};
    R(setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most));
    ualarm(20000, 0);
    R(read(sockets[0], &count, 1));
}

static void late_limit(void) {
    handle(SIGXCPU);
    burn(2200);
    struct rlimit limit = {1, 3};
    R(S(setrlimit, RLIMIT_CPU, &limit));
    for (int n = 0; n < 40 && !handled; n++) burn(100);
    V(handled > 0);
    burn(4000);
}

/* A limit of processor time that is far behind what has been used already. */
CASE(late_limits, "") { in_child(late_limit); }

enum { CHILDREN = 400 };
static volatile int reaped, forked;
static volatile char seen_twice, has_seen[1 << 22];

static void *reaps(void *flags) {
    while (__atomic_load_n(&reaped, __ATOMIC_SEQ_CST) < CHILDREN) {
        pid_t child = waitpid(-1, NULL, (int)(long)flags);
        if (child > 0) {
            if (__atomic_exchange_n(&has_seen[child], 1, __ATOMIC_SEQ_CST)) seen_twice = 1;
            __atomic_add_fetch(&reaped, 1, __ATOMIC_SEQ_CST);
        }
    }
    return NULL;
}

/* A child that ends belongs to one of those who wait for it. */
CASE(two_who_wait, "") {
    pthread_t waits, looks;
    pthread_create(&waits, NULL, reaps, 0);
    pthread_create(&looks, NULL, reaps, (void *)WNOHANG);
    for (int n = 0; n < CHILDREN; n++) {
        if (fork() == 0) _exit(0);
    }
    pthread_join(waits, NULL);
    pthread_join(looks, NULL);
    V(reaped);
    V(seen_twice);
    R(waitpid(-1, NULL, 0));
}
