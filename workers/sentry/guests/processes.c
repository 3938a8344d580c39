/* Processes and threads: fork, vfork, exec from a thread, waiting, groups, exit codes. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static const char *self;
static int counter;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *add(void *argument) {
    for (int n = 0; n < 1000; n++) {
        pthread_mutex_lock(&lock);
        counter += (int)(long)argument;
        pthread_mutex_unlock(&lock);
    }
    return argument;
}

static void threads(void) {
    pthread_t thread[20];
    for (long n = 0; n < 20; n++) pthread_create(&thread[n], NULL, add, (void *)n);
    long sum = 0;
    for (int n = 0; n < 20; n++) {
        void *result;
        pthread_join(thread[n], &result);
        sum += (long)result;
    }
    printf("threads: %d %ld\n", counter, sum);
}

static pthread_mutex_t robust;

static void *dies_holding(void *argument) {
    pthread_mutex_lock(&robust);
    usleep(30000);
    return argument;
}

static void robust_mutex(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_t thread;
    pthread_create(&thread, NULL, dies_holding, NULL);
    usleep(10000);
    int result = pthread_mutex_lock(&robust);
    printf("robust mutex: %s\n", strerror(result));
    pthread_join(thread, NULL);
}

static void *exec_here(void *argument) {
    (void)argument;
    execl(self, self, "from-thread", (char *)NULL);
    return NULL;
}

static void exec_from_thread(void) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, exec_here, NULL);
        for (;;) pause();
    }
    int same = waitpid(child, &status, 0) == child;
    printf("exec from a thread: same pid %d, code %d\n", same, WEXITSTATUS(status));
}

static void children(void) {
    int status;
    pid_t child = fork();
    if (child == 0) _exit(7);
    int same = waitpid(child, &status, 0) == child;
    printf("fork: %d %d\n", same, WEXITSTATUS(status));
    volatile int shared = 0;
    child = vfork();
    if (child == 0) {
        shared = 5;
        _exit(8);
    }
    waitpid(child, &status, 0);
    printf("vfork: %d, memory shared %d\n", WEXITSTATUS(status), shared);
    char *arguments[] = {(char *)self, "exit", "9", NULL};
    int failed = posix_spawn(&child, self, NULL, NULL, arguments, environ);
    waitpid(child, &status, 0);
    printf("spawn: %d %d\n", failed, WEXITSTATUS(status));
    failed = posix_spawn(&child, "/nowhere", NULL, NULL, arguments, environ);
    printf("spawn of nothing: %s\n", strerror(failed));
    int none = wait(&status);
    printf("no children: %d %s\n", none, strerror(errno));
}

static void waitid_forms(void) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    int none = waitid(P_PID, child, &info, WEXITED | WNOHANG);
    printf("waitid nohang: %d %d\n", none, info.si_pid);
    kill(child, SIGKILL);
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    printf("waitid nowait: code %d status %d\n", info.si_code, info.si_status);
    waitid(P_ALL, 0, &info, WEXITED);
    printf("waitid: same %d\n", info.si_pid == child);
}

static void orphans(void) {
    int ends[2], status;
    char byte;
    pipe(ends);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t child = fork();
    if (child == 0) {
        pid_t parent = getpid();
        if (fork() == 0) {
            close(ends[0]);
            while (getppid() == parent) usleep(1000);
            write(ends[1], "o", 1);
            _exit(11);
        }
        _exit(10);
    }
    close(ends[1]);
    waitpid(child, &status, 0);
    printf("child: %d\n", WEXITSTATUS(status));
    read(ends[0], &byte, 1);
    pid_t orphan = wait(&status);
    printf("orphan: %d %d\n", orphan > 0, WEXITSTATUS(status));
    prctl(PR_SET_CHILD_SUBREAPER, 0);
}

static void groups(void) {
    pid_t child = fork();
    if (child == 0) {
        pid_t own = getpid();
        int alone = setpgid(0, 0);
        int leads = getpgrp() == own;
        int again = setsid();
        printf("groups: %d %d, setsid as leader %d %s\n", alone, leads, again, strerror(errno));
        _exit(0);
    }
    wait(NULL);
    child = fork();
    if (child == 0) {
        pid_t session = setsid();
        printf("session: %d %d\n", session == getpid(), getsid(0) == getpid());
        _exit(0);
    }
    wait(NULL);
}

static void limits(void) {
    struct rlimit limit = {64, 128}, seen;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &seen);
    printf("limits: %d %d\n", (int)seen.rlim_cur, (int)seen.rlim_max);
    int last = -1, fd;
    while ((fd = dup(1)) >= 0) last = fd;
    printf("descriptors end at %d: %s\n", last, strerror(errno));
    while (last > 2) close(last--);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IONBF, 0);
    self = arguments[0];
    if (count > 2 && !strcmp(arguments[1], "exit")) return atoi(arguments[2]);
    if (count > 1 && !strcmp(arguments[1], "from-thread")) return 12;
    threads();
    robust_mutex();
    children();
    exec_from_thread();
    waitid_forms();
    orphans();
    groups();
    limits();
    return 0;
}
