use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SigSet, Signal};

/// The flags of sigaction(2).
pub mod flags {
    pub const SA_NOCLDSTOP: u64 = 1;
    pub const SA_NOCLDWAIT: u64 = 2;
    pub const SA_SIGINFO: u64 = 4;
    pub const SA_RESTORER: u64 = 0x0400_0000;
    pub const SA_ONSTACK: u64 = 0x0800_0000;
    pub const SA_RESTART: u64 = 0x1000_0000;
    pub const SA_NODEFER: u64 = 0x4000_0000;
    pub const SA_RESETHAND: u64 = 0x8000_0000;
}

/// `struct kernel_sigaction` of x86-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Action {
    /// SIG_DFL, SIG_IGN or an address.
    pub handler: u64,
    /// [`flags`].
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: u64,
}

impl Action {
    /// The default action's handler value.
    pub const DEFAULT: u64 = 0;
    /// The handler value of ignored signals.
    pub const IGNORE: u64 = 1;

    /// Whether a handler of the guest's is to run.
    pub const fn is_handler(&self) -> bool {
        self.handler != Self::DEFAULT && self.handler != Self::IGNORE
    }

    /// Whether `signal` would have no effect at all.
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.handler {
            Self::IGNORE => true,
            Self::DEFAULT => DefaultAction::of(signal) == DefaultAction::Ignore,
            _ => false,
        }
    }
}

/// What a signal does when nobody said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultAction {
    /// Nothing.
    Ignore,
    /// The process ends.
    Terminate,
    /// The process ends, and the wait status says that a core was (or could have been) dumped.
    Core,
    /// The process stops.
    Stop,
    /// The process continues.
    Continue,
}

impl DefaultAction {
    /// The default action of `signal`.
    pub fn of(signal: Signal) -> Self {
        match signal {
            Signal::CHLD | Signal::URG | Signal::WINCH => Self::Ignore,
            Signal::CONT => Self::Continue,
            Signal::STOP | Signal::TSTP | Signal::TTIN | Signal::TTOU => Self::Stop,
            Signal::QUIT
            | Signal::ILL
            | Signal::TRAP
            | Signal::ABRT
            | Signal::BUS
            | Signal::FPE
            | Signal::SEGV
            | Signal::XCPU
            | Signal::XFSZ
            | Signal::SYS => Self::Core,
            _ => Self::Terminate,
        }
    }
}

/// The actions of a process.
#[derive(Debug, Clone)]
pub struct Actions([Action; Signal::MAX as usize]);

impl Default for Actions {
    fn default() -> Self {
        Self([Action::default(); Signal::MAX as usize])
    }
}

impl Actions {
    /// What is done with `signal`.
    pub const fn get(&self, signal: Signal) -> &Action {
        &self.0[signal.index()]
    }

    /// Changes what is done with `signal`; returns what was done before.
    pub fn set(&mut self, signal: Signal, action: Action) -> Action {
        std::mem::replace(&mut self.0[signal.index()], action)
    }

    /// exec: handlers become the default, ignored signals stay ignored.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == Action::IGNORE { Action::IGNORE } else { Action::DEFAULT };
            *action = Action { handler, ..Action::default() };
        }
    }

    /// The signals that are ignored and those with a handler, for /proc/PID/status.
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let (mut ignored, mut caught) = (SigSet::default(), SigSet::default());
        for (index, action) in self.0.iter().enumerate() {
            let bit = 1 << index;
            match action.handler {
                Action::IGNORE => ignored.0 |= bit,
                Action::DEFAULT => {}
                _ => caught.0 |= bit,
            }
        }
        (ignored, caught)
    }
}
