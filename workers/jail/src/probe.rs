//! What this host's kernel can do, found out by doing it, in threads that end with the answer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::UnshareFlags;

/// What seccomp user notification is good for here; each a text that says what went wrong, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// A filter with a listener can be installed, and a call is received and answered through it.
    pub works: Result<(), String>,
    /// A notified call wakes its server on the same core (kernel 6.6).
    pub sync_wake_up: Result<(), String>,
}

/// `struct seccomp_notif` and `struct seccomp_notif_resp` (linux/seccomp.h); the kernel may have longer ones.
#[repr(C)]
struct Request {
    id: u64,
    pid: u32,
    flags: u32,
    data: [u64; 8],
}

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const NOTIFY_RECV: libc::c_ulong = 0xc050_2100;
const NOTIFY_SEND: libc::c_ulong = 0xc018_2101;
const NOTIFY_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const SYNC_WAKE_UP: libc::c_ulong = 1;
/// The answer that the probing thread must get for its getpriority call, which can't return it natively.
const ANSWER: i64 = 4242;
/// How long a call may take to arrive; it takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tries seccomp user notification on a thread of this process.
pub fn notification() -> Notification {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || {
        let listener = install_listener();
        let installed = listener.is_ok();
        // The receiver waits for exactly this.
        let _ = send.send(listener);
        // SAFETY: 1. getpriority takes plain numbers.
        if installed { unsafe { libc::syscall(libc::SYS_getpriority, 0, 0) } } else { 0 }
    });
    let listener = match receive.recv() {
        Ok(Ok(listener)) => listener,
        Ok(Err(e)) => return unusable(&e),
        Err(_) => return unusable(&io::Error::other("the probing thread died")),
    };
    // SAFETY: 1. the request takes its flags by value.
    let sync = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_SET_FLAGS, SYNC_WAKE_UP) };
    let sync_wake_up = if sync == 0 { Ok(()) } else { Err(io::Error::last_os_error().to_string()) };
    let answered = answer(&listener);
    // Without its listener the thread's call ends with ENOSYS.
    drop(listener);
    let got = thread.join().unwrap_or(-1);
    let works = match answered {
        Ok(()) if got == ANSWER => Ok(()),
        Ok(()) => Err(format!("the call returned {got} instead of the answer")),
        Err(e) => Err(e.to_string()),
    };
    Notification { works, sync_wake_up }
}

fn unusable(error: &io::Error) -> Notification {
    let text = match error.raw_os_error() {
        Some(libc::EBUSY) => "an outer sandbox has a listener already".to_owned(),
        _ => error.to_string(),
    };
    Notification { works: Err(text.clone()), sync_wake_up: Err(text) }
}

fn install_listener() -> io::Result<OwnedFd> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        // The call's number is the first word of struct seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_getpriority as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: 1. `program` and `filter` live through the call; 2. without TSYNC the filter is this thread's only; 3. the
    // result, if not negative, is a new descriptor that is ours alone.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let fd = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

fn answer(listener: &OwnedFd) -> io::Result<()> {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    if poll(&mut fds, Some(&timeout))? == 0 {
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    // Zeroed, as the kernel demands, and with room for longer versions.
    let mut buffer = [0u64; 64];
    let request = buffer.as_mut_ptr().cast::<Request>();
    // SAFETY: 1. the buffer is larger than any version of the structure, aligned for it, and zeroed; 2. after success the
    // kernel has filled it, and `id` is at its start in all versions.
    let id = unsafe {
        if libc::ioctl(listener.as_raw_fd(), NOTIFY_RECV, request) != 0 {
            return Err(io::Error::last_os_error());
        }
        (*request).id
    };
    let response = Response { id, val: ANSWER, error: 0, flags: 0 };
    // SAFETY: 1. the request reads one response.
    if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_SEND, &raw const response) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The namespaces of a sandbox, by name, and why one can't be made. (User namespaces can't be tried by a process with
/// threads: for them the kernel's limit is read.)
pub fn namespaces() -> Vec<(&'static str, Result<(), String>)> {
    let tried = [
        ("mount", UnshareFlags::NEWNS),
        ("pid", UnshareFlags::NEWPID),
        ("network", UnshareFlags::NEWNET),
        ("ipc", UnshareFlags::NEWIPC),
        ("uts", UnshareFlags::NEWUTS),
        ("cgroup", UnshareFlags::NEWCGROUP),
    ];
    let mut all: Vec<_> = std::thread::spawn(move || {
        tried
            .into_iter()
            .map(|(name, flag)| {
                // SAFETY: 1. the thread ends with this closure and nothing else runs in it; 2. FILES is not among the flags.
                let result = unsafe { rustix::thread::unshare_unsafe(flag) };
                (name, result.map_err(|e| e.to_string()))
            })
            .collect()
    })
    .join()
    .unwrap_or_default();
    all.push(("user", user_namespaces()));
    all
}

fn user_namespaces() -> Result<(), String> {
    if !std::path::Path::new("/proc/self/ns/user").exists() {
        return Err("the kernel has none".to_owned());
    }
    match std::fs::read_to_string("/proc/sys/user/max_user_namespaces") {
        Ok(text) if text.trim() == "0" => Err("/proc/sys/user/max_user_namespaces is 0".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supported_kernel_has_it_all() {
        // This project runs only where these work, so its tests may assume it.
        let found = notification();
        assert_eq!(found.works, Ok(()));
        assert_eq!(found.sync_wake_up, Ok(()));
        if rustix::process::geteuid().is_root() {
            let missing: Vec<_> = namespaces().into_iter().filter(|(_, r)| r.is_err()).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }
}
