/* Who a process is; how it is scheduled. */
#define FAMILY "identity"
#include "case.h"
#include <linux/capability.h>
#include <linux/ioprio.h>
#include <sys/fsuid.h>

struct sched_attr {
    uint32_t size, sched_policy;
    uint64_t sched_flags;
    int32_t sched_nice;
    uint32_t sched_priority;
    uint64_t sched_runtime, sched_deadline, sched_period;
    uint32_t sched_util_min, sched_util_max;
};

static void ids(void) {
    uid_t r, e, s;
    getresuid(&r, &e, &s);
    gid_t a, b, c;
    getresgid(&a, &b, &c);
    say("  uid %d %d %d fs %ld gid %d %d %d fs %ld", r, e, s, S(setfsuid, -1), a, b, c, S(setfsgid, -1));
}

CASE(numbers, "getpid getppid gettid getuid geteuid getgid getegid getpgrp getpgid getsid") {
    V(S(getpid) == getpid() && S(gettid) == getpid());
    V(S(getppid));
    V(S(getuid) + S(geteuid) + S(getgid) + S(getegid));
    V(S(getpgrp) == S(getpgid, 0));
    V(S(getpgid, getpid()) == S(getpgrp));
    V(S(getsid, 0) == S(getsid, getpid()));
    R(S(getpgid, 99999));
    R(S(getsid, 99999));
    R(S(getpgid, -1));
}

static void set_as_root(void) {
    R(S(setreuid, 5, 6));
    ids();
    R(S(setreuid, 6, 5));
    ids();
    R(S(setreuid, 7, -1));
    R(S(setreuid, -1, 6));
    ids();
}

static void set_one(void) {
    R(S(setuid, -1));
    R(S(setuid, 1000));
    ids();
    R(S(setuid, 0));
    R(S(setuid, 1000));
    R(S(setreuid, 0, -1));
    R(S(setresuid, -1, -1, -1));
    R(S(setresuid, 0, 1000, 1000));
}

static void set_three(void) {
    R(S(setresuid, 1, 2, 3));
    ids();
    R(S(setresuid, 3, -1, 1));
    ids();
    R(S(setresuid, 4, -1, -1));
    R(S(setuid, 1));
    ids();
    R(S(setfsuid, 3));
    ids();
    R(S(setfsuid, 99));
    ids();
}

static void set_groups(void) {
    R(S(setresgid, 1, 2, 3));
    R(S(setregid, 3, 1));
    ids();
    R(S(setgid, 9));
    ids();
    R(S(setfsgid, 8));
    ids();
    become_user();
    R(S(setgid, 5));
    R(S(setgid, -1));
    R(S(setresgid, 5, -1, -1));
    R(S(setregid, 5, -1));
    R(S(setfsgid, 5));
    ids();
}

CASE(users_and_groups, "setuid setreuid setresuid getresuid setfsuid setgid setregid setresgid getresgid setfsgid") {
    in_child(set_as_root);
    in_child(set_one);
    in_child(set_three);
    in_child(set_groups);
    R(S(getresuid, 8, 8, 8));
    R(S(getresgid, 8, 8, 8));
}

CASE(supplementary_groups, "getgroups setgroups") {
    gid_t groups[4] = {7, 3, 5, 3};
    R(S(getgroups, 0, NULL));
    R(S(setgroups, 4, groups));
    R(S(getgroups, 0, NULL));
    R(S(getgroups, 2, groups));
    memset(groups, 0, sizeof groups);
    R(S(getgroups, 4, groups));
    say("%d %d %d %d", groups[0], groups[1], groups[2], groups[3]);
    R(S(setgroups, 65537, groups));
    R(S(setgroups, 2, 8));
    R(S(getgroups, -1, groups));
    R(S(setgroups, 0, NULL));
    become_user();
    R(S(setgroups, 0, NULL));
}

static long caps(unsigned version, int pid, unsigned long *e, unsigned long *p, unsigned long *i) {
    struct __user_cap_header_struct header = {version, pid};
    struct __user_cap_data_struct data[2] = {{0}};
    long result = S(capget, &header, data);
    if (version != header.version) say("  version %x", header.version);
    *e = data[0].effective | (unsigned long)data[1].effective << 32;
    *p = data[0].permitted | (unsigned long)data[1].permitted << 32;
    *i = data[0].inheritable | (unsigned long)data[1].inheritable << 32;
    return result;
}

