/* Signals. */
#define FAMILY "signals"
#include "case.h"
#include <linux/futex.h>
#include <sys/socket.h>
#include <ucontext.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

static volatile int handled, code;
static void on_signal(int number) { handled = handled * 100 + number; }
static void on_info(int number, siginfo_t *info, void *context) {
    (void)context;
    handled = number;
    code = info->si_code;
    say("  signal %d code %d from %d value %d", number, info->si_code, info->si_pid == getpid(), info->si_value.sival_int);
}

static void handle(int number, int flags) {
    struct sigaction action = {.sa_flags = flags};
    if (flags & SA_SIGINFO)
        action.sa_sigaction = on_info;
    else
        action.sa_handler = on_signal;
    sigaction(number, &action, NULL);
}

static sigset_t set_of(int one, int two) {
    sigset_t set;
    sigemptyset(&set);
    if (one) sigaddset(&set, one);
    if (two) sigaddset(&set, two);
    return set;
}

CASE(actions, "rt_sigaction rt_sigreturn") {
    struct kernel_action action = {0}, old;
    R(S(rt_sigaction, SIGUSR1, NULL, &old, 8));
    V(old.handler == SIG_DFL);
    R(S(rt_sigaction, SIGKILL, &action, NULL, 8));
    R(S(rt_sigaction, SIGKILL, NULL, &old, 8));
    R(S(rt_sigaction, 0, NULL, &old, 8));
    R(S(rt_sigaction, 65, NULL, &old, 8));
    R(S(rt_sigaction, 64, NULL, &old, 8));
    R(S(rt_sigaction, SIGUSR1, NULL, &old, 4));
    R(S(rt_sigaction, SIGUSR1, 8, NULL, 8));
    R(S(rt_sigaction, SIGUSR1, NULL, 8, 8));
    handle(SIGUSR1, SA_RESTART | SA_NODEFER);
    R(S(rt_sigaction, SIGUSR1, NULL, &old, 8));
    V(old.flags == (SA_RESTART | SA_NODEFER | 0x4000000));
    V(old.handler == (void *)on_signal);
    raise(SIGUSR1);
    V(handled);
    handle(SIGUSR2, SA_RESETHAND);
    handled = 0;
    raise(SIGUSR2);
    V(handled);
    R(S(rt_sigaction, SIGUSR2, NULL, &old, 8));
    V(old.handler == SIG_DFL);
    /* Ignoring a signal forgets it. */
    sigset_t set = set_of(SIGUSR1, 0), pending;
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    signal(SIGUSR1, SIG_IGN);
    sigpending(&pending);
    V(sigismember(&pending, SIGUSR1));
    struct kernel_action masks = {.handler = SIG_IGN, .mask = -1UL};
    R(S(rt_sigaction, SIGUSR1, &masks, NULL, 8));
    R(S(rt_sigaction, SIGUSR1, NULL, &old, 8));
    say("%lx", old.mask);
}

CASE(masks, "rt_sigprocmask rt_sigpending") {
    unsigned long set = 1UL << (SIGUSR1 - 1) | 1UL << (SIGKILL - 1), old = 0;
    R(S(rt_sigprocmask, SIG_BLOCK, &set, &old, 8));
    R(S(rt_sigprocmask, SIG_BLOCK, NULL, &old, 8));
    say("%lx", old);
    R(S(rt_sigprocmask, 9, &set, &old, 8));
    R(S(rt_sigprocmask, 9, NULL, &old, 8));
    R(S(rt_sigprocmask, SIG_BLOCK, &set, &old, 4));
    R(S(rt_sigprocmask, SIG_BLOCK, 8, &old, 8));
    R(S(rt_sigprocmask, SIG_BLOCK, &set, 8, 8));
    handle(SIGUSR1, 0);
    raise(SIGUSR1);
    raise(SIGUSR1);
    R(S(rt_sigpending, &old, 8));
    say("%lx", old);
    R(S(rt_sigpending, &old, 9));
    R(S(rt_sigpending, &old, 4));
    R(S(rt_sigpending, 8, 8));
    R(S(rt_sigprocmask, SIG_UNBLOCK, &set, NULL, 8));
    V(handled);
    set = 0;
    R(S(rt_sigprocmask, SIG_SETMASK, &set, &old, 8));
    say("%lx", old);
    pid_t child = fork();
    if (child == 0) {
        S(rt_sigpending, &old, 8);
        say("%lx", old);
        _exit(0);
    }
    await(child);
}

