#!/bin/bash
# what: OpenMP with four threads: reductions, tasks, critical sections, schedules; long double mathematics
# image: toolchain
# weight: light
# files: o.c
cat > o.c <<'C'
#include <math.h>
#include <omp.h>
#include <stdio.h>
static long fib(int n) { long a, b; if (n < 12) return n < 2 ? n : fib(n - 1) + fib(n - 2);
#pragma omp task shared(a)
  a = fib(n - 1);
#pragma omp task shared(b)
  b = fib(n - 2);
#pragma omp taskwait
  return a + b; }
int main(void) { long sum = 0; double area = 0; int in = 0; static double m[300][300], r[300][300];
#pragma omp parallel for reduction(+ : sum) schedule(dynamic, 100)
  for (int i = 0; i < 1000000; i++) sum += i % 7 * (i & 3);
#pragma omp parallel for reduction(+ : area)
  for (int i = 0; i < 1000000; i++) area += 4.0 / (1 + pow((i + .5) / 1e6, 2)) / 1e6;
#pragma omp parallel
  for (int i = 0; i < 1000; i++) {
#pragma omp critical
    in++;
#pragma omp barrier
  }
#pragma omp parallel for collapse(2)
  for (int i = 0; i < 300; i++) for (int j = 0; j < 300; j++) m[i][j] = (i * j) % 17;
#pragma omp parallel for schedule(guided)
  for (int i = 0; i < 300; i++) for (int k = 0; k < 300; k++) for (int j = 0; j < 300; j++) r[i][j] += m[i][k] * m[k][j];
  double t = 0; for (int i = 0; i < 300; i++) for (int j = 0; j < 300; j++) t += r[i][j] * ((i + j) % 3); long f;
#pragma omp parallel
#pragma omp single
  f = fib(24);
  printf("%ld %.9f %d %.1f %ld %d %.15Lf\n", sum, area, in, t, f, omp_get_max_threads(), expl(1.0L)); return 0; }
C
gcc -O2 -fopenmp -o o o.c -lm; echo "cc $?"; OMP_NUM_THREADS=4 ./o; OMP_NUM_THREADS=4 OMP_WAIT_POLICY=passive ./o; OMP_NUM_THREADS=1 ./o; ./o | awk '{print $6}'
