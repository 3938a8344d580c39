/* Calls of no other family. */
#define FAMILY "system"
#include "case.h"
#include <linux/seccomp.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <asm/prctl.h>

CASE(names, "uname sethostname") {
    struct utsname names;
    R(S(uname, &names));
    say("%s %s %s %s", names.sysname, names.nodename, names.machine, names.domainname);
    R(S(uname, 8));
    R(sethostname("x", 1));
    R(setdomainname("x", 1));
}

CASE(random_bytes, "getrandom") {
    unsigned char a[32] = {0}, b[32] = {0};
    R(S(getrandom, a, 32, 0));
    R(S(getrandom, b, 32, GRND_NONBLOCK));
    V(memcmp(a, b, 32) != 0);
    R(S(getrandom, a, 32, GRND_RANDOM));
    R(S(getrandom, a, 32, GRND_INSECURE));
    R(S(getrandom, a, 32, GRND_INSECURE | GRND_RANDOM));
    R(S(getrandom, a, 32, 64));
    R(S(getrandom, 8, 32, 0));
    R(S(getrandom, a, 0, 0));
    char *large = malloc(1 << 20);
    R(S(getrandom, large, 1 << 20, 0));
}

CASE(personality_of, "personality") {
    R(S(personality, 0xffffffffU));
    R(S(personality, ADDR_NO_RANDOMIZE));
    R(S(personality, 0xffffffffU));
    pid_t child = fork();
    if (child == 0) {
        R(S(personality, 0xffffffffU));
        _exit(0);
    }
    await(child);
    R(S(personality, 0));
    R(S(personality, 0xffffffffU));
}

CASE(process_options, "prctl") {
    char name[17] = {0};
    R(prctl(PR_GET_NAME, name));
    say("%s", name);
    R(prctl(PR_SET_NAME, "a name that is too long"));
    R(prctl(PR_GET_NAME, name));
    say("%s", name);
    show("/proc/self/comm");
    R(prctl(PR_SET_NAME, 8));
    R(prctl(PR_GET_NAME, 8));
    R(prctl(PR_GET_DUMPABLE));
    R(prctl(PR_SET_DUMPABLE, 0));
    R(prctl(PR_GET_DUMPABLE));
    R(prctl(PR_SET_DUMPABLE, 2));
    R(prctl(PR_SET_DUMPABLE, 1));
    R(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    R(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    R(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0));
    R(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    R(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    R(prctl(PR_GET_TIMERSLACK));
    R(prctl(PR_SET_TIMERSLACK, 100000));
    R(prctl(PR_GET_TIMERSLACK));
    R(prctl(PR_SET_TIMERSLACK, 0));
    R(prctl(PR_GET_TIMERSLACK));
    R(prctl(PR_GET_TIMING));
    R(prctl(PR_SET_TIMING, 1));
    R(prctl(PR_SET_TIMING, 0));
    R(prctl(PR_GET_SECCOMP));
    R(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    R(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    R(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    R(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    R(prctl(PR_GET_FPEMU, name));
    R(prctl(PR_GET_UNALIGN, name));
    int value = 9;
    R(prctl(PR_GET_TSC, &value));
    V(value);
    R(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0));
    R(prctl(9999, 0, 0, 0, 0));
    R(prctl(PR_SET_MM, PR_SET_MM_BRK, 0, 0, 0));
    become_user();
    R(prctl(PR_GET_DUMPABLE));
    R(prctl(PR_SET_CHILD_SUBREAPER, 1));
}

CASE(thread_bases, "arch_prctl") {
    unsigned long fs = 0, gs = 9;
    R(S(arch_prctl, ARCH_GET_FS, &fs));
    V(fs == (unsigned long)pthread_self());
    R(S(arch_prctl, ARCH_GET_GS, &gs));
    V(gs);
    unsigned long slot = 77, read = 0;
    R(S(arch_prctl, ARCH_SET_GS, &slot));
    __asm__ volatile("mov %%gs:0, %0" : "=r"(read));
    V(read);
    R(S(arch_prctl, 0x9999, 0));
    R(S(arch_prctl, ARCH_SET_FS, -1L));
}

CASE(filters, "seccomp") {
    unsigned action = SECCOMP_RET_ALLOW;
    R(S(seccomp, 99, 0, NULL));
    R(S(seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL));
    R(S(seccomp, SECCOMP_SET_MODE_FILTER, 1 << 20, NULL));
    (void)action;
}

struct area {
    uint32_t cpu_start, cpu;
    uint64_t sequence;
    uint32_t flags;
    uint32_t more[3];
} __attribute__((aligned(32)));

static void *registers(void *argument) {
    (void)argument;
    static __thread struct area area;
    /* glibc has registered one for the thread. */
    long result = S(rseq, &area, 32, 0, 0x53053053);
    say("%s", result == 0 ? "done" : strerrorname_np(errno));
    return NULL;
}

CASE(restartable_sequences, "rseq") {
    struct area area = {0};
    R(S(rseq, &area, 32, 0, 0x53053053));
    R(S(rseq, &area, 31, 0, 0x53053053));
    R(S(rseq, (char *)&area + 1, 32, 0, 0x53053053));
    R(S(rseq, &area, 32, 99, 0x53053053));
    pthread_t thread;
    pthread_create(&thread, NULL, registers, NULL);
    pthread_join(thread, NULL);
}

CASE(restarting, "restart_syscall") {
    R(S(restart_syscall));
}

CASE(other_namespaces, "unshare") {
    R(unshare(0));
    R(unshare(CLONE_FILES));
    R(unshare(CLONE_FS));
    R(unshare(CLONE_SYSVSEM));
    R(unshare(CLONE_THREAD));
    R(unshare(1));
    become_user();
    R(unshare(CLONE_NEWNS));
    R(unshare(CLONE_NEWNET));
}
