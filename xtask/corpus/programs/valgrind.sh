#!/bin/bash
# what: valgrind: memcheck on leaks, wild reads and threads; callgrind and massif of a program that sorts
# image: data
# weight: heavy
# timeout: 240
cat > v.c <<'C'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *p) { char *b = malloc(100); memset(b, 1, 100); free(b); return p; }
static int less(const void *a, const void *b) { return *(int *)a - *(int *)b; }
static void on(int s) { (void)s; }
int main(int n, char **v) { pthread_t t[4]; for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, work, 0); for (int i = 0; i < 4; i++) pthread_join(t[i], 0); int *a = malloc(4000 * sizeof *a); unsigned x = 1; for (int i = 0; i < 4000; i++) a[i] = (x = x * 1103515245 + 12345) >> 8 & 0xffff; qsort(a, 4000, sizeof *a, less); printf("%d %d\n", a[0], a[3999]); signal(SIGUSR1, on); raise(SIGUSR1); if (!fork()) _exit(3); int st; wait(&st); printf("%d\n", WEXITSTATUS(st)); if (n > 1) { char *l = malloc(77); printf("%d\n", l[80] == 'x'); l = 0; } free(a); return 5; }
C
gcc -g -O0 -pthread -o v v.c; valgrind --leak-check=full ./v 2>&1 | sed -E 's/^==[0-9]+== ?//' | grep -E '^[0-9]|ERROR|heap usage|All heap|lost'; echo "${PIPESTATUS[0]}"; valgrind --leak-check=full --error-exitcode=44 ./v x 2>&1 | sed -E 's/^==[0-9]+== ?//' | grep -E 'Invalid|definitely|ERROR'; echo "${PIPESTATUS[0]}"; valgrind --tool=callgrind --callgrind-out-file=cg ./v > /dev/null 2>&1; echo $?; callgrind_annotate cg | grep -E 'less|msort|work' | wc -l | awk '{print ($1 > 0)}'; valgrind --tool=massif --massif-out-file=ms ./v > /dev/null 2>&1; grep -c '^mem_heap_B' ms | awk '{print ($1 > 1)}'; valgrind --tool=helgrind ./v 2>&1 | grep -o 'ERROR SUMMARY: [0-9]* errors'
