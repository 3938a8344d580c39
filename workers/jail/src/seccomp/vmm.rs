//! What a VMM may ask of the host's kernel: one list for the process, and a narrower one for each kind of thread that a guest
//! keeps busy. Its root is empty but for /proc of its own pid namespace and /scratch, it has no rights, no network and a uid
//! of its own. What is here beyond plain files and memory is KVM, and only its descriptors that the launcher's /dev/kvm led to.
//!
//! ```text
//! one thread: jailed, machine shell made ── install(Vmm) ──► Ready
//!    ├─ control (stays under Vmm): starts the others, speaks with the launcher
//!    ├─ devices   narrow(VmmDevices): queues, disk files, the job's streams
//!    └─ vcpu 0..8 narrow(VmmVcpu): KVM_RUN and what its exits need
//! ```

use super::{Allow, Condition, always, bits, int, only};

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
/// PR_SET_VMA: the C library names its mappings.
const PR_SET_VMA: u32 = 0x5356_4d41;
/// PR_GET_AUXV: rustix finds the vDSO.
const PR_GET_AUXV: u32 = 0x4155_5856;
/// `seccomp(2)`'s operation that adds a filter; with no flags it can only take away.
const SECCOMP_SET_MODE_FILTER: u32 = 1;

/// Numbers of KVM's calls as linux/kvm.h makes them of direction, size of the argument and number.
mod kvm {
    const fn call(direction: u32, size: u32, number: u32) -> u32 {
        (direction << 30) | (size << 16) | (0xae << 8) | number
    }
    /// No argument, or a plain number.
    const fn plain(number: u32) -> u32 {
        call(0, 0, number)
    }
    const fn write(number: u32, size: u32) -> u32 {
        call(1, size, number)
    }
    const fn read(number: u32, size: u32) -> u32 {
        call(2, size, number)
    }
    const fn both(number: u32, size: u32) -> u32 {
        call(3, size, number)
    }

    // Of a virtual processor while it runs.
    pub(super) const RUN: u32 = plain(0x80);
    pub(super) const GET_REGS: u32 = read(0x81, 144);
    pub(super) const SET_REGS: u32 = write(0x82, 144);
    pub(super) const GET_SREGS: u32 = read(0x83, 312);
    pub(super) const SET_SREGS: u32 = write(0x84, 312);
    pub(super) const TRANSLATE: u32 = both(0x85, 24);
    pub(super) const GET_MSRS: u32 = both(0x88, 8);
    pub(super) const SET_MSRS: u32 = write(0x89, 8);
    pub(super) const GET_FPU: u32 = read(0x8c, 416);
    pub(super) const SET_FPU: u32 = write(0x8d, 416);
    pub(super) const GET_VCPU_EVENTS: u32 = read(0x9f, 64);
    pub(super) const SET_VCPU_EVENTS: u32 = write(0xa0, 64);
    pub(super) const GET_XSAVE: u32 = read(0xa4, 4096);
    pub(super) const SET_XSAVE: u32 = write(0xa5, 4096);
    pub(super) const GET_XCRS: u32 = read(0xa6, 392);
    pub(super) const SET_XCRS: u32 = write(0xa7, 392);

    // Of a virtual processor while it is set up.
    pub(super) const GET_LAPIC: u32 = read(0x8e, 1024);
    pub(super) const SET_LAPIC: u32 = write(0x8f, 1024);
    pub(super) const SET_CPUID2: u32 = write(0x90, 8);
    pub(super) const GET_MP_STATE: u32 = read(0x98, 4);
    pub(super) const SET_MP_STATE: u32 = write(0x99, 4);
    pub(super) const KVMCLOCK_CTRL: u32 = plain(0xad);

    // Of the machine.
    pub(super) const CHECK_EXTENSION: u32 = plain(0x03);
    pub(super) const GET_SUPPORTED_CPUID: u32 = both(0x05, 8);
    pub(super) const CREATE_VCPU: u32 = plain(0x41);
    pub(super) const GET_VCPU_MMAP_SIZE: u32 = plain(0x04);
    pub(super) const SET_USER_MEMORY_REGION: u32 = write(0x46, 32);
    pub(super) const SET_GSI_ROUTING: u32 = write(0x6a, 8);
    pub(super) const IRQFD: u32 = write(0x76, 32);
    pub(super) const IOEVENTFD: u32 = write(0x79, 64);
    pub(super) const SET_CLOCK: u32 = write(0x7b, 48);
    pub(super) const GET_CLOCK: u32 = read(0x7c, 48);
    pub(super) const ENABLE_CAP: u32 = write(0xa3, 104);
    pub(super) const X86_SET_MSR_FILTER: u32 = write(0xc6, 392);
    pub(super) const GET_STATS_FD: u32 = plain(0xce);
}

