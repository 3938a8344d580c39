#!/bin/bash
# what: make -j2 of a C project of 50 files with clang, and a static library
# image: toolchain
# weight: heavy
# files: src
mkdir src && cd src || exit 1
for i in $(seq 1 50); do printf '#include <string.h>\n#include "all.h"\nint f%d(const char *x) { char b[64]; strncpy(b, x, 63); b[63] = 0; int s = %d; for (char *p = b; *p; p++) s = s * 31 + *p; return s; }\n' "$i" "$i" > "f$i.c"; done
{ echo '#include <stdio.h>'; for i in $(seq 1 50); do echo "int f$i(const char *);"; done; } > all.h
{ echo '#include "all.h"'; echo 'int main(int n, char **v) { unsigned s = 0;'; for i in $(seq 1 50); do echo "s ^= f$i(v[0]) + $i;"; done; echo 'printf("%u\n", s); return s % 11; }'; } > main.c
printf 'OBJ := $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\nprogram: $(OBJ)\n\t@clang -o $@ $^\n%%.o: %%.c all.h\n\t@clang -O2 -Wall -fno-ident -c -o $@ $<\n' > Makefile
make -j2; echo "make $?"; ./program; echo "status $?"; clang -O1 -g -fsanitize=undefined -o ub main.c f*.c 2>/dev/null; echo "sanitizer $?"; rm -f ub
echo 'int main(void) { return undeclared; }' > bad.c; clang -c bad.c 2>&1; echo "bad $?"; clang -S -emit-llvm -O1 -o - f1.c | grep -c define
