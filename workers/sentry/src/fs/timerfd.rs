//! timerfd.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::sync::Mutex;
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue, Wake};

/// A timer that can be waited for.
pub struct TimerFd(Arc<Timer>);

struct Timer {
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    next: Option<Instant>,
    interval: Duration,
    expirations: u64,
}

impl State {
    /// Counts what has expired by now.
    fn advance(&mut self, now: Instant) {
        let Some(next) = self.next.filter(|next| *next <= now) else { return };
        if self.interval.is_zero() {
            self.expirations += 1;
            self.next = None;
            return;
        }
        let late = (now - next).as_nanos();
        let interval = self.interval.as_nanos();
        let periods = u64::try_from(late / interval).unwrap_or(u64::MAX - 1) + 1;
        self.expirations = self.expirations.saturating_add(periods);
        let into = u64::try_from(interval - late % interval).unwrap_or(u64::MAX);
        self.next = now.checked_add(Duration::from_nanos(into));
    }
}

impl Wake for Timer {
    fn wake(&self, _key: u64, _events: Events) {
        self.queue.wake(Events::IN);
    }
}

impl TimerFd {
    /// A timer that is not set.
    pub fn new(kernel: &Arc<Kernel>) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Timer { kernel: Arc::downgrade(kernel), state, queue: WaitQueue::new() }))
    }

    /// Sets it (`None` stops it); answers what it was: time until it expires, and interval.
    pub fn set(&self, next: Option<Instant>, interval: Duration) -> (Duration, Duration) {
        let old = self.get();
        *self.0.state.lock() = State { next, interval, expirations: 0 };
        self.arm(next);
        old
    }

    /// Time until it expires (zero if it is stopped), and interval.
    pub fn get(&self) -> (Duration, Duration) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.advance(now);
        let left = state.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        (left, state.interval)
    }

    /// Has whoever waits woken at the next expiration. A timer with a tiny interval is armed anew only when it
    /// has been read: nobody can keep the timer thread busy by not looking.
    fn arm(&self, next: Option<Instant>) {
        if let (Some(next), Some(kernel)) = (next, self.0.kernel.upgrade()) {
            let waiter: Arc<dyn Wake> = self.0.clone();
            kernel.timers.add(next, &waiter, 0);
        }
    }
}

impl File for TimerFd {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        let target = into.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        let (expirations, next) = {
            let mut state = self.0.state.lock();
            state.advance(Instant::now());
            (std::mem::take(&mut state.expirations), state.next)
        };
        if expirations == 0 {
            return Err(Errno::EAGAIN);
        }
        self.arm(next);
        *target = expirations.to_le_bytes();
        Ok(8)
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.0.queue.register(waiter, key, mask);
        }
        let mut state = self.0.state.lock();
        state.advance(Instant::now());
        if state.expirations > 0 { Events::IN } else { Events::default() }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
