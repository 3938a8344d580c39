#!/bin/bash
# what: programs built with address and undefined-behaviour sanitizers: overflows, use after free, threads, fork (leak
# what: detection stops the world by ptrace, which the sentry lacks so far)
# image: toolchain
# weight: heavy
export ASAN_OPTIONS=detect_leaks=0
cat > a.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *p) { for (int i = 0; i < 500; i++) { char *b = malloc(i + 1); memset(b, i, i + 1); free(b); } return p; }
static int stack(int i) { volatile int a[8] = {0}; return a[i]; }
int main(int n, char **v) { switch (n > 1 ? v[1][0] : '0') { case '0': { pthread_t t[8]; for (int i = 0; i < 8; i++) pthread_create(&t[i], 0, work, 0); for (int i = 0; i < 8; i++) pthread_join(t[i], 0); if (!fork()) { char *p = calloc(1000, 1); free(p); _exit(3); } int st; wait(&st); printf("good %d\n", WEXITSTATUS(st)); return 0; } case '1': { char *b = malloc(10); return b[10 + n - 2]; } case '2': { char *b = malloc(10); free(b); return b[1]; } case '3': return stack(8 + n - 2); case '4': { volatile char *b = malloc(77); b = 0; return 0; } case '5': { volatile int x = 0x7fffffff; x += n; return 0; } case '6': { volatile int *p = 0; return *p; } case '7': { char *b = malloc(3); free(b); free(b); return 0; } } return 9; }
C
gcc -g -O1 -w -fsanitize=address,undefined -pthread -o a a.c; echo "cc $?"; for i in 0 1 2 3 4 5 6 7; do ./a $i > out 2> err; echo "case $i status $?"; cat out; grep -o -E 'AddressSanitizer: [a-zA-Z-]+( on (unknown )?address)?|LeakSanitizer: .*|runtime error: [a-z ]*|SUMMARY: [A-Za-z]*: [0-9]+ byte.*' err; done; clang -g -O1 -w -fsanitize=undefined -fno-sanitize-recover -o u a.c 2>/dev/null && { ./u 5 2>&1 | grep -o 'runtime error: [a-z ]*'; echo "${PIPESTATUS[0]}"; }
