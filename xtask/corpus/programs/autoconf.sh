#!/bin/bash
# what: autoconf and automake make a configure script; it runs its checks; make, make check and make install
# image: toolchain
# weight: heavy
# files: pkg/configure.ac pkg/config.h root
mkdir pkg && cd pkg || exit 1
cat > configure.ac <<'C'
AC_INIT([demo],[1.0])
AM_INIT_AUTOMAKE([foreign])
AC_PROG_CC
AC_CONFIG_HEADERS([config.h])
AC_CHECK_HEADERS([stdint.h unistd.h sys/epoll.h sys/inotify.h nothing.h pthread.h sys/mman.h linux/futex.h])
AC_CHECK_FUNCS([fork vfork mmap epoll_create1 memfd_create nothing_at_all clock_gettime getrandom posix_spawn statx])
AC_FUNC_MMAP
AC_FUNC_FORK
AC_FUNC_MALLOC
AC_C_BIGENDIAN
AC_CHECK_SIZEOF([long])
AC_SYS_LARGEFILE
AC_SEARCH_LIBS([sin],[m])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
C
printf 'bin_PROGRAMS = demo\ndemo_SOURCES = demo.c\nTESTS = t1.sh t2.sh\n' > Makefile.am
printf '#include <config.h>\n#include <stdio.h>\n#include <math.h>\nint main(int n, char **v) { printf("%%d %%.3f %%s\\n", SIZEOF_LONG, sin(n), PACKAGE_STRING); return 0; }\n' > demo.c
printf '#!/bin/sh\n./demo | grep "8 0.841"\n' > t1.sh; printf '#!/bin/sh\n./demo a | grep "0.909"\n' > t2.sh; chmod +x t?.sh
autoreconf -i > ../log 2>&1; echo "autoreconf $?"; ./configure --prefix=/usr > out; echo "configure $?"; grep checking out; make -s; echo "make $?"; make -s check 2>&1 | grep -E '^(PASS|FAIL|# )'; make -s install DESTDIR="$PWD/../root" 2>&1; ../root/usr/bin/demo b c
