//! Signals: numbers, sets, what a process does with them, and what waits to be delivered.

mod action;
mod deliver;
mod frame;
mod info;
mod pending;
mod post;

pub use action::{Action, Actions, DefaultAction, flags};
pub use deliver::{Settled, Taken, deliver_pending, restart_or_interrupt, restore_mask, settle, sigreturn};
pub use info::{Info, code};
pub use pending::{Pending, QUEUED_MAX, TaskSignals};
pub use post::{
    call_attention, force, force_default, nudge, post_process, post_task, refresh_attention,
    try_post_process, try_post_task,
};

use crate::errno::Errno;

/// A signal's number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal),+ $(,)?) => {
        impl Signal {
            $(#[doc = concat!("Linux's `SIG", stringify!($name), "`.")] pub const $name: Self = Self($number);)+

            /// The name as `kill -l` prints it, with SIG; real-time signals by number.
            pub fn name(self) -> String {
                match self.0 {
                    $($number => concat!("SIG", stringify!($name)).into(),)+
                    other => format!("SIGRTMIN+{}", other.saturating_sub(34)),
                }
            }
        }
    };
}

signals!(
    HUP = 1,
    INT = 2,
    QUIT = 3,
    ILL = 4,
    TRAP = 5,
    ABRT = 6,
    BUS = 7,
    FPE = 8,
    KILL = 9,
    USR1 = 10,
    SEGV = 11,
    USR2 = 12,
    PIPE = 13,
    ALRM = 14,
    TERM = 15,
    STKFLT = 16,
    CHLD = 17,
    CONT = 18,
    STOP = 19,
    TSTP = 20,
    TTIN = 21,
    TTOU = 22,
    URG = 23,
    XCPU = 24,
    XFSZ = 25,
    VTALRM = 26,
    PROF = 27,
    WINCH = 28,
    IO = 29,
    PWR = 30,
    SYS = 31,
);

impl Signal {
    /// The largest number.
    pub const MAX: u8 = 64;
    /// The first real-time signal: from here on every instance is queued.
    const RT_MIN: u8 = 32;

    /// A signal of this number.
    ///
    /// # Errors
    /// EINVAL outside 1 to 64.
    pub fn new(number: i32) -> Result<Self, Errno> {
        match u8::try_from(number) {
            Ok(number @ 1..=Self::MAX) => Ok(Self(number)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The number.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// Whether several of it can wait at once.
    pub const fn is_realtime(self) -> bool {
        self.0 >= Self::RT_MIN
    }
}

/// A set of signals in the layout of the system calls: bit n-1 is signal n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SigSet(pub u64);

impl SigSet {
    /// Signals that can't be blocked, caught or ignored.
    pub const UNBLOCKABLE: Self = Self::of(&[Signal::KILL, Signal::STOP]);
    /// Signals that stop by default.
    pub const STOPS: Self = Self::of(&[Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU]);
    /// Signals that an instruction of the receiver's own raises: delivered before others.
    const SYNCHRONOUS: Self =
        Self::of(&[Signal::SEGV, Signal::BUS, Signal::ILL, Signal::TRAP, Signal::FPE, Signal::SYS]);

    /// The set of these signals.
    pub const fn of(signals: &[Signal]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < signals.len() {
            set |= 1 << signals[at].index();
            at += 1;
        }
        Self(set)
    }

    /// Whether `signal` is in the set.
    pub const fn has(self, signal: Signal) -> bool {
        self.0 & (1 << signal.index()) != 0
    }

    /// The set with `signal`.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << signal.index())
    }

    /// The set without `signal`.
    #[must_use]
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !(1 << signal.index()))
    }

    /// The set without those that can't be blocked.
    #[must_use]
    pub const fn blockable(self) -> Self {
        Self(self.0 & !Self::UNBLOCKABLE.0)
    }

    /// The signal to deliver first: synchronous ones, then the lowest number.
    pub fn first(self) -> Option<Signal> {
        let synchronous = self.0 & Self::SYNCHRONOUS.0;
        let from = if synchronous != 0 { synchronous } else { self.0 };
        (from != 0).then(|| Signal(from.trailing_zeros() as u8 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_numbers() {
        assert_eq!(Signal::new(0), Err(Errno::EINVAL));
        assert_eq!(Signal::new(65), Err(Errno::EINVAL));
        assert_eq!(Signal::new(15), Ok(Signal::TERM));
        assert_eq!(Signal::SEGV.name(), "SIGSEGV");
        let set = SigSet::of(&[Signal::HUP, Signal::SEGV]);
        assert_eq!(set.first(), Some(Signal::SEGV));
        assert_eq!(set.without(Signal::SEGV).first(), Some(Signal::HUP));
        assert_eq!(SigSet(u64::MAX).blockable().0 & SigSet::UNBLOCKABLE.0, 0);
        assert_eq!(SigSet::default().first(), None);
    }
}
