//! What a system call's handler is given and what it answers.

use std::time::{Duration, Instant};

use crate::errno::Errno;

/// The six arguments of a system call, as the guest's registers hold them.
#[derive(Debug, Clone, Copy)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `n` as it is.
    pub const fn u64(&self, n: usize) -> u64 {
        self.0[n]
    }

    /// Argument `n` as a C int: Linux ignores the upper half of the register.
    pub const fn int(&self, n: usize) -> i32 {
        self.0[n] as i32
    }

    /// Argument `n` as a C unsigned int.
    pub const fn uint(&self, n: usize) -> u32 {
        self.0[n] as u32
    }

    /// Argument `n` as a size or address.
    pub const fn usize(&self, n: usize) -> usize {
        self.0[n] as usize
    }

    /// Argument `n` as a signed long.
    pub const fn long(&self, n: usize) -> i64 {
        self.0[n] as i64
    }
}

/// What happens to a parked call when a signal handler is to run; Linux's restart classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// ERESTARTSYS: restarted if the handler has SA_RESTART, else EINTR. read, write, wait4, flock, ...
    Sys,
    /// ERESTARTNOHAND and always-EINTR calls: restarted only if no handler runs. poll, select, epoll_wait,
    /// pause, rt_sigsuspend, rt_sigtimedwait, nanosleep and calls with a time-out.
    NoHandler,
}

/// Why a handler has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    /// The call fails.
    Errno(Errno),
    /// The call waits. Its waiter stands on the queues that can end the wait; when one does, the handler is
    /// executed again from its start, with the same [`CallState`].
    Park(Restart),
    /// The call has no ordinary answer: the handler has already seen to the task (exec, exit, sigreturn).
    Done,
    /// The call needs all registers of its caller, which a plain call does not have: the run loop fetches them
    /// and executes the handler again.
    Registers,
    /// Let the host's kernel execute the call natively. Only for what `platform` consents to.
    Native,
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<rustix::io::Errno> for Fail {
    fn from(host: rustix::io::Errno) -> Self {
        Self::Errno(host.into())
    }
}

/// What a handler answers: the value of the return register, or why there is none.
pub type SysResult = Result<u64, Fail>;

/// What is kept of a call between its executions.
#[derive(Debug, Clone, Default)]
pub struct CallState {
    /// When the wait ends; set at the first execution, so that a re-execution does not start over.
    deadline: Option<Instant>,
    /// Progress that must not be made twice, for example bytes already written to a pipe. If a signal ends the
    /// wait and this is not 0, the call returns it instead of EINTR.
    pub progress: u64,
    /// Executions so far, the current one included.
    pub executions: u32,
    /// It has changed its task's signal mask for as long as it lasts.
    pub masked: bool,
    /// What the call holds on to while it waits, for example a FIFO's end whose other end is not there yet.
    pub held: Option<std::sync::Arc<dyn std::any::Any + Send + Sync>>,
}

impl CallState {
    /// Limits the wait to `timeout` from the first execution; a re-execution keeps the first deadline.
    pub fn wait_at_most(&mut self, timeout: Duration) {
        if self.deadline.is_none() {
            // A time-out beyond the clock's range is no time-out.
            self.deadline = Instant::now().checked_add(timeout);
        }
    }

    /// Limits the wait to a point in time.
    pub fn wait_until(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// When the wait ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the wait has lasted as long as it may.
    pub fn timed_out(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}
