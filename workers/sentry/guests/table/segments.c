/* System V shared memory. */
#define FAMILY "segments"
#include "case.h"
#include <sys/ipc.h>
#include <sys/shm.h>

#define KEY 0x6275
#define SIZE 10000L

static long attached(const void *address) { return address == (void *)-1 ? -1 : 0; }

static void status(int id) {
    struct shmid_ds now;
    if (shmctl(id, IPC_STAT, &now) != 0) {
        R(shmctl(id, IPC_STAT, &now));
        return;
    }
    say("size %zu attached %lu mode %o owner %d:%d creator %d key %d attach time %d detach time %d change time %d",
        now.shm_segsz, (unsigned long)now.shm_nattch, now.shm_perm.mode, now.shm_perm.uid, now.shm_perm.gid,
        now.shm_cpid == getpid(), now.shm_perm.__key == KEY, now.shm_atime > 0, now.shm_dtime > 0,
        now.shm_ctime > 0);
}

/* The signal that writing at an address causes; 0 is none. */
static int writes(volatile char *address) {
    pid_t child = fork();
    if (child == 0) {
        *address = 1;
        _exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    return WIFSIGNALED(how) ? WTERMSIG(how) : 0;
}

CASE(attaching, "shmget shmat shmdt shmctl") {
    int id = shmget(KEY, SIZE, IPC_CREAT | IPC_EXCL | 0640);
    V(id >= 0);
    status(id);
    char *one = shmat(id, NULL, 0), *other = shmat(id, NULL, SHM_RDONLY);
    strcpy(one + SIZE - 10, "shared");
    say("%s", other + SIZE - 10);
    V(writes(one));
    V(writes(other));
    status(id);
    pid_t child = fork();
    if (child == 0) {
        status(id);
        strcpy(one, "child");
        R(shmdt(one));
        V(writes(one));
        status(id);
        _exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    say("%s", other);
    struct shmid_ds now;
    shmctl(id, IPC_STAT, &now);
    V(now.shm_lpid == child);
    V(now.shm_nattch);
    R(shmdt(one));
    R(shmdt(one));
    R(shmdt(other + 4096));
    V(shmat(id, one, 0) == one);
    R(attached(shmat(id, one, 0)));
    V(shmat(id, one, SHM_REMAP) == one);
    V(shmat(id, one + 5, SHM_REMAP | SHM_RND) == one);
    R(attached(shmat(id, one + 5, 0)));
    R(attached(shmat(id, NULL, SHM_REMAP)));
    R(shmctl(id, IPC_RMID, NULL));
    status(id);
    R(shmget(KEY, SIZE, 0));
    shmdt(other);
    while (shmdt(one) == 0)
        ;
    R(shmctl(id, IPC_STAT, &now));
    R(attached(shmat(id, NULL, 0)));
}

static int shared;

static void as_another(void) {
    struct shmid_ds now;
    become_user();
    R(shmget(KEY, 0, 0600));
    V(shmget(KEY, 0, 0400) == shared);
    R(attached(shmat(shared, NULL, 0)));
    R(attached(shmat(shared, NULL, SHM_RDONLY)));
    R(shmctl(shared, IPC_STAT, &now));
    R(shmctl(shared, IPC_SET, &now));
    R(shmctl(shared, IPC_RMID, NULL));
    R(shmctl(shared, SHM_LOCK, NULL));
}

CASE(finding, "shmget shmctl") {
    struct shmid_ds now;
    R(shmget(KEY, SIZE, 0600));
    R(shmget(KEY, 0, IPC_CREAT | 0600));
    R(shmget(KEY, -1UL, IPC_CREAT | 0600));
    shared = shmget(KEY, SIZE, IPC_CREAT | 0604);
    V(shmget(KEY, SIZE, IPC_CREAT | 0604) == shared);
    V(shmget(KEY, 0, 0) == shared);
    R(shmget(KEY, SIZE + 1, 0));
    R(shmget(KEY, SIZE, IPC_CREAT | IPC_EXCL | 0600));
    int private = shmget(IPC_PRIVATE, 1, 0600);
    V(private >= 0 && private != shared);
    R(shmctl(private, IPC_RMID, NULL));
    in_child(as_another);
    shmctl(shared, IPC_STAT, &now);
    now.shm_perm.mode = 0777;
    now.shm_perm.uid = 1000;
    now.shm_perm.gid = 1001;
    R(shmctl(shared, IPC_SET, &now));
    status(shared);
    now.shm_perm.uid = -1;
    R(shmctl(shared, IPC_SET, &now));
    R(shmctl(shared, IPC_SET, NULL));
    R(shmctl(shared, 99, NULL));
    R(shmctl(-1, IPC_STAT, &now));
    R(shmctl(shared + 1000, IPC_RMID, NULL));
    R(shmctl(shared, IPC_RMID, NULL));
    R(shmctl(shared, IPC_RMID, NULL));
}
