#!/bin/bash
# what: a C program on signals: real-time queues, alternate stacks, fault addresses, timers, masks, EINTR and restart
# image: toolchain
# weight: light
cat > s.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
static char *page; static sigjmp_buf back; static volatile int count, order[64], n, on_alt; static char alt[65536];
static void fault(int s, siginfo_t *i, void *u) { (void)u; printf("fault %d code %d at +%ld\n", s, i->si_code, (long)((char *)i->si_addr - page)); siglongjmp(back, 1); }
static void queue(int s, siginfo_t *i, void *u) { (void)u; order[n++ % 64] = (s - SIGRTMIN) * 100 + i->si_value.sival_int; }
static void altstack(int s) { char here; stack_t now; sigaltstack(0, &now); on_alt = (&here > alt && &here < alt + sizeof alt) * 10 + (now.ss_flags == SS_ONSTACK); (void)s; }
static void tick(int s) { (void)s; count++; }
static int deep(int d) { volatile char b[4096]; b[0] = d; return deep(d + 1) + b[0]; }
static void overflow(int s, siginfo_t *i, void *u) { (void)i; (void)u; printf("overflow %d\n", s); siglongjmp(back, 1); }
static void set(int s, void (*h)(int, siginfo_t *, void *), int f) { struct sigaction a = {.sa_sigaction = h, .sa_flags = SA_SIGINFO | f}; sigaction(s, &a, 0); }
int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0); page = mmap(0, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); munmap(page + 4096, 4096); set(SIGSEGV, fault, 0); set(SIGBUS, fault, 0); set(SIGFPE, fault, 0); set(SIGILL, fault, 0);
  if (!sigsetjmp(back, 1)) page[17] = 1; if (!sigsetjmp(back, 1)) page[4096 + 5] = 1; char *p0 = page; page = 0; if (!sigsetjmp(back, 1)) *(volatile int *)0 = 1; page = p0;
  FILE *f = tmpfile(); ftruncate(fileno(f), 4096); char *m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0); page = m; if (!sigsetjmp(back, 1)) m[5000] = 1; ftruncate(fileno(f), 0); if (!sigsetjmp(back, 1)) m[1] = 1; { volatile int z = 0; int here; if (!sigsetjmp(back, 1)) { here = 1 / z; printf("%d\n", here); } }
  for (int i = 0; i < 3; i++) set(SIGRTMIN + i, queue, 0); sigset_t all, old; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, &old); for (int i = 0; i < 9; i++) { union sigval v = {.sival_int = i}; sigqueue(getpid(), SIGRTMIN + 2 - i % 3, v); } sigprocmask(SIG_SETMASK, &old, 0); for (int i = 0; i < n; i++) printf("%d ", order[i]); puts("");
  stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt}; sigaltstack(&ss, 0); struct sigaction a = {.sa_handler = altstack, .sa_flags = SA_ONSTACK}; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1); printf("alt %d\n", on_alt); set(SIGSEGV, overflow, SA_ONSTACK); if (!sigsetjmp(back, 1)) deep(0);
  a = (struct sigaction){.sa_handler = tick}; sigaction(SIGALRM, &a, 0); struct itimerval it = {{0, 10000}, {0, 10000}}; setitimer(ITIMER_REAL, &it, 0); errno = 0; int r = pause(); printf("pause %d %s\n", r, strerror(errno)); int p[2]; pipe(p); char b; r = read(p[0], &b, 1); printf("read %d %s\n", r, strerror(errno)); a.sa_flags = SA_RESTART; sigaction(SIGALRM, &a, 0); if (!fork()) { setitimer(ITIMER_REAL, &(struct itimerval){0}, 0); usleep(60000); write(p[1], "x", 1); _exit(0); } r = read(p[0], &b, 1); printf("restarted %d %d\n", r, count > 3); int st; while (wait(&st) < 0); setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
  count = 0; sigaction(SIGVTALRM, &a, 0); sigaction(SIGPROF, &a, 0); setitimer(ITIMER_VIRTUAL, &it, 0); struct timespec w = {0, 100000000}; nanosleep(&w, 0); printf("virtual while asleep %d\n", count > 2); for (volatile long i = 0; count < 3; i++); printf("virtual while busy %d\n", count); setitimer(ITIMER_VIRTUAL, &(struct itimerval){0}, 0);
  timer_t t; struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 7}; n = 0; timer_create(CLOCK_MONOTONIC, &e, &t); struct itimerspec ts = {{0, 0}, {0, 5000000}}; timer_settime(t, 0, &ts, 0); pause(); printf("timer %d overrun %d\n", order[0], timer_getoverrun(t)); sigset_t one; sigemptyset(&one); sigaddset(&one, SIGUSR2); sigprocmask(SIG_BLOCK, &one, 0); int sf = signalfd(-1, &one, 0); kill(getpid(), SIGUSR2); struct signalfd_siginfo si; read(sf, &si, sizeof si); printf("signalfd %d %d\n", si.ssi_signo, si.ssi_pid == (unsigned)getpid()); union sigval v = {.sival_int = 9}; sigqueue(getpid(), SIGUSR2, v); siginfo_t inf; r = sigwaitinfo(&one, &inf); printf("sigwaitinfo %d %d\n", r == SIGUSR2, inf.si_value.sival_int); r = sigtimedwait(&one, &inf, &(struct timespec){0, 10000000}); printf("sigtimedwait %d %s\n", r, strerror(errno));
  if (!fork()) { struct rlimit l = {1, 2}; setrlimit(RLIMIT_CPU, &l); signal(SIGXCPU, SIG_DFL); for (;;) ; } wait(&st); printf("cpu limit %d\n", WTERMSIG(st)); if (!fork()) { signal(SIGABRT, SIG_IGN); abort(); } wait(&st); printf("abort %d\n", WTERMSIG(st)); pid_t c = fork(); if (!c) { raise(SIGSTOP); _exit(5); } waitpid(c, &st, WUNTRACED); printf("stopped %d\n", WSTOPSIG(st)); kill(c, SIGCONT); waitpid(c, &st, WCONTINUED); printf("continued %d\n", WIFCONTINUED(st)); wait(&st); printf("exit %d\n", WEXITSTATUS(st)); return 0;
}
C
gcc -O1 -w -pthread -o s s.c; timeout 60 ./s; echo "status $?"
