#!/bin/bash
# what: a program linked statically with musl: threads, fork, pipes, signals, files, printf and a static-pie
# image: toolchain
# weight: light
# files: m.c m out
cat > m.c <<'C'
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static volatile sig_atomic_t got;
static long sum; static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void on(int s) { got += s; }
static void *work(void *p) { for (int i = 0; i < 2000; i++) { pthread_mutex_lock(&lock); sum += (long)p; pthread_mutex_unlock(&lock); } return (void *)((long)p * 2); }
int main(int n, char **v) {
  pthread_t t[16]; long r = 0; for (long i = 0; i < 16; i++) pthread_create(&t[i], 0, work, (void *)i);
  for (int i = 0; i < 16; i++) { void *x; pthread_join(t[i], &x); r += (long)x; } printf("%ld %ld\n", sum, r);
  struct sigaction a = {.sa_handler = on}; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1); kill(getpid(), SIGUSR1); printf("%d\n", got);
  int p[2]; pipe(p); if (!fork()) { for (int i = 0; i < 1000; i++) write(p[1], "0123456789", 10); _exit(3); } close(p[1]); char b[777]; long k, total = 0; while ((k = read(p[0], b, sizeof b)) > 0) total += k; int st; wait(&st); printf("%ld %d\n", total, WEXITSTATUS(st));
  pid_t c; char *args[] = {"sh", "-c", "echo spawned; exit 4", 0}; fflush(stdout); posix_spawn(&c, "/bin/sh", 0, 0, args, environ); waitpid(c, &st, 0); printf("%d\n", WEXITSTATUS(st));
  FILE *f = fopen("out", "w+"); for (int i = 0; i < 5000; i++) fprintf(f, "%d %a\n", i, i / 3.0); rewind(f); int lines = 0; while (fgets(b, sizeof b, f)) lines++; printf("%d\n", lines); fclose(f);
  char *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); if (!fork()) { strcpy(m, "shared"); _exit(0); } wait(0); puts(m); if (!fork()) { *(volatile int *)8 = 1; } wait(&st); printf("%d\n", WTERMSIG(st)); return 9;
}
C
musl-gcc -static -O1 -o m m.c; echo "cc $?"; ./m; echo "status $?"; file -b m | cut -d, -f 1-4; musl-gcc -O1 -static-pie -o pie m.c 2>/dev/null && ./pie | sha256sum; musl-gcc -O1 -o dyn m.c && ./dyn | sha256sum; rm -f pie dyn