CASE(sending, "kill tkill tgkill") {
    handle(SIGUSR1, SA_SIGINFO);
    R(kill(getpid(), SIGUSR1));
    R(S(tkill, gettid(), SIGUSR1));
    R(S(tgkill, getpid(), gettid(), SIGUSR1));
    R(kill(getpid(), 0));
    R(kill(99999, 0));
    R(kill(getpid(), 65));
    R(kill(getpid(), -1));
    R(kill(-99999, 0));
    R(kill(INT_MIN, 0));
    R(S(tkill, 0, SIGUSR1));
    R(S(tkill, 99999, SIGUSR1));
    R(S(tgkill, 1, gettid(), SIGUSR1));
    R(S(tgkill, -1, gettid(), SIGUSR1));
    R(S(tgkill, getpid(), gettid(), 65));
    setpgid(0, 0);
    R(kill(0, SIGUSR1));
    R(kill(-getpid(), SIGUSR1));
    pid_t child = fork();
    if (child == 0) {
        pause_ms(5000);
        _exit(0);
    }
    R(kill(child, SIGTERM));
    R(kill(child, 0));
    await(child);
    R(kill(child, 0));
    become_user();
    R(kill(1, SIGUSR2));
    R(kill(1, 0));
    R(kill(-1, 0));
}

CASE(queueing, "rt_sigqueueinfo rt_tgsigqueueinfo") {
    sigset_t set = set_of(SIGRTMIN, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle(SIGRTMIN, SA_SIGINFO);
    handle(SIGRTMIN + 1, SA_SIGINFO);
    siginfo_t info = {.si_signo = SIGRTMIN, .si_code = SI_QUEUE};
    info.si_pid = getpid();
    for (int n = 0; n < 3; n++) {
        info.si_value.sival_int = n;
        R(S(rt_sigqueueinfo, getpid(), SIGRTMIN + 1 - n % 2, &info));
    }
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    R(S(rt_tgsigqueueinfo, getpid(), gettid(), SIGRTMIN, &info));
    R(S(rt_sigqueueinfo, 99999, SIGRTMIN, &info));
    R(S(rt_sigqueueinfo, getpid(), 65, &info));
    R(S(rt_sigqueueinfo, getpid(), SIGRTMIN, 8));
    R(S(rt_tgsigqueueinfo, getpid(), 99999, SIGRTMIN, &info));
    R(S(rt_tgsigqueueinfo, -1, 1, SIGRTMIN, &info));
    info.si_code = SI_USER;
    R(S(rt_sigqueueinfo, getppid(), SIGRTMIN, &info));
    R(S(rt_sigqueueinfo, getpid(), SIGRTMIN, &info));
    /* The queue is bounded. */
    struct rlimit few = {10, 10};
    setrlimit(RLIMIT_SIGPENDING, &few);
    sigprocmask(SIG_BLOCK, &set, NULL);
    become_user();
    int count = 0;
    union sigval value = {0};
    while (count < 100 && sigqueue(getpid(), SIGRTMIN, value) == 0) count++;
    V(count);
    R(sigqueue(getpid(), SIGRTMIN, value));
    R(kill(getpid(), SIGUSR1 == 10 ? 0 : 0));
}

CASE(waiting, "rt_sigtimedwait rt_sigsuspend pause") {
    sigset_t set = set_of(SIGUSR1, SIGRTMIN), empty;
    sigemptyset(&empty);
    sigprocmask(SIG_BLOCK, &set, NULL);
    siginfo_t info;
    struct timespec time = {0, 20000000}, none = {0, 0}, bad = {0, -1};
    long begin = now_ms();
    R(S(rt_sigtimedwait, &set, &info, &time, 8));
    V(now_ms() - begin >= 20);
    R(S(rt_sigtimedwait, &set, &info, &none, 8));
    R(S(rt_sigtimedwait, &set, &info, &bad, 8));
    R(S(rt_sigtimedwait, &set, &info, &none, 4));
    raise(SIGUSR1);
    R(S(rt_sigtimedwait, &set, &info, NULL, 8));
    say("%d %d", info.si_signo, info.si_code);
    union sigval value = {.sival_int = 5};
    sigqueue(getpid(), SIGRTMIN, value);
    R(S(rt_sigtimedwait, &set, &info, NULL, 8));
    say("%d %d", info.si_code, info.si_value.sival_int);
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        pause_ms(30);
        kill(self, SIGUSR1);
        pause_ms(200);
        kill(self, SIGUSR1);
        pause_ms(200);
        kill(self, SIGUSR2);
        pause_ms(200);
        kill(self, SIGUSR2);
        _exit(0);
    }
    R(S(rt_sigtimedwait, &set, NULL, NULL, 8));
    handle(SIGUSR1, 0);
    handle(SIGUSR2, SA_RESTART);
    handled = 0;
    R(S(rt_sigsuspend, &empty, 8));
    V(handled);
    R(S(rt_sigsuspend, &empty, 4));
    R(S(rt_sigsuspend, 8, 8));
    handled = 0;
    R(S(pause));
    V(handled);
    R(S(rt_sigtimedwait, &set, NULL, NULL, 8));
    await(child);
}

