/* Signals: handlers, stacks, restarts, masks, waiting, job control. Prints what a Linux kernel makes of it. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static sigjmp_buf back;

static void fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    printf("fault %d code %d address %p\n", signal, info->si_code, signal == SIGSEGV ? info->si_addr : NULL);
    siglongjmp(back, 1);
}

static void seen(int signal, siginfo_t *info, void *context) {
    (void)context;
    printf("signal %d code %d from me %d value %d\n", signal, info->si_code, info->si_pid == getpid(),
           info->si_code == SI_QUEUE ? info->si_value.sival_int : 0);
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(signal, &action, NULL);
}

static pid_t later(int signal, int milliseconds) {
    pid_t child = fork();
    if (child == 0) {
        usleep(milliseconds * 1000);
        if (signal) kill(getppid(), signal);
        _exit(0);
    }
    return child;
}

static void reap(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
}

static void faults(void) {
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    handle(SIGSEGV, fault, SA_ONSTACK);
    handle(SIGFPE, fault, SA_ONSTACK);
    if (!sigsetjmp(back, 1)) *(volatile int *)0x1234 = 1;
    if (!sigsetjmp(back, 1)) {
        volatile int zero = 0;
        zero = 1 / zero;
    }
    if (!sigsetjmp(back, 1)) *(volatile int *)"read only" = 1;
}

static void sent_to_self(void) {
    handle(SIGUSR1, seen, SA_RESTART);
    handle(SIGUSR2, seen, SA_RESTART);
    handle(SIGRTMIN + 1, seen, 0);
    raise(SIGUSR1);
    kill(getpid(), SIGUSR2);
    for (int n = 1; n <= 3; n++) sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = n});
    double kept = 3.5;
    raise(SIGUSR1);
    printf("floating point kept: %g\n", kept * 2);
}

static void restarts(void) {
    int ends[2];
    char byte;
    pipe(ends);
    pid_t child = fork();
    if (child == 0) {
        usleep(40000);
        kill(getppid(), SIGUSR1);
        usleep(40000);
        write(ends[1], "x", 1);
        _exit(9);
    }
    ssize_t count = read(ends[0], &byte, 1);
    printf("restarted read: %zd\n", count);
    reap(child);
    handle(SIGUSR1, seen, 0);
    child = later(SIGUSR1, 40);
    count = read(ends[0], &byte, 1);
    printf("interrupted read: %zd %s\n", count, strerror(errno));
    reap(child);
    child = later(SIGUSR1, 40);
    struct timespec long_time = {5, 0}, left = {0, 0};
    int slept = nanosleep(&long_time, &left);
    printf("interrupted sleep: %d %s, some left %d\n", slept, strerror(errno), left.tv_sec == 4);
    reap(child);
}

static void masks(void) {
    sigset_t usr2, old, pending;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    sigprocmask(SIG_BLOCK, &usr2, &old);
    raise(SIGUSR2);
    sigpending(&pending);
    printf("pending: %d\n", sigismember(&pending, SIGUSR2));
    struct timespec second = {1, 0}, instant = {0, 1000000};
    siginfo_t info;
    printf("sigtimedwait: %d\n", sigtimedwait(&usr2, &info, &second));
    int none = sigtimedwait(&usr2, &info, &instant);
    printf("sigtimedwait again: %d %s\n", none, strerror(errno));
    pid_t child = later(SIGUSR2, 30);
    sigsuspend(&old);
    printf("sigsuspend: %s, blocked again %d\n", strerror(errno),
           (sigprocmask(SIG_BLOCK, NULL, &pending), sigismember(&pending, SIGUSR2)));
    reap(child);
}

static void job_control(void) {
    int status;
    pid_t child = fork();
    if (child == 0)
        for (;;) {}
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    printf("stopped: %d %d\n", WIFSTOPPED(status), WSTOPSIG(status));
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    printf("continued: %d\n", WIFCONTINUED(status));
    kill(child, SIGTERM);
    waitpid(child, &status, 0);
    printf("terminated: %d\n", WTERMSIG(status));
}

static void timers(void) {
    handle(SIGALRM, seen, 0);
    struct itimerval soon = {.it_value = {0, 20000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    pause();
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    struct itimerspec after = {.it_value = {0, 20000000}};
    timer_settime(timer, 0, &after, NULL);
    pause();
    timer_delete(timer);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    faults();
    sent_to_self();
    restarts();
    masks();
    job_control();
    timers();
    return 0;
}
