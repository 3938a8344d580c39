use std::collections::VecDeque;

use super::{Info, SigSet, Signal};
use crate::errno::Errno;

/// Signals that wait in one queue, at most: a bound on what a guest can make the sentry keep. Linux's own
/// (RLIMIT_SIGPENDING) is in the thousands and per user.
pub const QUEUED_MAX: usize = 4096;

/// Signals that wait to be delivered.
#[derive(Debug, Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<Info>,
}

impl Pending {
    /// Adds a signal. A standard one that already waits is not added again.
    ///
    /// # Errors
    /// EAGAIN if a real-time signal finds the queue full.
    pub fn add(&mut self, info: Info) -> Result<(), Errno> {
        let signal = info.signal;
        if self.set.has(signal) && !signal.is_realtime() {
            return Ok(());
        }
        if self.queue.len() >= QUEUED_MAX && signal.is_realtime() {
            return Err(Errno::EAGAIN);
        }
        self.set = self.set.with(signal);
        self.queue.push_back(info);
        Ok(())
    }

    /// Counts `more` expiries on the signal of a timer that waits; whether one does.
    pub fn overrun(&mut self, signal: Signal, timer: i32, more: i32) -> bool {
        let own = |info: &&mut Info| {
            info.signal == signal && info.overrun().is_some_and(|(waiting, _)| waiting == timer)
        };
        self.queue.iter_mut().find(own).map(|info| info.add_overrun(more)).is_some()
    }

    /// The signals that wait.
    pub const fn set(&self) -> SigSet {
        self.set
    }

    /// How many wait, each queued instance counted.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Takes the first signal that is in `of`.
    pub fn take(&mut self, of: SigSet) -> Option<Info> {
        let signal = SigSet(self.set.0 & of.0).first()?;
        let at = self.queue.iter().position(|info| info.signal == signal)?;
        let info = self.queue.remove(at);
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(signal);
        }
        info
    }

    /// Forgets every instance of the signals in `of`.
    pub fn discard(&mut self, of: SigSet) {
        if self.set.0 & of.0 != 0 {
            self.queue.retain(|info| !of.has(info.signal));
            self.set = SigSet(self.set.0 & !of.0);
        }
    }
}

/// The signal state of one thread.
#[derive(Debug, Default)]
pub struct TaskSignals {
    /// What is blocked.
    pub mask: SigSet,
    /// The mask to go back to when a call that changed it for its own duration ends (sigsuspend, ppoll, ...).
    pub saved_mask: Option<SigSet>,
    /// What sigtimedwait waits for: such signals end the wait although they are blocked.
    pub awaited: SigSet,
    /// Signals for this thread alone.
    pub pending: Pending,
    /// A signal taken for its handler, which could not run yet for want of the thread's registers.
    pub taken: Option<super::Taken>,
    /// Alternate stack: base.
    pub stack_base: u64,
    /// Alternate stack: size; 0 is none.
    pub stack_size: u64,
    /// Alternate stack: SS_AUTODISARM or 0.
    pub stack_flags: u32,
}

impl TaskSignals {
    /// Whether `sp` lies on the alternate stack.
    pub const fn on_stack(&self, sp: u64) -> bool {
        self.stack_size != 0 && sp > self.stack_base && sp - self.stack_base <= self.stack_size
    }

    /// Whether a signal is to be seen to now.
    pub const fn wants(&self, signal: Signal) -> bool {
        !self.mask.has(signal) || self.awaited.has(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::signal::code;

    #[test]
    fn standard_signals_coalesce_and_real_time_ones_queue_in_order() {
        let mut pending = Pending::default();
        let rt = Signal::new(40).expect("in range");
        for sender in 1..=3 {
            pending.add(Info::sent(Signal::USR1, code::SI_USER, sender, 0)).expect("room");
            pending.add(Info::sent(rt, code::SI_USER, sender, 0)).expect("room");
        }
        assert_eq!(pending.queued(), 4);
        assert_eq!(pending.take(SigSet(u64::MAX)).map(|i| i.pid()), Some(1));
        assert!(!pending.set().has(Signal::USR1));
        let order: Vec<i32> =
            std::iter::from_fn(|| pending.take(SigSet(u64::MAX))).map(|i| i.pid()).collect();
        assert_eq!(order, [1, 2, 3]);
        assert_eq!(pending.set(), SigSet::default());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut pending = Pending::default();
        let info = Info::new(Signal::new(50).expect("in range"), 0);
        for _ in 0..QUEUED_MAX {
            pending.add(info).expect("room");
        }
        assert_eq!(pending.add(info), Err(Errno::EAGAIN));
        pending.add(Info::new(Signal::TERM, 0)).expect("a standard signal always fits");
    }
}