static long set_caps(int pid, unsigned long e, unsigned long p, unsigned long i) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, pid};
    struct __user_cap_data_struct data[2] = {{e, p, i}, {e >> 32, p >> 32, i >> 32}};
    return S(capset, &header, data);
}

CASE(capabilities, "capget capset prctl") {
    unsigned long e, p, i;
    R(caps(_LINUX_CAPABILITY_VERSION_3, 0, &e, &p, &i));
    say("%lx %lx %lx", e, p, i);
    R(caps(0, 0, &e, &p, &i));
    R(caps(_LINUX_CAPABILITY_VERSION_1, 0, &e, &p, &i));
    say("%lx %lx %lx", e, p, i);
    R(caps(_LINUX_CAPABILITY_VERSION_3, -1, &e, &p, &i));
    R(caps(_LINUX_CAPABILITY_VERSION_3, 99999, &e, &p, &i));
    R(caps(_LINUX_CAPABILITY_VERSION_3, getpid(), &e, &p, &i));
    R(set_caps(1, e, p, i));
    R(set_caps(0, 1, 3, 2));
    R(caps(_LINUX_CAPABILITY_VERSION_3, 0, &e, &p, &i));
    say("%lx %lx %lx", e, p, i);
    R(set_caps(0, 4, 3, 0));
    R(set_caps(0, 1, 7, 0));
    R(prctl(PR_CAPBSET_READ, 1));
    R(prctl(PR_CAPBSET_READ, 21));
    R(prctl(PR_CAPBSET_READ, 99));
    R(prctl(PR_CAPBSET_DROP, 1));
    R(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 1, 0, 0));
    R(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 0, 0, 0));
    R(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 1, 0, 0));
    R(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, 1, 0, 0));
    R(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 1, 0, 0));
    R(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    R(prctl(PR_CAP_AMBIENT, 9, 0, 0, 0));
}

static void keep(void) {
    unsigned long e, p, i;
    R(prctl(PR_SET_KEEPCAPS, 1));
    R(prctl(PR_GET_KEEPCAPS));
    R(setresuid(1000, 1000, 1000));
    caps(_LINUX_CAPABILITY_VERSION_3, 0, &e, &p, &i);
    say("%lx %lx", e, p);
}

CASE(kept_capabilities, "prctl setresuid") {
    in_child(keep);
    R(prctl(PR_GET_SECUREBITS));
    R(prctl(PR_SET_SECUREBITS, 1));
    R(prctl(PR_GET_SECUREBITS));
    R(prctl(PR_SET_KEEPCAPS, 2));
    become_user();
    R(prctl(PR_CAPBSET_DROP, 1));
    R(prctl(PR_SET_SECUREBITS, 0));
}

CASE(groups_and_sessions, "setpgid setsid getpgid getsid getpgrp") {
    int p[2], q[2];
    char byte;
    pipe(p);
    pipe(q);
    pid_t child = fork();
    if (child == 0) {
        read(p[0], &byte, 1);
        V(getpgrp() == getpid());
        R(setpgid(0, 0));
        R(S(setsid));
        pid_t grandchild = fork();
        if (grandchild == 0) {
            V(S(setsid) == getpid());
            V(getsid(0) == getpid() && getpgrp() == getpid());
            R(S(setsid));
            R(setpgid(0, 0));
            _exit(0);
        }
        await(grandchild);
        fcntl(q[1], F_SETFD, FD_CLOEXEC);
        execl("/bin/sleep", "sleep", "100", NULL);
        _exit(1);
    }
    R(setpgid(child, child));
    V(getpgid(child) == child);
    write(p[1], "x", 1);
    /* Ends when the child has its program. */
    close(q[1]);
    read(q[0], &byte, 1);
    R(setpgid(child, child));
    R(setpgid(1, 1));
    R(setpgid(99999, 0));
    R(setpgid(0, -1));
    R(setpgid(0, 99999));
    kill(child, SIGKILL);
    await(child);
}