/// What a processor's thread asks of KVM once the guest runs.
const RUNNING: &[&[Condition]] = &[
    &[int(1, kvm::RUN)],
    &[int(1, kvm::GET_REGS)],
    &[int(1, kvm::SET_REGS)],
    &[int(1, kvm::GET_SREGS)],
    &[int(1, kvm::SET_SREGS)],
    &[int(1, kvm::TRANSLATE)],
    &[int(1, kvm::GET_MSRS)],
    &[int(1, kvm::SET_MSRS)],
    &[int(1, kvm::GET_FPU)],
    &[int(1, kvm::SET_FPU)],
    &[int(1, kvm::GET_VCPU_EVENTS)],
    &[int(1, kvm::SET_VCPU_EVENTS)],
    &[int(1, kvm::GET_XSAVE)],
    &[int(1, kvm::SET_XSAVE)],
    &[int(1, kvm::GET_XCRS)],
    &[int(1, kvm::SET_XCRS)],
];

/// What completes a machine of which only the shell was there.
const COMPLETION: &[&[Condition]] = &[
    &[int(1, kvm::GET_LAPIC)],
    &[int(1, kvm::SET_LAPIC)],
    &[int(1, kvm::SET_CPUID2)],
    &[int(1, kvm::GET_MP_STATE)],
    &[int(1, kvm::SET_MP_STATE)],
    &[int(1, kvm::KVMCLOCK_CTRL)],
    &[int(1, kvm::CHECK_EXTENSION)],
    &[int(1, kvm::GET_SUPPORTED_CPUID)],
    &[int(1, kvm::CREATE_VCPU)],
    &[int(1, kvm::GET_VCPU_MMAP_SIZE)],
    &[int(1, kvm::SET_USER_MEMORY_REGION)],
    &[int(1, kvm::SET_GSI_ROUTING)],
    &[int(1, kvm::IRQFD)],
    &[int(1, kvm::IOEVENTFD)],
    &[int(1, kvm::SET_CLOCK)],
    &[int(1, kvm::GET_CLOCK)],
    &[int(1, kvm::ENABLE_CAP)],
    &[int(1, kvm::X86_SET_MSR_FILTER)],
    &[int(1, kvm::GET_STATS_FD)],
    &[int(1, libc::FIONBIO as u32)],
    &[int(1, libc::FIONREAD as u32)],
];

/// Both, for the process whose threads narrow themselves.
const MACHINE: &[&[Condition]] = &joined::<{ RUNNING.len() + COMPLETION.len() }>(RUNNING, COMPLETION);

