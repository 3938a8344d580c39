/* cases --list               prints each case and the calls that it proves
 * cases --native ROOT TMP C  runs case C natively, in a private root made of ROOT, with TMP as its /tmp
 * cases --make N...          makes the calls of these numbers, with no arguments
 * cases C                    runs case C: this process is the sandbox's first */
#include "case.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/mount.h>

static struct test_case *first;

void add_case(struct test_case *test) {
    test->next = first;
    first = test;
}

void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char line[4096];
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length++] = '\n';
    if (write(1, line, length) != length) _exit(99);
}

void report(const char *text, long value) {
    if (value == -1 && errno != 0)
        say("%s = %s", text, strerrorname_np(errno) ? strerrorname_np(errno) : "an unknown error");
    else
        say("%s = %ld", text, value);
}

void report_ok(const char *text, long value) {
    if (value == -1 && errno != 0)
        report(text, value);
    else
        say("%s ok", text);
}

int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return -1;
    ssize_t wrote = write(fd, text, strlen(text));
    close(fd);
    return wrote == (ssize_t)strlen(text) ? 0 : -1;
}

void show(const char *path) {
    char text[2048];
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (got < 0) {
        say("%s: %s", path, strerrorname_np(errno));
    } else {
        text[got] = 0;
        say("%s: [%s]", path, text);
    }
    if (fd >= 0) close(fd);
}

void await(pid_t child) {
    int status = 0;
    pid_t got;
    do got = waitpid(child, &status, __WALL);
    while (got == -1 && errno == EINTR);
    if (got != child) {
        say("no child: %s", strerrorname_np(errno));
    } else if (WIFSIGNALED(status)) {
        say("child: signal %s%s", sigabbrev_np(WTERMSIG(status)), WCOREDUMP(status) ? " (core)" : "");
    } else {
        say("child: exit %d", WEXITSTATUS(status));
    }
}

void in_child(void (*function)(void)) {
    pid_t child = fork();
    if (child == 0) {
        function();
        _exit(0);
    }
    await(child);
}

void pause_ms(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {
    }
}

long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void become_user(void) {
    if (setgroups(0, NULL) || setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) say("still root");
}

static int run(const char *name) {
    for (struct test_case *test = first; test; test = test->next) {
        if (strcmp(test->name, name) != 0) continue;
        pid_t child = fork();
        if (child == 0) {
            umask(022);
            if (mkdir("/tmp/case", 0777) || chmod("/tmp/case", 0777) || chdir("/tmp/case")) _exit(98);
            test->run();
            _exit(0);
        }
        int status;
        while (waitpid(child, &status, 0) != child) {
        }
        if (status != 0) say("the case ended with status %#x", status);
        return status != 0;
    }
    say("no case %s", name);
    return 97;
}

static void check(const char *what, int failed) {
    if (failed) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        _exit(96);
    }
}

static void limit(int which, rlim_t soft, rlim_t hard) {
    struct rlimit now, both = {soft, hard};
    /* A container may not raise its hard limits. */
    if (getrlimit(which, &now) == 0 && now.rlim_max < hard) both.rlim_max = now.rlim_max;
    if (both.rlim_cur > both.rlim_max) both.rlim_cur = both.rlim_max;
    check("setrlimit", setrlimit(which, &both));
}

/* What a sandbox starts with: limits and capabilities. */
static void as_in_a_sandbox(void) {
    static const int kept[] = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31};
    limit(RLIMIT_STACK, 8 << 20, RLIM_INFINITY);
    limit(RLIMIT_CORE, 0, RLIM_INFINITY);
    limit(RLIMIT_NOFILE, 1024, 65536);
    limit(RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
    limit(RLIMIT_SIGPENDING, 4096, 4096);
    limit(RLIMIT_MSGQUEUE, 819200, 819200);
    limit(RLIMIT_NICE, 0, 0);
    limit(RLIMIT_RTPRIO, 0, 0);
    setgroups(0, NULL);
    unsigned long set = 0;
    for (size_t n = 0; n < sizeof kept / sizeof *kept; n++) set |= 1UL << kept[n];
    for (int n = 0; n <= 63; n++)
        if (!(set & 1UL << n)) prctl(PR_CAPBSET_DROP, n);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    unsigned low = set, high = set >> 32;
    struct __user_cap_data_struct data[2] = {{low, low, 0}, {high, high, 0}};
    check("capset", syscall(SYS_capset, &header, data));
}

static int natively(const char *root, const char *tmp, const char *name) {
    char options[3 * PATH_MAX + 64], upper[PATH_MAX], work[PATH_MAX], own[PATH_MAX], at[PATH_MAX], path[PATH_MAX];
    setpriority(PRIO_PROCESS, 0, 0);
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        unsigned long mask;
    } usual = {0};
    for (int number = 1; number <= 64; number++) syscall(SYS_rt_sigaction, number, &usual, NULL, 8);
    check("unshare", unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET));
    check("private", mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    snprintf(upper, sizeof upper, "%s/upper", tmp);
    snprintf(work, sizeof work, "%s/work", tmp);
    snprintf(own, sizeof own, "%s/tmp", tmp);
    snprintf(at, sizeof at, "%s/root", tmp);
    check("directories", mkdir(upper, 0755) || mkdir(work, 0755) || mkdir(own, 0755) || mkdir(at, 0755));
    check("modes", chmod(own, 01777));
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", root, upper, work);
    check("overlay", mount("overlay", at, "overlay", 0, options));
    snprintf(path, sizeof path, "%s/tmp", at);
    check("tmp", mount(own, path, NULL, MS_BIND, NULL));
    snprintf(path, sizeof path, "%s/dev", at);
    mkdir(path, 0755);
    check("dev", mount("/dev", path, NULL, MS_BIND | MS_REC, NULL));
    pid_t child = fork();
    if (child == 0) {
        snprintf(path, sizeof path, "%s/proc", at);
        mkdir(path, 0755);
        check("proc", mount("proc", path, "proc", 0, NULL));
        check("root", chroot(at) || chdir("/"));
        check("name", sethostname("sandbox", 7));
        as_in_a_sandbox();
        syscall(SYS_close_range, 3, ~0U, 0);
        char *arguments[] = {"/bin/cases", (char *)name, NULL};
        char *environment[] = {"PATH=/usr/bin:/bin", NULL};
        execve("/bin/cases", arguments, environment);
        check("exec", 1);
    }
    int status;
    check("wait", waitpid(child, &status, 0) != child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 95;
}

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "--list") == 0) {
        for (struct test_case *test = first; test; test = test->next) printf("%s %s\n", test->name, test->calls);
        return 0;
    }
    if (count == 5 && strcmp(arguments[1], "--native") == 0)
        return natively(arguments[2], arguments[3], arguments[4]);
    if (count >= 2 && strcmp(arguments[1], "--make") == 0) {
        for (int n = 2; n < count; n++) {
            long result = syscall(atol(arguments[n]), 0, 0, 0, 0, 0, 0);
            say("%s: %s", arguments[n], result == -1 ? strerrorname_np(errno) : "done");
        }
        return 0;
    }
    return count == 2 ? run(arguments[1]) : 97;
}
