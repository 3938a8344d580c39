//! The thread that a sandbox's process belongs to: it starts it (so the process dies with it, and with the launcher), waits for its end,
//! and kills it when a deadline passes, whatever the thread that talks to it is waiting for.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, sync_channel};
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

/// A process that is being started. To be finished, whatever became of the rest.
#[must_use]
pub(super) struct Starting(Receiver<io::Result<Arc<Keeper>>>);

impl Starting {
    /// Waits until it runs.
    pub(super) fn finish(self) -> io::Result<Arc<Keeper>> {
        self.0.recv().map_err(io::Error::other)?
    }
}

impl Keeper {
    /// Starts the process in a thread of its own, and does not wait for it: there is more to prepare meanwhile.
    pub(super) fn start(program: Program<'_>) -> io::Result<Starting> {
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
        Ok(Starting(receive))
    }

    fn keep(&self) {
        loop {
            let deadline = self.lock().deadline;
            let pidfd = self.child.pidfd();
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN), self.wake.poll()];
            match poll(&mut fds, until(deadline).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Out of memory in the kernel: wait() does without descriptors.
                Err(_) => {
                    let ended = self.child.wait().unwrap_or(Ended::Signaled(0));
                    // Whoever waits may have been the one that reaped it.
                    self.lock().ended.get_or_insert(ended);
                    break;
                }
            }
            if !fds[0].revents().is_empty() && self.reap(&mut self.lock()) {
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
        self.changed.notify_all();
    }

    /// Whether it has ended; reaps it then. Under the lock, so that of those who wait one reaps it and all are told.
    fn reap(&self, state: &mut State) -> bool {
        if state.ended.is_none() {
            state.ended = match self.child.try_wait() {
                Ok(ended) => ended,
                Err(_) => Some(Ended::Signaled(0)),
            };
        }
        state.ended.is_some()
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

    /// Whether it is known to have ended.
    pub(super) fn ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Waits until it has ended and was reaped, at most for `timeout`. Looks for itself: word from the keeper's thread would
    /// come a wake-up later.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Ended> {
        let deadline = Instant::now() + timeout;
        loop {
            let pidfd = self.child.pidfd();
            let polled = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], until(Some(deadline)).as_ref());
            let mut state = self.lock();
            if self.reap(&mut state) {
                return state.ended;
            }
            if matches!(polled, Err(error) if error != Errno::INTR) {
                // Out of memory in the kernel: the keeper's thread does without descriptors.
                let (state, _) = self
                    .changed
                    .wait_timeout_while(state, timeout, |s| s.ended.is_none())
                    .unwrap_or_else(PoisonError::into_inner);
                return state.ended;
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }
}