CASE(niceness, "getpriority setpriority") {
    R(S(getpriority, PRIO_PROCESS, 0));
    R(S(setpriority, PRIO_PROCESS, 0, 5));
    R(S(getpriority, PRIO_PROCESS, getpid()));
    R(S(setpriority, PRIO_PROCESS, 0, 4));
    R(S(setpriority, PRIO_PROCESS, 0, 50));
    R(S(getpriority, PRIO_PROCESS, 0));
    R(S(getpriority, PRIO_PGRP, 0));
    R(S(getpriority, PRIO_USER, 0));
    R(S(getpriority, PRIO_USER, 4242));
    R(S(getpriority, 9, 0));
    R(S(setpriority, 9, 0, 0));
    R(S(getpriority, PRIO_PROCESS, 99999));
    pid_t child = fork();
    if (child == 0) {
        R(S(getpriority, PRIO_PROCESS, 0));
        _exit(0);
    }
    await(child);
    become_user();
    R(S(setpriority, PRIO_PROCESS, 1, 19));
}

CASE(scheduling, "sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max "
                 "sched_get_priority_min sched_rr_get_interval sched_yield") {
    struct sched_param param = {0}, got = {9};
    R(S(sched_getscheduler, 0));
    R(S(sched_setscheduler, 0, SCHED_BATCH, &param));
    R(S(sched_getscheduler, 0));
    R(S(sched_getparam, 0, &got));
    V(got.sched_priority);
    R(S(sched_setparam, 0, &param));
    param.sched_priority = 1;
    R(S(sched_setparam, 0, &param));
    R(S(sched_setscheduler, 0, SCHED_OTHER, &param));
    R(S(sched_setscheduler, 0, SCHED_FIFO, &param));
    R(S(sched_setscheduler, 0, SCHED_RR, &param));
    R(S(sched_setscheduler, 0, 77, &param));
    param.sched_priority = 0;
    R(S(sched_setscheduler, 0, SCHED_FIFO, &param));
    R(S(sched_setscheduler, 0, SCHED_IDLE | SCHED_RESET_ON_FORK, &param));
    R(S(sched_getscheduler, 0));
    pid_t child = fork();
    if (child == 0) {
        R(S(sched_getscheduler, 0));
        _exit(0);
    }
    await(child);
    R(S(sched_getscheduler, 99999));
    R(S(sched_getscheduler, -1));
    R(S(sched_getparam, 0, NULL));
    R(S(sched_setscheduler, 0, 0, NULL));
    R(S(sched_get_priority_max, SCHED_FIFO));
    R(S(sched_get_priority_min, SCHED_RR));
    R(S(sched_get_priority_max, SCHED_OTHER));
    R(S(sched_get_priority_max, 77));
    struct timespec time;
    R(S(sched_rr_get_interval, 0, &time));
    R(S(sched_rr_get_interval, -1, &time));
    R(S(sched_rr_get_interval, 99999, &time));
    R(S(sched_rr_get_interval, 0, 8));
    R(S(sched_yield));
}

CASE(scheduling_attributes, "sched_setattr sched_getattr") {
    struct sched_attr attr = {0};
    R(S(sched_getattr, 0, &attr, sizeof attr, 0));
    say("%u %u %d %u", attr.size >= 48, attr.sched_policy, attr.sched_nice, attr.sched_priority);
    attr = (struct sched_attr){.size = 48, .sched_policy = SCHED_BATCH, .sched_nice = 3};
    R(S(sched_setattr, 0, &attr, 0));
    R(S(sched_getscheduler, 0));
    V(20 - S(getpriority, PRIO_PROCESS, 0));
    R(S(sched_getattr, 0, &attr, sizeof attr, 0));
    say("%u %d", attr.sched_policy, attr.sched_nice);
    R(S(sched_getattr, 0, &attr, 10, 0));
    R(S(sched_getattr, 0, &attr, sizeof attr, 1));
    R(S(sched_getattr, 0, NULL, sizeof attr, 0));
    R(S(sched_getattr, 99999, &attr, sizeof attr, 0));
    R(S(sched_getattr, -1, &attr, sizeof attr, 0));
    attr.sched_policy = SCHED_FIFO;
    attr.sched_priority = 1;
    R(S(sched_setattr, 0, &attr, 0));
    attr.sched_policy = 77;
    R(S(sched_setattr, 0, &attr, 0));
    attr = (struct sched_attr){.size = 48, .sched_nice = 2};
    R(S(sched_setattr, 0, &attr, 0));
    R(S(sched_setattr, 0, &attr, 1));
    R(S(sched_setattr, 99999, &attr, 0));
    R(S(sched_setattr, 0, NULL, 0));
}

