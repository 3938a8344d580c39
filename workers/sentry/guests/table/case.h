/* A suite of cases, each about some system calls; see main.c for how one is run.
 *
 * A case prints what it saw, and nothing that differs from run to run: no addresses, times, numbers of inodes. It
 * starts in an empty directory of its own, as process 2 with parent 1, root with a container's capabilities. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/types.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <grp.h>
#include <time.h>
#include <unistd.h>

struct test_case {
    const char *name;
    /* The calls that it proves, by name, with a space between. */
    const char *calls;
    void (*run)(void);
    struct test_case *next;
};

/* Newer than the headers. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

void add_case(struct test_case *test);

/* Defines a case of the family that the file has #defined as FAMILY. */
#define CASE(function, proved)                                                                     \
    static void function(void);                                                                    \
    static struct test_case function##_case = {FAMILY ":" #function, proved, function, NULL};      \
    __attribute__((constructor)) static void function##_register(void) { add_case(&function##_case); } \
    static void function(void)

/* Prints a line. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints a call's text and its value, or its error's name. */
void report(const char *text, long value);
/* The same without the value, for addresses and numbers that differ: "ok" or the error's name. */
void report_ok(const char *text, long value);

/* R: a call and its result. OK: a call and whether it succeeded. V: an expression and its value.
 * S: a system call by its name, past libc. */
#define R(call) (errno = 0, report(#call, (long)(call)))
#define OK(call) (errno = 0, report_ok(#call, (long)(call)))
#define V(expression) say("%s: %ld", #expression, (long)(expression))
#define S(name, ...) syscall(SYS_##name, ##__VA_ARGS__)

/* Makes a file with this text; -1 on failure. */
int put(const char *path, const char *text);
/* Prints a file's text, or the error's name. */
void show(const char *path);
/* Runs a function in a child process and prints how it ended. */
void in_child(void (*function)(void));
/* Waits for a child and prints how it ended. */
void await(pid_t child);
/* Sleeps. */
void pause_ms(long milliseconds);
/* Milliseconds of the monotonic clock. */
long now_ms(void);
/* Becomes user 1000 of group 1000, without capabilities. */
void become_user(void);
