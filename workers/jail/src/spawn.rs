//! Starts the first process of a sandbox: in a new pid namespace, with exactly the given descriptors, dying with the thread
//! that started it. The child borrows the launcher's memory until its exec (as vfork does), so that the cost does not grow
//! with the launcher.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

/// Bytes; the child calls a handful of system calls and nothing else.
const CHILD_STACK: usize = 64 * 1024;
/// Descriptors are first moved above all targets; targets are below this.
const TARGETS_BELOW: RawFd = 64;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Absolute path of the executable.
    pub path: CString,
    /// Arguments, the program's name first.
    pub argv: Vec<CString>,
    /// Environment as KEY=VALUE; nothing is inherited.
    pub env: Vec<CString>,
    /// What to open as which number (below 64); everything else is closed.
    pub descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
    /// Make it PID 1 of a pid namespace of its own, so that its death is the death of all its descendants.
    pub pid_namespace: bool,
}

/// A started process. Dropping it does not end it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// Takes over a descriptor that this process was started with, once: each number is given out a single time.
///
/// # Errors
/// EBADF if it is not open, or was taken before.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    /// One bit for each number below [`TARGETS_BELOW`]; 0 to 2 belong to the standard streams.
    static TAKEN: AtomicU64 = AtomicU64::new(0b111);
    let bad = || io::Error::from_raw_os_error(libc::EBADF);
    if !(0..TARGETS_BELOW).contains(&number)
        || TAKEN.fetch_or(1 << number, Ordering::Relaxed) & (1 << number) != 0
    {
        return Err(bad());
    }
    // SAFETY: 1. F_GETFD and F_SETFD touch no memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(bad());
    }
    // SAFETY: 1. it is open; 2. `TAKEN` gives each number out once; 3. the contract is that it is called for descriptors that
    // the launcher passed, which nothing else in this process has opened.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exited with status {code}"),
            Ended::Signaled(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

impl Child {
    /// Its id in the launcher's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// A descriptor that becomes readable when it ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it; one that has ended already is fine.
    pub fn kill(&self) {
        // ESRCH is the only possible error: it has been reaped.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end and reaps it.
    ///
    /// # Errors
    /// ECHILD if it was reaped before.
    pub fn wait(&self) -> io::Result<Ended> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => return Ok(ended(&status)),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Reaps it if it has ended.
    ///
    /// # Errors
    /// ECHILD if it was reaped before.
    pub fn try_wait(&self) -> io::Result<Option<Ended>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        Ok(waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?.map(|status| ended(&status)))
    }
}

fn ended(status: &WaitIdStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signaled(signal.unwrap_or(0)),
    }
}

/// Everything that the child touches, prepared so that it needs neither allocation nor locks.
struct Plan {
    path: *const c_char,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// (source, target, moved): the third is scratch space for the child.
    descriptors: Vec<(RawFd, RawFd, RawFd)>,
    /// Set by the child if it failed.
    errno: c_int,
}

/// Starts `program`. The calling thread must live as long as the sandbox: its end kills the child.
///
/// # Errors
/// What clone or exec said; nothing is left running then.
pub fn spawn(program: &Program<'_>) -> io::Result<Child> {
    if program.descriptors.iter().any(|(_, to)| !(0..TARGETS_BELOW).contains(to)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let mut plan = Plan {
        path: program.path.as_ptr(),
        argv: pointers(&program.argv),
        env: pointers(&program.env),
        descriptors: program.descriptors.iter().map(|(from, to)| (from.as_raw_fd(), *to, -1)).collect(),
        errno: 0,
    };
    let mut stack = vec![0u128; CHILD_STACK / size_of::<u128>()];
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if program.pid_namespace {
        flags |= libc::CLONE_NEWPID;
    }
    let mut pidfd: c_int = -1;
    let blocked = BlockedSignals::all()?;
    // SAFETY: 1. the stack is 16-byte aligned (u128), grows down from its end, and outlives the child's use of it, because
    // CLONE_VFORK suspends this thread until the child execs or exits; 2. `plan` likewise, and nobody else touches it
    // meanwhile; 3. `child` calls only system calls and touches only `plan`; no signal handler can run in it, since all
    // signals are blocked and it resets the handlers of its own (copied) table before it unblocks; 4. `pidfd` is a valid int
    // for CLONE_PIDFD, which uses the parent_tid argument.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast::<c_void>(),
            flags,
            (&raw mut plan).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let clone_error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = Pid::from_raw(pid).filter(|p| p.as_raw_nonzero().get() > 0) else {
        return Err(clone_error);
    };
    // SAFETY: 1. clone succeeded, so it has stored a descriptor that is new and ours alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let child = Child { pid, pidfd };
    // SAFETY: 1. `plan` is alive; 2. volatile because the child wrote it behind the compiler's back.
    let errno = unsafe { std::ptr::read_volatile(&raw const plan.errno) };
    if errno != 0 {
        child.wait()?;
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(child)
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    let plan = plan.cast::<Plan>();
    // SAFETY: 1. `plan` is the parent's, alive and untouched until exec (CLONE_VFORK); 2. `become_program` returns only on
    // failure and keeps to async-signal-safe system calls.
    unsafe {
        (*plan).errno = become_program(&mut *plan);
        libc::_exit(127)
    }
}

/// Returns the errno of what failed.
///
/// # Safety
/// Runs in a child that shares the launcher's memory: no allocation, no locks, nothing but system calls.
unsafe fn become_program(plan: &mut Plan) -> c_int {
    // SAFETY: 1. every call is a plain system call on descriptors of this child's own table and on memory of `plan`, whose
    // strings and vectors end in a null; 2. the signal dispositions changed are the child's own copy (no CLONE_SIGHAND).
    unsafe {
        for signal in 1..=64 {
            // The C library's own two signals and the two that can't be caught fail; that is fine.
            libc::signal(signal, libc::SIG_DFL);
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 || libc::setsid() < 0 {
            return *libc::__errno_location();
        }
        let mut first_free = 0;
        for (from, to, moved) in &mut plan.descriptors {
            *moved = libc::fcntl(*from, libc::F_DUPFD, TARGETS_BELOW);
            if *moved < 0 {
                return *libc::__errno_location();
            }
            first_free = first_free.max(*to + 1);
        }
        for number in 0..TARGETS_BELOW {
            let wanted = plan.descriptors.iter().find(|(_, to, _)| *to == number);
            match wanted {
                Some((_, to, moved)) if libc::dup2(*moved, *to) < 0 => return *libc::__errno_location(),
                None if number < first_free => {
                    libc::close(number);
                }
                _ => {}
            }
        }
        // Also descriptors that a library opened without close-on-exec.
        if libc::syscall(libc::SYS_close_range, first_free, u32::MAX, 0) != 0 {
            return *libc::__errno_location();
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        if libc::chdir(c"/".as_ptr()) != 0
            || libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) != 0
        {
            return *libc::__errno_location();
        }
        libc::execve(plan.path, plan.argv.as_ptr(), plan.env.as_ptr());
        *libc::__errno_location()
    }
}

/// All signals blocked in this thread until dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> io::Result<Self> {
        // SAFETY: 1. sigset_t is plain data that the two calls fill; 2. both pointers are to locals.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
                0 => Ok(BlockedSignals { before }),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: 1. `before` was filled by pthread_sigmask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}
