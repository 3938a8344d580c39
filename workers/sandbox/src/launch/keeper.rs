//! The thread that a sandbox's process belongs to: it starts it (so the process dies with it, and with the launcher), waits for its end,
//! and kills it when a deadline passes, whatever the thread that talks to it is waiting for.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_jail::spawn::{Child, Ended, Program, spawn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Bytes; the thread polls and little else.
const STACK: usize = 128 * 1024;

/// A wake-up for a thread that polls.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Wake(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // Fails only when 2^64 - 2 rings are pending, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(super) fn poll(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }
}

/// What a poll's time-out must be to return at `deadline`.
pub(super) fn until(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    // Rounded up by a millisecond, so that a return at the deadline is not just before it.
    let left = left.saturating_add(Duration::from_millis(1)).min(Duration::from_secs(86_400));
    Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
}

#[derive(Debug, Default)]
struct State {
    ended: Option<Ended>,
    deadline: Option<Instant>,
    /// The deadline passed, and the process was killed for it.
    overdue: bool,
}

/// A running process of a sandbox.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    wake: Wake,
    state: Mutex<State>,
    changed: Condvar,
}

impl Keeper {
    /// Starts the process in a thread of its own.
    pub(super) fn start(program: Program<'_>) -> io::Result<Arc<Self>> {
        let wake = Wake::new()?;
        // The thread must outlive this call but borrows the descriptors that the process gets: so it takes copies.
        let Program { path, argv, env, descriptors, pid_namespace } = program;
        let descriptors = descriptors
            .into_iter()
            .map(|(fd, to)| Ok((fd.try_clone_to_owned()?, to)))
            .collect::<io::Result<Vec<_>>>()?;
        let (send, receive) = sync_channel(1);
        std::thread::Builder::new().name("keeper".into()).stack_size(STACK).spawn(move || {
            let borrowed = descriptors.iter().map(|(fd, to)| (fd.as_fd(), *to)).collect();
            let started =
                spawn(&Program { path, argv, env, descriptors: borrowed, pid_namespace }).map(|child| {
                    Arc::new(Keeper { child, wake, state: Mutex::default(), changed: Condvar::new() })
                });
            drop(descriptors);
            let keeper = started.as_ref().ok().map(Arc::clone);
            // The starter waits for this; if it has gone, the process ends when its control socket closes.
            let _ = send.send(started);
            if let Some(keeper) = keeper {
                keeper.keep();
            }
        })?;
        receive.recv().map_err(io::Error::other)?
    }

    fn keep(&self) {
        loop {
            let deadline = self.lock().deadline;
            let pidfd = self.child.pidfd();
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN), self.wake.poll()];
            match poll(&mut fds, until(deadline).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Out of memory in the kernel: wait() below does without descriptors.
                Err(_) => break,
            }
            if !fds[0].revents().is_empty() {
                break;
            }
            self.wake.clear();
            let mut state = self.lock();
            if state.deadline.is_some_and(|d| Instant::now() >= d) {
                state.deadline = None;
                state.overdue = true;
                self.child.kill();
            }
        }
        let ended = self.child.wait().unwrap_or(Ended::Signaled(0));
        self.lock().ended = Some(ended);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held can't leave the three plain values half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it, and with it every process of the sandbox.
    pub(super) fn kill(&self) {
        self.child.kill();
    }

    /// Kill it at this time, unless another call comes before.
    pub(super) fn deadline(&self, at: Option<Instant>) {
        self.lock().deadline = at;
        self.wake.ring();
    }

    /// Whether it was killed because a deadline passed.
    pub(super) fn overdue(&self) -> bool {
        self.lock().overdue
    }

    /// Waits until it has ended and was reaped, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Ended> {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |s| s.ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.ended
    }
}
