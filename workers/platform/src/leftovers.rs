//! Injected descriptors that nobody needs any more.
//!
//! A descriptor is put into a stub to be mapped, and then it is in the way: it keeps a file that the guest has closed, or
//! memory that it has unmapped, and both stay charged. Nothing can be closed from outside, but a descriptor can be put in
//! the place of another: so it is replaced by one of an empty file that all stubs share. For a mapping by command that
//! happens at the thread's next notification, for one by the guest's own call when the guest closes its number.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::layout;

/// What was put into a stub.
#[derive(Default)]
pub(crate) struct Injected {
    /// Under the guest's own numbers.
    own: Mutex<HashSet<i32>>,
    /// Counts those for commands.
    next: AtomicU32,
}

impl Injected {
    fn lock(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a descriptor that a command is going to map. They are given out in turn, so that threads that map at the
    /// same time don't get each other's files.
    pub(crate) fn number(&self) -> i32 {
        layout::COMMAND_FDS + (self.next.fetch_add(1, Ordering::Relaxed) % layout::COMMAND_FDS_COUNT) as i32
    }

    /// Notes a descriptor under the guest's own number.
    pub(crate) fn note(&self, number: i32) {
        self.lock().insert(number);
    }

    /// What of the guest's numbers from `first` to `last` is to be replaced now.
    pub(crate) fn forget(&self, first: i32, last: i32) -> Vec<i32> {
        let mut own = self.lock();
        own.extract_if(|number| (first..=last).contains(number)).collect()
    }

    /// What a forked child has: it inherits the table.
    pub(crate) fn copy(&self) -> Self {
        Self { own: Mutex::new(self.lock().clone()), next: AtomicU32::new(0) }
    }
}