static void *own_affinity(void *argument) {
    unsigned long mask[16] = {2};
    R(S(sched_setaffinity, 0, sizeof mask, mask));
    return NULL;
}

CASE(affinity, "sched_setaffinity sched_getaffinity getcpu") {
    unsigned long mask[16] = {0};
    V(S(sched_getaffinity, 0, sizeof mask, mask) >= 8);
    V(mask[0] & 1);
    mask[0] = 1;
    R(S(sched_setaffinity, 0, sizeof mask, mask));
    mask[0] = 0;
    V(S(sched_getaffinity, 0, sizeof mask, mask) >= 8);
    V(mask[0]);
    unsigned cpu = 9, node = 9;
    R(S(getcpu, &cpu, &node, NULL));
    V(node);
    pid_t child = fork();
    if (child == 0) {
        V(S(sched_getaffinity, 0, sizeof mask, mask) >= 8);
        V(mask[0]);
        _exit(0);
    }
    await(child);
    pthread_t thread;
    pthread_create(&thread, NULL, own_affinity, NULL);
    pthread_join(thread, NULL);
    V(S(sched_getaffinity, 0, sizeof mask, mask) >= 8);
    V(mask[0]);
    mask[0] = 0;
    R(S(sched_setaffinity, 0, sizeof mask, mask));
    R(S(sched_setaffinity, 99999, sizeof mask, mask));
    R(S(sched_getaffinity, 99999, sizeof mask, mask));
    R(S(sched_getaffinity, 0, 1, mask));
    R(S(sched_getaffinity, 0, 9, mask));
    R(S(sched_getaffinity, 0, sizeof mask, 8));
    R(S(sched_setaffinity, 0, sizeof mask, 8));
}

CASE(io_priorities, "ioprio_set ioprio_get") {
    V(S(ioprio_get, IOPRIO_WHO_PROCESS, 0) >> 13);
    R(S(ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 3)));
    V(S(ioprio_get, IOPRIO_WHO_PROCESS, 0));
    R(S(ioprio_set, IOPRIO_WHO_PROCESS, getpid(), IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)));
    V(S(ioprio_get, IOPRIO_WHO_PROCESS, getpid()) >> 13);
    R(S(ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_NONE, 0)));
    R(S(ioprio_set, IOPRIO_WHO_PROCESS, 0, 7 << 13));
    R(S(ioprio_set, 9, 0, 0));
    R(S(ioprio_get, 9, 0));
    R(S(ioprio_get, IOPRIO_WHO_PROCESS, 99999));
    R(S(ioprio_set, IOPRIO_WHO_PROCESS, 99999, 0));
    become_user();
    R(S(ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0)));
}

CASE(limits, "getrlimit setrlimit prlimit64") {
    struct rlimit limit, old;
    R(S(getrlimit, RLIMIT_STACK, &limit));
    V(limit.rlim_cur);
    R(S(getrlimit, RLIMIT_NOFILE, &limit));
    V(limit.rlim_cur);
    limit.rlim_cur = 100;
    limit.rlim_max = 200;
    R(S(setrlimit, RLIMIT_NOFILE, &limit));
    limit.rlim_max = 300;
    R(S(setrlimit, RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 400;
    R(S(setrlimit, RLIMIT_NOFILE, &limit));
    R(S(prlimit64, 0, RLIMIT_NOFILE, NULL, &old));
    say("%ld %ld", (long)old.rlim_cur, (long)old.rlim_max);
    limit.rlim_cur = limit.rlim_max = 50;
    R(S(prlimit64, getpid(), RLIMIT_NOFILE, &limit, &old));
    say("%ld %ld", (long)old.rlim_cur, (long)old.rlim_max);
    R(S(prlimit64, 0, 99, NULL, &old));
    R(S(prlimit64, 99999, RLIMIT_NOFILE, NULL, &old));
    R(S(getrlimit, 99, &limit));
    R(S(getrlimit, RLIMIT_NOFILE, 8));
    R(S(setrlimit, RLIMIT_NOFILE, 8));
    pid_t child = fork();
    if (child == 0) {
        R(S(getrlimit, RLIMIT_NOFILE, &limit));
        V(limit.rlim_cur);
        _exit(0);
    }
    await(child);
    become_user();
    R(S(prlimit64, 1, RLIMIT_NOFILE, NULL, &old));
}
