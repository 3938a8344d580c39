//! What the image converter may ask of the host's kernel: it reads a hostile archive from a descriptor and writes an EROFS
//! file to another, with room for its own spill files in /scratch.

use super::{Allow, always, bits, only};

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;

pub(super) const ALLOWED: &[Allow] = &[
    // Archive in, image out, spill files in /scratch.
    always(libc::SYS_read, "the archive, the control socket"),
    always(libc::SYS_write, "the image, messages"),
    always(libc::SYS_readv, "the archive"),
    always(libc::SYS_writev, "the image"),
    always(libc::SYS_pread64, "layers out of order, spill files"),
    always(libc::SYS_pwrite64, "inodes after their data"),
    always(libc::SYS_preadv, "layers out of order"),
    always(libc::SYS_pwritev, "the image"),
    always(libc::SYS_lseek, "layers out of order"),
    always(libc::SYS_ftruncate, "the image's length"),
    always(libc::SYS_fallocate, "the image's length"),
    always(libc::SYS_copy_file_range, "file data from spill to image"),
    always(libc::SYS_sendfile, "file data from spill to image"),
    always(libc::SYS_fsync, "the image is durable before it is named"),
    always(libc::SYS_fdatasync, "the image is durable before it is named"),
    always(libc::SYS_openat, "spill files; the root holds nothing but /scratch and /proc"),
    always(libc::SYS_close, "descriptors"),
    always(libc::SYS_fstat, "sizes"),
    always(libc::SYS_newfstatat, "sizes"),
    always(libc::SYS_statx, "sizes"),
    always(libc::SYS_mkdirat, "spill directory"),
    always(libc::SYS_mkdir, "spill directory"),
    always(libc::SYS_unlinkat, "spill files"),
    always(libc::SYS_unlink, "spill files"),
    always(libc::SYS_rmdir, "spill directory"),
    always(libc::SYS_getdents64, "spill directory"),
    always(libc::SYS_fcntl, "flags, duplicates"),
    always(libc::SYS_ioctl, "the C library asks whether a stream is a terminal; nothing here is a device"),
    // Results to the launcher.
    always(libc::SYS_sendmsg, "frames to the launcher"),
    always(libc::SYS_sendto, "frames to the launcher"),
    always(libc::SYS_recvmsg, "frames from the launcher"),
    always(libc::SYS_recvfrom, "frames from the launcher"),
    always(libc::SYS_poll, "waiting for the archive"),
    always(libc::SYS_ppoll, "waiting for the archive"),
    // Memory, never executable.
    only(libc::SYS_mmap, &[&[bits(2, PROT_EXEC, 0)]], "heap, maps of layers"),
    only(libc::SYS_mprotect, &[&[bits(2, PROT_EXEC, 0)]], "guard pages"),
    always(libc::SYS_munmap, "heap"),
    always(libc::SYS_mremap, "heap"),
    always(libc::SYS_madvise, "heap"),
    always(libc::SYS_brk, "heap"),
    // Itself.
    only(libc::SYS_clone, &[&[bits(0, CLONE_THREAD, CLONE_THREAD)]], "threads; never a process"),
    always(libc::SYS_futex, "threads"),
    always(libc::SYS_set_robust_list, "start of a thread"),
    always(libc::SYS_rseq, "start of a thread"),
    always(libc::SYS_sigaltstack, "start and end of a thread"),
    always(libc::SYS_sched_getaffinity, "number of threads"),
    always(libc::SYS_sched_yield, "locks"),
    always(libc::SYS_rt_sigaction, "handlers"),
    always(libc::SYS_rt_sigprocmask, "handlers"),
    always(libc::SYS_rt_sigreturn, "handlers"),
    always(libc::SYS_clock_gettime, "times"),
    always(libc::SYS_clock_nanosleep, "retries"),
    always(libc::SYS_getrandom, "hash maps"),
    always(libc::SYS_getpid, "itself"),
    always(libc::SYS_gettid, "itself"),
    always(libc::SYS_tgkill, "abort"),
    always(libc::SYS_exit, "end of a thread"),
    always(libc::SYS_exit_group, "the end"),
    always(libc::SYS_restart_syscall, "waits that a stop interrupted"),
];
