//! What the sentry may ask of the host's kernel. Its root is empty but for /proc of its own pid namespace and /scratch, it has
//! no rights, no network and a uid of its own; this list takes away what it does not need of the rest.

use super::{Allow, Condition, always, bits, int, only};

/// `SECCOMP_IOCTL_NOTIF_*`: receive, send, still valid, add descriptor, set flags (linux/seccomp.h).
const NOTIFY_RECV: u32 = 0xc050_2100;
const NOTIFY_SEND: u32 = 0xc018_2101;
const NOTIFY_ID_VALID: u32 = 0x4008_2102;
const NOTIFY_ADDFD: u32 = 0x4018_2103;
const NOTIFY_SET_FLAGS: u32 = 0x4008_2104;

/// Terminal and pipe questions on the job's standard streams.
const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
/// PR_SET_VMA: the C library names its mappings.
const PR_SET_VMA: u32 = 0x5356_4d41;
/// PR_GET_AUXV: rustix finds the vDSO.
const PR_GET_AUXV: u32 = 0x4155_5856;

const IOCTL: &[&[Condition]] = &[
    &[int(1, NOTIFY_RECV)],
    &[int(1, NOTIFY_SEND)],
    &[int(1, NOTIFY_ID_VALID)],
    &[int(1, NOTIFY_ADDFD)],
    &[int(1, NOTIFY_SET_FLAGS)],
    &[int(1, TCGETS)],
    &[int(1, TCSETS)],
    &[int(1, TCSETSW)],
    &[int(1, TCSETSF)],
    &[int(1, TIOCGWINSZ)],
    &[int(1, TIOCSWINSZ)],
    &[int(1, FIONREAD)],
    &[int(1, FIONBIO)],
];

const PRCTL: &[&[Condition]] = &[
    &[int(0, libc::PR_SET_NAME as u32)],
    &[int(0, libc::PR_GET_NAME as u32)],
    &[int(0, libc::PR_SET_TIMERSLACK as u32)],
    &[int(0, PR_SET_VMA)],
    &[int(0, PR_GET_AUXV)],
];

