#!/bin/bash
# what: make -j2 of a C project of 50 files with gcc; the program runs, touching one file rebuilds two
# image: toolchain
# weight: light
# files: src
mkdir src && cd src || exit 1
for i in $(seq 1 50); do printf '#include "all.h"\nint f%d(int x) { int s = 0; for (int i = 0; i < x; i++) s += i %% %d; return s; }\n' "$i" "$i" > "f$i.c"; done
{ echo '#include <stdio.h>'; echo '#include <stdlib.h>'; for i in $(seq 1 50); do echo "int f$i(int);"; done; } > all.h
{ echo '#include "all.h"'; echo 'int main(void) { long s = 0;'; for i in $(seq 1 50); do echo "s += f$i(1000 + $i);"; done; echo 'printf("%ld\n", s); return s % 7; }'; } > main.c
printf 'OBJ := $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\nCFLAGS := -O1 -Wall -fno-ident\nall: program lib.a\nprogram: $(OBJ)\n\t@$(CC) -o $@ $^\nlib.a: $(filter-out main.o,$(OBJ))\n\t@$(AR) rcsD $@ $^\n%%.o: %%.c all.h\n\t@$(CC) $(CFLAGS) -c -o $@ $<\n' > Makefile
make -j2 -O > log 2>&1; echo "make $?"; sort log; rm log; ./program; echo "status $?"
touch -d '1 hour' f7.c; make -n 2>/dev/null | grep -c -- '-c -o'; make -q; echo "q $?"; make -j2; ./program; nm program | grep -c ' T f'; size -A program | grep -E '^\.text|^\.bss'; make -q; echo "q $?"