static char *stack_base;
static volatile long inside;

static void on_stack(int number) {
    char here;
    stack_t now;
    inside = &here >= stack_base && &here < stack_base + SIGSTKSZ;
    int got = sigaltstack(NULL, &now);
    say("  handler on it: %ld, %d flags %d", inside, got, now.ss_flags);
    stack_t other = {.ss_sp = stack_base, .ss_size = SIGSTKSZ};
    if (number == SIGUSR1) R(sigaltstack(&other, NULL));
    if (number == SIGUSR1) raise(SIGUSR2);
}

CASE(alternate_stack, "sigaltstack") {
    stack_t stack, old;
    R(sigaltstack(NULL, &old));
    say("%d", old.ss_flags);
    stack_base = malloc(SIGSTKSZ);
    stack = (stack_t){.ss_sp = stack_base, .ss_size = SIGSTKSZ};
    R(sigaltstack(&stack, &old));
    R(sigaltstack(NULL, &old));
    V(old.ss_sp == stack_base && old.ss_size == SIGSTKSZ && old.ss_flags == 0);
    struct sigaction action = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR1);
    action.sa_flags = 0;
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    R(sigaltstack(NULL, &old));
    V(old.ss_flags);
    stack.ss_size = 100;
    R(sigaltstack(&stack, NULL));
    stack.ss_size = SIGSTKSZ;
    stack.ss_flags = 16;
    R(sigaltstack(&stack, NULL));
    stack.ss_flags = SS_AUTODISARM;
    R(sigaltstack(&stack, NULL));
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    R(sigaltstack(NULL, &old));
    V((unsigned)old.ss_flags == SS_AUTODISARM);
    stack.ss_flags = SS_DISABLE;
    R(sigaltstack(&stack, NULL));
    R(sigaltstack(NULL, &old));
    V(old.ss_flags);
    R(sigaltstack((void *)8, NULL));
    R(sigaltstack(NULL, (void *)8));
}

static void on_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *user = context;
    say("  signal %d code %d address %lx", number, info->si_code, (long)info->si_addr & 0xfff);
    if (number == SIGSEGV || number == SIGBUS) user->uc_mcontext.gregs[REG_RIP] += 2;
    if (number == SIGFPE) user->uc_mcontext.gregs[REG_RIP] += 2;
    if (number == SIGILL) user->uc_mcontext.gregs[REG_RIP] += 2;
}

CASE(faults, "rt_sigaction rt_sigreturn") {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    for (int number = 1; number < 32; number++)
        if (number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGTRAP)
            sigaction(number, &action, NULL);
    __asm__ volatile("mov %%eax, (%0)" ::"r"(0x123L) : "memory");
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    __asm__ volatile("mov %%eax, (%0)" ::"r"(page + 0x45) : "memory");
    __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax; idiv %%ecx" ::: "eax", "ecx", "edx");
    __asm__ volatile("ud2");
    __asm__ volatile("int3");
    put("f", "x");
    int fd = open("f", O_RDWR);
    char *map = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    __asm__ volatile("mov (%0), %%eax" ::"r"(map + 0x1010) : "eax", "memory");
    ftruncate(fd, 0);
    __asm__ volatile("mov (%0), %%eax" ::"r"(map + 0x10) : "eax", "memory");
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile int *)1 = 0;
    }
    await(child);
    child = fork();
    if (child == 0) {
        sigset_t set = set_of(SIGSEGV, 0);
        sigprocmask(SIG_BLOCK, &set, NULL);
        *(volatile int *)1 = 0;
    }
    await(child);
}