pub(super) const ALLOWED: &[Allow] = &[
    // Serving guests.
    only(
        libc::SYS_ioctl,
        IOCTL,
        "seccomp listeners; terminal and pipe questions on the standard streams; nothing else",
    ),
    always(libc::SYS_process_vm_readv, "guest memory; the kernel allows it only for the sentry's own stubs"),
    always(libc::SYS_process_vm_writev, "guest memory"),
    always(libc::SYS_pidfd_open, "the end of a stub"),
    always(libc::SYS_pidfd_getfd, "a stub's listener"),
    always(libc::SYS_pidfd_send_signal, "ending a stub"),
    always(libc::SYS_tgkill, "bringing in a guest thread that computes"),
    always(libc::SYS_rt_tgsigqueueinfo, "the same, with a value"),
    always(libc::SYS_kill, "stopping, continuing and ending stubs; nothing else is in the pid namespace"),
    always(libc::SYS_wait4, "reaping stubs"),
    always(libc::SYS_waitid, "reaping stubs by pidfd"),
    always(libc::SYS_prlimit64, "soft limits of stubs; raising hard ones needs rights"),
    always(libc::SYS_setpriority, "nice of stubs"),
    always(libc::SYS_getpriority, "nice of stubs"),
    always(libc::SYS_sched_setaffinity, "affinity of stubs"),
    always(libc::SYS_sched_getaffinity, "what the guest is told; thread pools"),
    // Waiting.
    always(libc::SYS_ppoll, "many listeners, control socket, standard streams"),
    always(libc::SYS_poll, "the same, older form"),
    always(libc::SYS_epoll_create1, "many listeners by one thread"),
    always(libc::SYS_epoll_ctl, "many listeners by one thread"),
    always(libc::SYS_epoll_wait, "many listeners by one thread"),
    always(libc::SYS_epoll_pwait, "many listeners by one thread"),
    always(libc::SYS_epoll_pwait2, "many listeners by one thread"),
    always(libc::SYS_eventfd2, "waking a thread that polls"),
    always(libc::SYS_timerfd_create, "deadlines of parked calls"),
    always(libc::SYS_timerfd_settime, "deadlines of parked calls"),
    always(libc::SYS_timerfd_gettime, "deadlines of parked calls"),
    always(libc::SYS_signalfd4, "SIGCHLD as a descriptor"),
    always(libc::SYS_futex, "locks between the sentry's threads"),
    always(libc::SYS_nanosleep, "short waits"),
    always(libc::SYS_clock_nanosleep, "short waits"),
    always(libc::SYS_sched_yield, "short waits"),
    always(libc::SYS_restart_syscall, "waits that a stop interrupted"),
    // Files: /scratch, image files passed by descriptor, memfds, /proc of its own pid namespace.
    always(libc::SYS_openat, "scratch files and /proc/PID; the root holds nothing else"),
    always(libc::SYS_open, "the same: how rustix opens a path"),
    always(libc::SYS_close, "descriptors"),
    always(libc::SYS_close_range, "descriptors"),
    always(libc::SYS_read, "files, control socket"),
    always(libc::SYS_write, "files, control socket"),
    always(libc::SYS_readv, "files"),
    always(libc::SYS_writev, "files"),
    always(libc::SYS_pread64, "scratch and image files"),
    always(libc::SYS_pwrite64, "scratch files"),
    always(libc::SYS_preadv, "scratch and image files"),
    always(libc::SYS_pwritev, "scratch files"),
    always(libc::SYS_preadv2, "the same, without waiting"),
    always(libc::SYS_pwritev2, "the same, without waiting"),
    always(libc::SYS_lseek, "holes of scratch files, /proc files"),
    always(libc::SYS_ftruncate, "scratch files and memfds"),
    always(libc::SYS_fallocate, "punching holes in scratch files"),
    always(libc::SYS_copy_file_range, "copies between scratch files"),
    always(libc::SYS_sendfile, "copies between scratch files"),
    always(libc::SYS_fsync, "a guest's fsync"),
    always(libc::SYS_fdatasync, "a guest's fdatasync"),
    always(libc::SYS_sync_file_range, "a guest's sync_file_range"),
    always(libc::SYS_fadvise64, "a guest's posix_fadvise"),
    always(libc::SYS_fstat, "sizes and kinds of descriptors"),
    always(libc::SYS_newfstatat, "sizes and kinds of descriptors"),
    always(libc::SYS_statx, "sizes and kinds of descriptors"),
    always(libc::SYS_fstatfs, "room in /scratch"),
    always(libc::SYS_unlinkat, "scratch files have no names"),
    always(libc::SYS_getdents64, "threads of a stub under /proc"),
    always(libc::SYS_readlinkat, "what a descriptor is"),
    always(libc::SYS_readlink, "the same, by the standard library"),
    always(libc::SYS_stat, "the same, by the standard library"),
    always(libc::SYS_lstat, "the same, by the standard library"),
    always(libc::SYS_memfd_create, "shared memory of guests"),
    always(libc::SYS_fcntl, "flags, seals, duplicates"),
    always(libc::SYS_dup, "duplicates"),
    always(libc::SYS_dup3, "duplicates"),
    always(libc::SYS_pipe2, "hand-over between threads"),
    // The control socket; no call that makes a socket is here.
    always(libc::SYS_sendmsg, "frames to the launcher"),
    always(libc::SYS_recvmsg, "frames and descriptors from the launcher"),
    always(libc::SYS_sendto, "frames to the launcher"),
    always(libc::SYS_recvfrom, "frames from the launcher"),
    always(libc::SYS_shutdown, "the end of the control socket"),
    // Its own memory: never executable after start.
    only(libc::SYS_mmap, &[&[bits(2, PROT_EXEC, 0)]], "heap, image and scratch maps"),
    only(libc::SYS_mprotect, &[&[bits(2, PROT_EXEC, 0)]], "guard pages of thread stacks"),
    always(libc::SYS_munmap, "heap, maps"),
    always(libc::SYS_mremap, "heap"),
    always(libc::SYS_madvise, "heap, maps"),
    always(libc::SYS_brk, "heap"),
    always(libc::SYS_mincore, "a guest's mincore on image pages"),
    always(libc::SYS_msync, "maps of scratch files"),
    always(libc::SYS_membarrier, "publishing to its own threads"),
    // Its own threads and signals.
    only(libc::SYS_clone, &[&[bits(0, CLONE_THREAD, CLONE_THREAD)]], "threads; never a process"),
    always(libc::SYS_exit, "end of a thread"),
    always(libc::SYS_exit_group, "end of the sentry"),
    always(libc::SYS_set_robust_list, "start of a thread"),
    always(libc::SYS_rseq, "start of a thread"),
    always(libc::SYS_sigaltstack, "start of a thread"),
    always(libc::SYS_rt_sigaction, "its own handlers"),
    always(libc::SYS_rt_sigprocmask, "its own handlers"),
    always(libc::SYS_rt_sigreturn, "its own handlers"),
    always(libc::SYS_rt_sigtimedwait, "SIGCHLD by a thread of its own"),
    only(libc::SYS_prctl, PRCTL, "names of threads and mappings, timer slack"),
    // Questions about itself and the host's clock.
    always(libc::SYS_getpid, "itself"),
    always(libc::SYS_gettid, "itself"),
    always(libc::SYS_getppid, "itself"),
    always(libc::SYS_getuid, "itself"),
    always(libc::SYS_geteuid, "itself"),
    always(libc::SYS_getgid, "itself"),
    always(libc::SYS_getegid, "itself"),
    always(libc::SYS_getcpu, "a guest's getcpu"),
    always(libc::SYS_clock_gettime, "clocks that the vDSO does not serve, and cpu clocks"),
    always(libc::SYS_clock_getres, "a guest's clock_getres"),
    always(libc::SYS_gettimeofday, "the clock where there is no vDSO"),
    always(libc::SYS_getrusage, "its own cost"),
    always(libc::SYS_sysinfo, "uptime for the guest's /proc"),
    always(libc::SYS_uname, "kernel version"),
    always(libc::SYS_getrandom, "randomness for guests and hash maps"),
];
