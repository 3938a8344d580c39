//! Waiting without blocked host threads.
//!
//! A call that must wait registers its waiter on every queue that can end the wait, *then* checks its condition
//! once more, and parks. A wake-up only marks the waiter and pushes it on the waking thread's run list; the run
//! loop re-executes the woken calls when it holds no lock (`take_woken`). So a waker can never run a stranger's
//! code, answer a guest or take a lock of the first ranks while it holds its own.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Events of a file, with the values of poll(2): POLLIN 1, POLLPRI 2, POLLOUT 4, POLLERR 8, POLLHUP 16, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events(pub u32);

impl Events {
    /// Data can be read.
    pub const IN: Self = Self(0x1);
    /// Urgent data.
    pub const PRI: Self = Self(0x2);
    /// Data can be written.
    pub const OUT: Self = Self(0x4);
    /// An error; always reported.
    pub const ERR: Self = Self(0x8);
    /// The other end is gone; always reported.
    pub const HUP: Self = Self(0x10);
    /// The other end of a stream will write no more.
    pub const RDHUP: Self = Self(0x2000);
    /// Everything.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether no event is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the two have an event in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Events {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitAnd for Events {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Who can be woken. The implementation may take only the locks of ranks below "open file" (see the crate's
/// head): it marks something ready and pushes on the run list, or wakes another queue.
pub trait Wake: Send + Sync {
    /// `key` is what was given at registration.
    fn wake(&self, key: u64, events: Events);
}

struct Entry {
    waiter: Weak<dyn Wake>,
    key: u64,
    mask: Events,
}

/// Those who wait for something to happen to one object.
#[derive(Default)]
pub struct WaitQueue {
    entries: Mutex<Vec<Entry>>,
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { entries: Mutex::new(Vec::new()) }
    }

    /// Adds a waiter for the events of `mask` (ERR and HUP are always added). It stays registered until it is
    /// dropped or removed; registering the same waiter and key again replaces the mask.
    pub fn register(&self, waiter: &Arc<dyn Wake>, key: u64, mask: Events) {
        let mask = mask | Events::ERR | Events::HUP;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |entry: &&mut Entry| entry.key == key && is(&entry.waiter, waiter);
        // From the end: who registers again and again, as a poll of many entries for one file does, is there.
        if let Some(entry) = entries.iter_mut().rev().find(same) {
            entry.mask = mask;
            return;
        }
        entries.retain(|entry| entry.waiter.strong_count() > 0);
        entries.push(Entry { waiter: Arc::downgrade(waiter), key, mask });
    }

    /// Removes a waiter's entry with this key, if it is there.
    pub fn remove(&self, waiter: &Arc<dyn Wake>, key: u64) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| !(entry.key == key && is(&entry.waiter, waiter)));
    }

    /// Wakes everyone who waits for one of `events`. May be called under the object's lock.
    pub fn wake(&self, events: Events) {
        let woken: Vec<(Arc<dyn Wake>, u64)> = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = entries.iter().filter(|entry| entry.mask.intersects(events));
            wanted.filter_map(|entry| Some((entry.waiter.upgrade()?, entry.key))).collect()
        };
        for (waiter, key) in woken {
            waiter.wake(key, events);
        }
    }
}

fn is(weak: &Weak<dyn Wake>, strong: &Arc<dyn Wake>) -> bool {
    std::ptr::addr_eq(weak.as_ptr(), Arc::as_ptr(strong))
}

/// A parked call (or other continuation) that the run loop is to continue.
pub trait Runnable: Send + Sync {
    /// Continues; called with no lock held.
    fn run(self: Arc<Self>);
}

thread_local! {
    static RUN_LIST: RefCell<Vec<Arc<dyn Runnable>>> = const { RefCell::new(Vec::new()) };
}

/// Pushes on this thread's run list. Every thread of the sentry that can wake something calls [`run_woken`]
/// afterwards, when it holds no lock.
pub fn push_woken(runnable: Arc<dyn Runnable>) {
    RUN_LIST.with_borrow_mut(|list| list.push(runnable));
}

/// Continues everything that this thread has woken, and what that wakes in turn.
pub fn run_woken() {
    loop {
        let list = RUN_LIST.take();
        if list.is_empty() {
            return;
        }
        for runnable in list {
            runnable.run();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Counter(AtomicU32);

    impl Wake for Counter {
        fn wake(&self, key: u64, _events: Events) {
            self.0.fetch_add(key as u32, Ordering::Relaxed);
        }
    }

    #[test]
    fn masks_keys_and_dropped_waiters() {
        let queue = WaitQueue::new();
        let counter = Arc::new(Counter(AtomicU32::new(0)));
        let waiter: Arc<dyn Wake> = counter.clone();
        queue.register(&waiter, 1, Events::IN);
        queue.register(&waiter, 10, Events::OUT);
        queue.wake(Events::IN);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        queue.wake(Events::HUP);
        assert_eq!(counter.0.load(Ordering::Relaxed), 12);
        queue.remove(&waiter, 1);
        queue.wake(Events::IN | Events::OUT);
        assert_eq!(counter.0.load(Ordering::Relaxed), 22);
        drop(waiter);
        drop(counter);
        queue.wake(Events::ALL);
    }
}
