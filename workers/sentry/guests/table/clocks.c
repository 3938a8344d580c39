/* Clocks, sleeping, timers, and what was used. */
#define FAMILY "clocks"
#include "case.h"
#include <linux/time_types.h>
#include <sys/sysinfo.h>
#include <sys/times.h>

static volatile int handled, last_value, last_code, seen[65];
static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context;
    handled++;
    seen[number]++;
    last_value = info->si_value.sival_int;
    last_code = info->si_code;
}

static void handle(int number) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
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

CASE(reading, "clock_gettime clock_getres gettimeofday time") {
    struct timespec a, b;
    static const int clocks[] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, -1};
    for (int n = 0; n < 12; n++) {
        say("clock %d", clocks[n]);
        OK(S(clock_gettime, clocks[n], &a));
        OK(S(clock_getres, clocks[n], &b));
        if (clocks[n] < 8 && clocks[n] >= 0) V(b.tv_sec == 0 && b.tv_nsec >= 1);
    }
    S(clock_gettime, CLOCK_MONOTONIC, &a);
    S(clock_gettime, CLOCK_MONOTONIC, &b);
    V(b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec));
    struct timeval tv;
    struct timezone zone = {7, 7};
    R(S(gettimeofday, &tv, &zone));
    V(zone.tz_minuteswest);
    V(labs(tv.tv_sec - S(time, NULL)) <= 1);
    time_t now;
    V(S(time, &now) == now);
    R(S(gettimeofday, NULL, NULL));
    R(S(clock_gettime, 0, 8));
    R(S(clock_gettime, 2, 8));
    clockid_t own;
    R(clock_getcpuclockid(0, &own));
    R(clock_gettime(own, &a));
    R(clock_getcpuclockid(99999, &own));
    R(pthread_getcpuclockid(pthread_self(), &own));
    R(clock_gettime(own, &a));
}

static void *burns(void *argument) {
    burn(60);
    return argument;
}

CASE(processor_time, "clock_gettime getrusage times") {
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    pause_ms(50);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    V(after.tv_sec - before.tv_sec == 0 && after.tv_nsec - before.tv_nsec < 30000000);
    burn(50);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    V(before.tv_nsec >= 45000000);
    pthread_t thread;
    pthread_create(&thread, NULL, burns, NULL);
    pthread_join(thread, NULL);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    V(after.tv_nsec < 100000000);
    struct rusage self, children, own;
    R(S(getrusage, RUSAGE_SELF, &self));
    R(S(getrusage, RUSAGE_THREAD, &own));
    long self_us = self.ru_utime.tv_usec + self.ru_stime.tv_usec, own_us = own.ru_utime.tv_usec + own.ru_stime.tv_usec;
    V(self_us >= 90000);
    V(own_us < self_us - 40000);
    V(self.ru_maxrss > 100 && self.ru_minflt > 10);
    pid_t child = fork();
    if (child == 0) {
        burn(60);
        _exit(0);
    }
    R(S(getrusage, RUSAGE_CHILDREN, &children));
    V(children.ru_utime.tv_usec + children.ru_stime.tv_usec);
    struct rusage waited = {0};
    wait4(child, NULL, 0, &waited);
    V(waited.ru_utime.tv_usec + waited.ru_stime.tv_usec >= 50000);
    R(S(getrusage, RUSAGE_CHILDREN, &children));
    V(children.ru_utime.tv_usec + children.ru_stime.tv_usec >= 50000);
    R(S(getrusage, 9, &self));
    R(S(getrusage, RUSAGE_SELF, 8));
    struct tms tms;
    V(S(times, &tms) > 0);
    V(tms.tms_utime + tms.tms_stime >= 9);
    V(tms.tms_cutime + tms.tms_cstime >= 5);
    V(S(times, NULL) > 0);
    R(S(times, 8));
}

