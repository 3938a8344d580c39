//! The host calls of this crate that rustix does not offer, each in one small function.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::stub::Spent;

// linux/seccomp.h. Of libc and linux-raw-sys neither has all of them.
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// Wake the server on the core of the guest, and the guest on the core of the answer (Linux 6.6).
const SYNC_WAKE_UP: libc::c_ulong = 1;
/// The host's kernel executes the call.
pub(crate) const CONTINUE: u32 = 1;
const ADDFD_SETFD: u32 = 1;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    pub(crate) pid: i32,
    pub(crate) flags: u32,
    pub(crate) nr: i32,
    pub(crate) arch: u32,
    pub(crate) ip: u64,
    pub(crate) args: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

pub(crate) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(code)
}

/// Waits for a notification.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // The kernel insists on a zeroed structure before each RECV.
    let mut notification = Notification::default();
    // SAFETY: `Notification` is `struct seccomp_notif` (80 bytes, as the request number says), live and ours.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut notification) }.into())?;
    Ok(notification)
}

/// Answers a notification; false if it is gone, which is no error: its thread died.
pub(crate) fn send(listener: BorrowedFd<'_>, id: u64, val: i64, flags: u32) -> bool {
    let response = Response { id, val, error: 0, flags };
    // SAFETY: `Response` is `struct seccomp_notif_resp` (24 bytes, as the request number says), live and ours.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw const response) };
    debug_assert!(sent == 0 || matches!(last_errno(), Errno::NOENT | Errno::INPROGRESS));
    sent == 0
}

/// Whether whoever sent this notification still waits for its answer.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads one u64, which is live.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Puts a descriptor into the process that waits for the answer; at `at` (replacing what is there) or at the
/// lowest free number, always close-on-exec.
pub(crate) fn add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    at: Option<i32>,
) -> Result<i32, Errno> {
    let request = AddFd {
        id,
        flags: if at.is_some() { ADDFD_SETFD } else { 0 },
        srcfd: fd.as_raw_fd() as u32,
        newfd: at.unwrap_or(0) as u32,
        newfd_flags: libc::O_CLOEXEC as u32,
    };
    // SAFETY: `AddFd` is `struct seccomp_notif_addfd` (24 bytes, as the request number says), live and ours.
    let number = check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ADDFD, &raw const request) }.into())?;
    Ok(number as i32)
}

/// Asks for wake-ups on the same core.
pub(crate) fn set_sync_wake_up(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: SET_FLAGS takes its argument by value.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS, SYNC_WAKE_UP) }.into())?;
    Ok(())
}

/// Queues a signal for one thread; ESRCH if `tid` is no thread of `pid`. Signal 0 only asks.
pub(crate) fn tgkill(pid: i32, tid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: tgkill takes plain numbers.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) })?;
    Ok(())
}

/// Sends a signal to a process (for kill(2) the number of any of its threads will do).
pub(crate) fn kill(pid: i32, signal: i32) {
    debug_assert!(pid > 1);
    // SAFETY: kill takes plain numbers.
    unsafe { libc::kill(pid, signal) };
}

/// Kills all other processes of the pid namespace, if this process is its first: then all are its descendants.
pub(crate) fn kill_namespace() {
    if std::process::id() == 1 {
        // SAFETY: kill takes plain numbers.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// How late the calling thread's sleeps may end, in nanoseconds.
pub(crate) fn set_timer_slack(nanoseconds: u64) {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0) };
}

/// Whether `pid` is a living child of this process.
pub(crate) fn is_child(pid: i32) -> bool {
    // SAFETY: siginfo_t is plain data for which zeroes are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is live and ours.
    let found = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, options) };
    // SAFETY: waitid has filled or zeroed si_pid.
    found == 0 && unsafe { info.si_pid() } == 0
}

/// Whether `pid` is a child of this process that has ended and is not reaped.
pub(crate) fn is_ended_child(pid: i32) -> bool {
    is_any_child(pid) && !is_child(pid)
}

/// Whether `pid` is a child of this process, living or not.
pub(crate) fn is_any_child(pid: i32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: waitid may be given no place for its answer.
    unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, std::ptr::null_mut(), options) == 0 }
}

/// What waitid said about an ended child.
pub(crate) struct Ended {
    pub(crate) pid: i32,
    pub(crate) killed: bool,
    pub(crate) status: i32,
}

/// Waits until a child has ended, without reaping it.
pub(crate) fn wait_ended() -> Result<Ended, Errno> {
    // SAFETY: siginfo_t is plain data for which zeroes are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is live and ours.
    check(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) }.into())?;
    // SAFETY: waitid succeeded, so the fields of a child's end are filled in.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(Ended { pid, killed: info.si_code != libc::CLD_EXITED, status })
}

/// Reaps a child that has ended; what it used in all.
pub(crate) fn reap(pid: i32) -> Spent {
    // SAFETY: rusage is plain data for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a null status pointer is allowed; `usage` is live and ours.
    unsafe { libc::wait4(pid, std::ptr::null_mut(), libc::__WALL, &raw mut usage) };
    let us = |time: libc::timeval| (time.tv_sec as u64).saturating_mul(1_000_000) + time.tv_usec as u64;
    Spent {
        user_us: us(usage.ru_utime),
        system_us: us(usage.ru_stime),
        peak_resident: (usage.ru_maxrss as u64).saturating_mul(1024),
    }
}

/// Reaps a child that has ended or is about to; its exit status, unless a signal killed it.
pub(crate) fn exit_status(pid: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is live and ours.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    (reaped == pid && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status))
}

/// Takes a copy of another process's descriptor.
pub(crate) fn steal_fd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes plain numbers.
    let number = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it. It is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

/// Processor time that a process has used so far, in nanoseconds.
pub(crate) fn process_cpu_ns(pid: i32) -> Option<u64> {
    /// CPUCLOCK_SCHED of the kernel's clock numbers for processes: all time, of all threads.
    const ALL_TIME: libc::clockid_t = 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to `time`, which is valid for the call.
    let result = unsafe { libc::clock_gettime(!pid << 3 | ALL_TIME, &raw mut time) };
    (result == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