/* What a signal does to a call that waits. */
static pid_t tickle(int after_ms) {
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        pause_ms(after_ms);
        kill(self, SIGUSR1);
        pause_ms(after_ms);
        kill(self, SIGUSR2);
        pause_ms(after_ms);
        _exit(0);
    }
    return child;
}

static int ends[2];
static void gives(int number) {
    handled = number;
    write(ends[1], "x", 1);
}

CASE(restarts, "rt_sigaction read wait4 nanosleep futex") {
    char byte;
    pipe(ends);
    handle(SIGUSR1, SA_RESTART);
    struct sigaction action = {.sa_handler = gives, .sa_flags = SA_RESTART};
    sigaction(SIGUSR2, &action, NULL);
    pid_t child = tickle(100);
    R(read(ends[0], &byte, 1));
    await(child);
    handle(SIGUSR1, 0);
    handle(SIGUSR2, 0);
    child = tickle(100);
    R(read(ends[0], &byte, 1));
    R(read(ends[0], &byte, 1));
    await(child);
    child = tickle(100);
    R(waitpid(child, NULL, 0));
    R(waitpid(child, NULL, 0));
    V(waitpid(child, NULL, 0) == child);
    handle(SIGUSR1, SA_RESTART);
    handle(SIGUSR2, SA_RESTART);
    child = tickle(100);
    V(waitpid(child, NULL, 0) == child);
    child = tickle(100);
    struct timespec time = {5, 0}, left = {0, 0};
    R(S(nanosleep, &time, &left));
    V(left.tv_sec);
    R(S(clock_nanosleep, CLOCK_MONOTONIC, 0, &time, &left));
    await(child);
    int word = 0;
    struct timespec half = {0, 300000000};
    child = tickle(100);
    handle(SIGUSR2, 0);
    R(S(futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0));
    await(child);
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    child = tickle(100);
    R(recv(pair[0], &byte, 1, 0));
    await(child);
    (void)half;
    struct timeval timeout = {2, 0};
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    child = tickle(100);
    R(recv(pair[0], &byte, 1, 0));
    await(child);
}

static void *waits(void *argument) {
    (void)argument;
    sigset_t set = set_of(SIGUSR1, 0);
    int number = 0;
    R(sigwait(&set, &number));
    V(number);
    return NULL;
}

CASE(threads_and_signals, "tgkill rt_sigtimedwait rt_sigprocmask") {
    sigset_t set = set_of(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, waits, NULL);
    pause_ms(20);
    kill(getpid(), SIGUSR1);
    pthread_join(thread, NULL);
    pthread_create(&thread, NULL, waits, NULL);
    pause_ms(20);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    sigset_t pending;
    sigpending(&pending);
    V(sigismember(&pending, SIGUSR1));
}

static int changed(pid_t child, int options) {
    int status = -1;
    while (waitpid(child, &status, options) == -1 && errno == EINTR) {
    }
    return status;
}

CASE(stopping, "kill wait4 rt_sigaction") {
    pid_t child = fork();
    if (child == 0) {
        for (;;) pause_ms(1000);
    }
    handle(SIGCHLD, SA_NOCLDSTOP);
    handled = 0;
    R(kill(child, SIGSTOP));
    say("%x", changed(child, WUNTRACED));
    R(waitpid(child, NULL, WUNTRACED | WNOHANG));
    V(handled);
    R(kill(child, SIGCONT));
    say("%x", changed(child, WCONTINUED));
    R(waitpid(child, NULL, WCONTINUED | WNOHANG));
    /* A stopped process ends when it goes on, or at once by SIGKILL. */
    kill(child, SIGSTOP);
    say("%x", changed(child, WUNTRACED));
    R(kill(child, SIGTERM));
    pause_ms(50);
    R(waitpid(child, NULL, WNOHANG));
    R(kill(child, SIGCONT));
    say("%x", changed(child, 0));
    V(handled);
    child = fork();
    if (child == 0) {
        setpgid(0, 0);
        raise(SIGTSTP);
        _exit(4);
    }
    say("%x", changed(child, WUNTRACED));
    kill(child, SIGCONT);
    say("%x", changed(child, 0));
    child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        _exit(5);
    }
    say("%x", changed(child, WUNTRACED));
    kill(child, SIGKILL);
    say("%x", changed(child, 0));
}