CASE(sleeping, "nanosleep clock_nanosleep") {
    struct timespec time = {0, 20000000}, bad = {0, 1000000000}, negative = {-1, 0}, none = {0, 0}, left;
    long begin = now_ms();
    R(S(nanosleep, &time, NULL));
    V(now_ms() - begin >= 20);
    R(S(nanosleep, &bad, NULL));
    R(S(nanosleep, &negative, NULL));
    R(S(nanosleep, &none, NULL));
    R(S(nanosleep, 8, NULL));
    begin = now_ms();
    R(S(clock_nanosleep, CLOCK_REALTIME, 0, &time, NULL));
    V(now_ms() - begin >= 20);
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += 20000000;
    if (at.tv_nsec >= 1000000000) at.tv_sec++, at.tv_nsec -= 1000000000;
    begin = now_ms();
    R(S(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL));
    V(now_ms() - begin >= 19);
    R(S(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &none, NULL));
    R(S(clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &time, NULL));
    R(S(clock_nanosleep, 99, 0, &time, NULL));
    R(S(clock_nanosleep, CLOCK_MONOTONIC, 0, &bad, NULL));
    R(S(clock_nanosleep, CLOCK_BOOTTIME, 0, &time, NULL));
    handle(SIGALRM);
    struct itimerval soon = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    time = (struct timespec){2, 500000000};
    R(S(nanosleep, &time, &left));
    V(left.tv_sec);
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += 5;
    setitimer(ITIMER_REAL, &soon, NULL);
    R(S(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL));
}

CASE(interval_timers, "setitimer getitimer alarm") {
    struct itimerval set = {{0, 10000}, {0, 20000}}, old = {{9, 9}, {9, 9}};
    handle(SIGALRM);
    handle(SIGVTALRM);
    handle(SIGPROF);
    R(S(setitimer, ITIMER_REAL, &set, &old));
    V(old.it_value.tv_sec + old.it_value.tv_usec);
    R(S(getitimer, ITIMER_REAL, &old));
    V(old.it_value.tv_usec > 0 && old.it_value.tv_usec <= 20000 && old.it_interval.tv_usec == 10000);
    for (int n = 0; n < 50 && handled < 3; n++) pause_ms(50);
    V(handled > 2);
    V(last_code == SI_KERNEL);
    struct itimerval stop = {{0, 0}, {0, 0}};
    R(S(setitimer, ITIMER_REAL, &stop, &old));
    V(old.it_interval.tv_usec);
    handled = 0;
    /* The split into user and system time is a matter of ticks: wide margins. */
    set = (struct itimerval){{0, 0}, {0, 200000}};
    R(S(setitimer, ITIMER_VIRTUAL, &set, NULL));
    pause_ms(300);
    V(seen[SIGVTALRM]);
    R(S(getitimer, ITIMER_VIRTUAL, &old));
    V(old.it_value.tv_usec > 0);
    for (int n = 0; n < 40 && !seen[SIGVTALRM]; n++) burn(50);
    V(seen[SIGVTALRM]);
    R(S(setitimer, ITIMER_PROF, &set, NULL));
    for (int n = 0; n < 40 && !seen[SIGPROF]; n++) burn(50);
    V(seen[SIGPROF]);
    R(S(getitimer, ITIMER_PROF, &old));
    V(old.it_value.tv_usec);
    R(S(setitimer, 3, &set, NULL));
    R(S(getitimer, -1, &old));
    set.it_value.tv_usec = 1000000;
    R(S(setitimer, ITIMER_REAL, &set, NULL));
    R(S(setitimer, ITIMER_REAL, 8, NULL));
    R(S(getitimer, ITIMER_REAL, 8));
    R(S(alarm, 100));
    R(S(alarm, 1));
    pid_t child = fork();
    if (child == 0) {
        R(S(alarm, 0));
        _exit(0);
    }
    await(child);
    handled = 0;
    pause();
    V(handled);
    R(S(alarm, 0));
}

static volatile timer_t current;

