use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// [`super::Machine::stop`].
    Stopped,
    /// The guest rebooted: its agent is done, or its kernel has panicked.
    Reset,
    /// The guest faulted while it handled a fault of a fault.
    TripleFault,
    /// The guest said that it has crashed.
    Crash,
    /// KVM, the device loop or the host failed.
    Kvm(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the machine was stopped"),
            Self::Reset => f.write_str("the guest rebooted"),
            Self::TripleFault => f.write_str("the guest stopped by a triple fault"),
            Self::Crash => f.write_str("the guest reported a crash"),
            Self::Kvm(what) => f.write_str(what),
        }
    }
}

/// The end, for everybody who waits for it; the first reason stands.
#[derive(Debug, Clone, Default)]
pub struct Ended(Arc<(Mutex<Option<End>>, Condvar)>);

impl Ended {
    /// Says why; true for the first.
    pub fn set(&self, end: End) -> bool {
        let (slot, changed) = &*self.0;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let first = slot.is_none();
        slot.get_or_insert(end);
        changed.notify_all();
        first
    }

    /// The reason, if it has ended.
    pub fn get(&self) -> Option<End> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Blocks until it has ended, or the time is over.
    pub fn wait(&self, most: Duration) -> Option<End> {
        let (slot, changed) = &*self.0;
        let deadline = Instant::now() + most;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        while slot.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            slot = changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        slot.clone()
    }
}
