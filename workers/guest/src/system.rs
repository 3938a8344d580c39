//! System calls that rustix has no safe form of: the only `unsafe` of the agent.
#![allow(unsafe_code, reason = "each block proves itself; the rest of the crate has none")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// Makes an error of a negative answer.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: a system call just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that whoever started us left open.
///
/// # Errors
/// EBADF if there is none.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads a flag of a number, open or not.
    checked(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and by the agreement with our starter these numbers are ours alone; each is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Connects a stream to a port of the host.
///
/// # Errors
/// The system's, such as ENODEV without a device, or ECONNRESET when the host does not listen.
pub(crate) fn connect_host(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the answer is checked.
    let socket = owned(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: zeroes are a valid value of this structure of numbers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is a live sockaddr_vm of `length` bytes, which the call only reads.
    checked(unsafe { libc::connect(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) })?;
    Ok(socket)
}

/// A descriptor that is readable when a child has changed; SIGCHLD is blocked from here on.
///
/// # Errors
/// The system's.
pub(crate) fn child_events() -> io::Result<OwnedFd> {
    // SAFETY: zeroes are a valid sigset_t, and the calls initialise and read this one, which lives through all of them.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        checked(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// Sends a signal to a process, or, with -1, to all but ourselves.
pub(crate) fn kill(pid: i32, signal: u8) {
    // SAFETY: two numbers. As the first process, -1 means everything in this machine but us. That nobody is left is fine.
    unsafe { libc::kill(pid, signal.into()) };
}

/// Adds secret bytes to the kernel's random generator, credits them, and has every processor's generator seeded anew.
///
/// # Errors
/// The system's.
pub(crate) fn add_entropy(random: BorrowedFd<'_>, seed: &[u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info` with its bytes.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 32],
    }
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let pool = Pool { bits: 256, size: 32, bytes: *seed };
    // SAFETY: the request reads a rand_pool_info of `size` bytes, which `pool` is; the second takes no argument.
    unsafe {
        checked(libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, ptr::from_ref(&pool)))?;
        checked(libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG))?;
    }
    Ok(())
}

/// Switches the loopback interface on.
///
/// # Errors
/// The system's.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: plain numbers; the answer is checked.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: zeroes are a valid ifreq, whose members are numbers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request)) })?;
    Ok(())
}

/// From here on this process and its children see its control group as the root of all.
///
/// # Errors
/// The system's.
pub(crate) fn own_control_group_view() -> io::Result<()> {
    // SAFETY: a control group namespace changes what /proc and mounts show, and nothing that memory safety rests on; unlike
    // NEWNS or FILES it takes nothing from other threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP)? };
    Ok(())
}

/// A program's arguments or environment, as execve takes them.
pub(crate) struct Strings {
    /// What the pointers point into; never changed.
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into `_strings`, which moves with them and is never changed.
unsafe impl Send for Strings {}
// SAFETY: the same; shared references only read.
unsafe impl Sync for Strings {}

impl Strings {
    /// Takes strings over.
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        // The bytes of a CString stay where they are when the vector moves.
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// Replaces the program of this process; returns only why it did not.
pub(crate) fn execute(path: &CStr, arguments: &Strings, environment: &Strings) -> io::Error {
    // SAFETY: a path that ends with zero, and two arrays that end with null, of strings that end with zero.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Runs `body` in the child between fork and exec, when the standard streams are in place.
///
/// `body` must not allocate or take locks, which is what makes it sound in any program. (The agent has one thread, so that
/// even a slip would do no harm.)
pub(crate) fn in_child(command: &mut Command, body: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the only caller's closure makes plain system calls on memory that was prepared before the fork.
    unsafe { command.pre_exec(body) };
}