CASE(posix_timers, "timer_create timer_settime timer_gettime timer_getoverrun timer_delete") {
    int id = -1, second = -1;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    event.sigev_value.sival_int = 99;
    handle(SIGRTMIN);
    handle(SIGALRM);
    R(S(timer_create, CLOCK_MONOTONIC, &event, &id));
    R(S(timer_create, CLOCK_REALTIME, NULL, &second));
    V(id * 10 + second);
    struct itimerspec set = {{0, 0}, {0, 20000000}}, old;
    R(S(timer_settime, id, 0, &set, &old));
    V(old.it_value.tv_nsec);
    R(S(timer_gettime, id, &old));
    V(old.it_value.tv_nsec > 0);
    pause_ms(60);
    say("%d %d %d", handled, last_value, last_code);
    R(S(timer_getoverrun, id));
    R(S(timer_gettime, id, &old));
    V(old.it_value.tv_nsec);
    /* Overruns while it is blocked. */
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    set = (struct itimerspec){{0, 5000000}, {0, 5000000}};
    R(S(timer_settime, id, 0, &set, NULL));
    pause_ms(52);
    handled = 0;
    siginfo_t info;
    V(sigwaitinfo(&mask, &info) == SIGRTMIN);
    V(info.si_overrun >= 5 && info.si_overrun <= 30);
    V(S(timer_getoverrun, id) >= 5);
    set = (struct itimerspec){{0, 0}, {0, 0}};
    R(S(timer_settime, id, 0, &set, &old));
    V(old.it_interval.tv_nsec);
    sigprocmask(SIG_UNBLOCK, &mask, NULL);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    set = (struct itimerspec){{0, 0}, {now.tv_sec - 5, 0}};
    handled = 0;
    R(S(timer_settime, second, TIMER_ABSTIME, &set, NULL));
    pause_ms(20);
    V(handled);
    R(S(timer_delete, second));
    R(S(timer_delete, second));
    R(S(timer_gettime, second, &old));
    R(S(timer_getoverrun, 99));
    set.it_value.tv_nsec = -1;
    R(S(timer_settime, id, 0, &set, NULL));
    R(S(timer_create, 99, NULL, &second));
    event.sigev_notify = 99;
    R(S(timer_create, CLOCK_REALTIME, &event, &second));
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = 99;
    R(S(timer_create, CLOCK_REALTIME, &event, &second));
    event = (struct sigevent){.sigev_notify = SIGEV_NONE};
    R(S(timer_create, CLOCK_REALTIME, &event, &second));
    set = (struct itimerspec){{0, 0}, {100, 0}};
    R(S(timer_settime, second, 0, &set, NULL));
    R(S(timer_gettime, second, &old));
    V(old.it_value.tv_sec >= 99);
    event = (struct sigevent){.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = gettid();
    R(S(timer_create, CLOCK_MONOTONIC, &event, &second));
    event._sigev_un._tid = 1;
    R(S(timer_create, CLOCK_MONOTONIC, &event, &second));
    /* Processor time. */
    event = (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    R(S(timer_create, CLOCK_PROCESS_CPUTIME_ID, &event, &second));
    set = (struct itimerspec){{0, 0}, {0, 40000000}};
    handled = 0;
    R(S(timer_settime, second, 0, &set, NULL));
    pause_ms(100);
    V(handled);
    burn(80);
    V(handled);
    pid_t child = fork();
    if (child == 0) {
        R(S(timer_gettime, id, &old));
        _exit(0);
    }
    await(child);
}

static void over_the_limit(void) {
    handle(SIGXCPU);
    struct rlimit limit = {1, 2};
    S(setrlimit, RLIMIT_CPU, &limit);
    /* The host counts it in ticks, which lag behind. */
    for (int n = 0; n < 40 && !handled; n++) burn(100);
    V(handled);
    burn(5000);
}

CASE(limit_of_processor_time, "setrlimit") {
    in_child(over_the_limit);
}

CASE(the_system, "sysinfo") {
    struct sysinfo info;
    R(S(sysinfo, &info));
    V(info.uptime >= 0 && info.totalram > 0 && info.freeram <= info.totalram && info.procs > 0);
    V(info.mem_unit);
    R(S(sysinfo, 8));
}