const fn joined<const N: usize>(
    first: &[&'static [Condition]],
    second: &[&'static [Condition]],
) -> [&'static [Condition]; N] {
    let mut all: [&'static [Condition]; N] = [&[]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

const PRCTL: &[&[Condition]] = &[
    &[int(0, libc::PR_SET_NAME as u32)],
    &[int(0, libc::PR_GET_NAME as u32)],
    &[int(0, libc::PR_SET_NO_NEW_PRIVS as u32)],
    &[int(0, libc::PR_SET_TIMERSLACK as u32)],
    &[int(0, PR_SET_VMA)],
    &[int(0, PR_GET_AUXV)],
];

const NO_EXECUTION: &[&[Condition]] = &[&[bits(2, PROT_EXEC, 0)]];

pub(super) const ALLOWED: &[Allow] = &[
    // The machine.
    only(
        libc::SYS_ioctl,
        MACHINE,
        "KVM: a machine's completion and its processors; waiting on streams; nothing else",
    ),
    only(
        libc::SYS_seccomp,
        &[&[int(0, SECCOMP_SET_MODE_FILTER), int(1, 0)]],
        "a thread takes a narrower list; without flags it can only lose",
    ),
    only(libc::SYS_prctl, PRCTL, "names of threads and mappings; what a narrower list needs first"),
    always(libc::SYS_tgkill, "bringing a processor out of KVM_RUN; nothing else is in the pid namespace"),
    // Waiting.
    always(libc::SYS_ppoll, "control socket, streams, events of devices"),
    always(libc::SYS_poll, "the same, older form"),
    always(libc::SYS_epoll_create1, "events of devices"),
    always(libc::SYS_epoll_ctl, "events of devices"),
    always(libc::SYS_epoll_wait, "events of devices"),
    always(libc::SYS_epoll_pwait, "events of devices"),
    always(libc::SYS_eventfd2, "notifications of queues and interrupts"),
    always(libc::SYS_timerfd_create, "the time until the guest has to be ready"),
    always(libc::SYS_timerfd_settime, "the time until the guest has to be ready"),
    always(libc::SYS_futex, "locks between its threads"),
    always(libc::SYS_nanosleep, "short waits"),
    always(libc::SYS_clock_nanosleep, "short waits"),
    always(libc::SYS_sched_yield, "short waits"),
    always(libc::SYS_restart_syscall, "waits that a stop interrupted"),
    // Files: the scratch disk, image and kernel by descriptor, statistics of KVM, /proc of its own pid namespace.
    always(libc::SYS_openat, "the scratch disk and /proc/self; the root holds nothing else"),
    always(libc::SYS_open, "the same: how rustix opens a path"),
    always(libc::SYS_close, "descriptors"),
    always(libc::SYS_read, "streams, events, /proc/self"),
    always(libc::SYS_write, "streams, events, console"),
    always(libc::SYS_readv, "streams"),
    always(libc::SYS_writev, "streams"),
    always(libc::SYS_pread64, "disks, kernel, statistics"),
    always(libc::SYS_pwrite64, "the scratch disk"),
    always(libc::SYS_preadv, "disks, straight into guest memory"),
    always(libc::SYS_pwritev, "the scratch disk, straight out of guest memory"),
    always(libc::SYS_lseek, "sizes of kernel and disks, /proc files"),
    always(libc::SYS_ftruncate, "the size of the scratch disk and of guest memory"),
    always(libc::SYS_fallocate, "discards of the scratch disk"),
    always(libc::SYS_fsync, "flushes of the scratch disk"),
    always(libc::SYS_fdatasync, "flushes of the scratch disk"),
    always(libc::SYS_fstat, "sizes and kinds of descriptors"),
    always(libc::SYS_newfstatat, "sizes and kinds of descriptors"),
    always(libc::SYS_statx, "sizes and kinds of descriptors"),
    always(libc::SYS_unlinkat, "the scratch disk has no name"),
    always(libc::SYS_unlink, "the same, by the standard library"),
    always(libc::SYS_memfd_create, "guest memory"),
    always(libc::SYS_fcntl, "flags, duplicates"),
    always(libc::SYS_dup, "duplicates"),
    // The control socket; no call that makes a socket is here.
    always(libc::SYS_sendmsg, "frames to the launcher"),
    always(libc::SYS_recvmsg, "frames and descriptors from the launcher"),
    always(libc::SYS_sendto, "frames to the launcher"),
    always(libc::SYS_recvfrom, "frames from the launcher"),
    always(libc::SYS_shutdown, "the end of the control socket"),
    // Its own memory and the guest's: never executable after start.
    only(libc::SYS_mmap, NO_EXECUTION, "heap, guest memory, what KVM shares of a processor"),
    only(libc::SYS_mprotect, NO_EXECUTION, "guard pages of thread stacks"),
    always(libc::SYS_munmap, "heap, maps"),
    always(libc::SYS_mremap, "heap"),
    always(libc::SYS_madvise, "heap, guest memory that is given back"),
    always(libc::SYS_brk, "heap"),
    // Its own threads and signals.
    only(libc::SYS_clone, &[&[bits(0, CLONE_THREAD, CLONE_THREAD)]], "threads; never a process"),
    always(libc::SYS_exit, "end of a thread"),
    always(libc::SYS_exit_group, "end of the VMM"),
    always(libc::SYS_set_robust_list, "start of a thread"),
    always(libc::SYS_rseq, "start of a thread"),
    always(libc::SYS_sched_getaffinity, "start of a thread: the C library asks for its stack"),
    always(libc::SYS_sigaltstack, "start of a thread"),
    always(libc::SYS_rt_sigaction, "its own handlers"),
    always(libc::SYS_rt_sigprocmask, "its own handlers"),
    always(libc::SYS_rt_sigreturn, "its own handlers"),
    // Questions about itself and the host's clock.
    always(libc::SYS_getpid, "itself"),
    always(libc::SYS_gettid, "itself"),
    always(libc::SYS_clock_gettime, "clocks that the vDSO does not serve, and cpu clocks"),
    always(libc::SYS_gettimeofday, "the clock where there is no vDSO"),
    always(libc::SYS_getrandom, "the guest's entropy device; hash maps"),
];

/// The thread of a virtual processor: what exits of KVM_RUN need, and the end of the thread.
pub(super) const VCPU: &[Allow] = &[
    only(libc::SYS_ioctl, RUNNING, "KVM_RUN, and the processor's own state"),
    always(libc::SYS_write, "events to the devices' thread, console, last words"),
    always(libc::SYS_read, "events that stop it"),
    always(libc::SYS_pread64, "KVM's counters of this processor"),
    always(libc::SYS_futex, "locks between threads"),
    always(libc::SYS_sched_yield, "short waits"),
    always(libc::SYS_restart_syscall, "waits that a stop interrupted"),
    always(libc::SYS_gettid, "itself"),
    always(libc::SYS_getpid, "itself"),
    always(libc::SYS_tgkill, "bringing the other processors out of KVM_RUN at the end"),
    always(libc::SYS_clock_gettime, "clocks that the vDSO does not serve"),
    only(libc::SYS_mmap, NO_EXECUTION, "heap"),
    only(libc::SYS_mprotect, NO_EXECUTION, "heap"),
    always(libc::SYS_munmap, "heap, its own stack"),
    always(libc::SYS_mremap, "heap"),
    always(libc::SYS_madvise, "its own stack"),
    always(libc::SYS_brk, "heap"),
    always(libc::SYS_close, "descriptors that it was given"),
    always(libc::SYS_sigaltstack, "end of the thread"),
    always(libc::SYS_rt_sigprocmask, "end of the thread"),
    always(libc::SYS_rt_sigreturn, "the signal that stops it"),
    always(libc::SYS_exit, "end of the thread"),
    always(libc::SYS_exit_group, "end of the VMM"),
];

/// The devices' thread: queues of the guest, files of its disks, the job's streams. It has no business with KVM itself, whose
/// events and interrupts are plain descriptors.
pub(super) const DEVICES: &[Allow] = &[
    always(libc::SYS_epoll_wait, "events of devices"),
    always(libc::SYS_epoll_pwait, "events of devices"),
    always(libc::SYS_epoll_ctl, "streams that are to be waited for, or not"),
    always(libc::SYS_ppoll, "streams"),
    always(libc::SYS_poll, "streams"),
    always(libc::SYS_read, "events, the job's standard input"),
    always(libc::SYS_write, "interrupts, the job's output, last words"),
    always(libc::SYS_readv, "streams"),
    always(libc::SYS_writev, "streams"),
    always(libc::SYS_pread64, "disks"),
    always(libc::SYS_pwrite64, "the scratch disk"),
    always(libc::SYS_preadv, "disks, straight into guest memory"),
    always(libc::SYS_pwritev, "the scratch disk, straight out of guest memory"),
    always(libc::SYS_fallocate, "discards of the scratch disk"),
    always(libc::SYS_fsync, "flushes of the scratch disk"),
    always(libc::SYS_fdatasync, "flushes of the scratch disk"),
    always(libc::SYS_getrandom, "the guest's entropy device"),
    always(libc::SYS_sendmsg, "frames that the guest sent"),
    always(libc::SYS_sendto, "bytes that the guest sent"),
    always(libc::SYS_recvfrom, "bytes for the guest"),
    always(libc::SYS_recvmsg, "bytes for the guest"),
    always(libc::SYS_shutdown, "a stream's end"),
    always(libc::SYS_fcntl, "streams that must not block"),
    always(libc::SYS_close, "streams that have ended"),
    always(libc::SYS_futex, "locks between threads"),
    always(libc::SYS_sched_yield, "short waits"),
    always(libc::SYS_restart_syscall, "waits that a stop interrupted"),
    always(libc::SYS_clock_gettime, "clocks that the vDSO does not serve"),
    only(libc::SYS_mmap, NO_EXECUTION, "heap"),
    only(libc::SYS_mprotect, NO_EXECUTION, "heap"),
    always(libc::SYS_munmap, "heap, its own stack"),
    always(libc::SYS_mremap, "heap"),
    always(libc::SYS_madvise, "heap, its own stack"),
    always(libc::SYS_brk, "heap"),
    always(libc::SYS_sigaltstack, "end of the thread"),
    always(libc::SYS_rt_sigprocmask, "end of the thread"),
    always(libc::SYS_rt_sigreturn, "its own handlers"),
    always(libc::SYS_gettid, "itself"),
    always(libc::SYS_getpid, "itself"),
    always(libc::SYS_tgkill, "bringing processors out of KVM_RUN when the guest has to end"),
    always(libc::SYS_exit, "end of the thread"),
    always(libc::SYS_exit_group, "end of the VMM"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvms_numbers_are_those_of_the_header() {
        // As `strace -e raw=ioctl` shows them.
        assert_eq!(
            [kvm::RUN, kvm::SET_REGS, kvm::GET_SREGS, kvm::SET_CPUID2, kvm::IOEVENTFD, kvm::TRANSLATE],
            [0xae80, 0x4090_ae82, 0x8138_ae83, 0x4008_ae90, 0x4040_ae79, 0xc018_ae85]
        );
    }

    #[test]
    fn a_thread_may_nothing_that_its_process_may_not() {
        for (thread, name) in [(VCPU, "vcpu"), (DEVICES, "devices")] {
            for allow in thread {
                let process = ALLOWED.iter().find(|other| other.number == allow.number);
                let process =
                    process.unwrap_or_else(|| panic!("{name}: {} is only the thread's", allow.number));
                let within = process.when.is_empty()
                    || (!allow.when.is_empty() && allow.when.iter().all(|set| process.when.contains(set)));
                assert!(within, "{name}: {} is wider than the process's", allow.number);
            }
        }
    }
}
