//! A call that waits: the record that stands on the wait queues instead of a blocked thread.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use bulkhead_platform::{Call, Registers};

use super::Task;
use crate::call::{CallState, Restart};
use crate::sync::Mutex;
use crate::wait::{Events, Runnable, Wake, push_woken};

/// How a task's host thread is stopped, and so what its answer can change.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// In a plain call: only the return value.
    Plain,
    /// With all registers in the sentry's hands.
    Full(Registers),
}

/// What a parked call goes on with.
#[derive(Debug, Clone)]
pub struct Parked {
    /// How its thread is stopped.
    pub stop: Stop,
    /// Deadline and progress.
    pub state: CallState,
    /// What a signal does to it.
    pub restart: Restart,
}

const EXECUTING: u8 = 0;
/// Woken while it was executing: it must be executed once more before it may park.
const EXECUTING_WOKEN: u8 = 1;
const PARKED: u8 = 2;
/// On a run list.
const QUEUED: u8 = 3;

/// One call of one task, from its first registration on a queue to its end.
pub struct Blocked {
    /// Who waits.
    pub task: Arc<Task>,
    /// The call.
    pub call: Call,
    me: Weak<Self>,
    status: AtomicU8,
    parked: Mutex<Option<Parked>>,
}

impl Blocked {
    /// A record for a call that is executing.
    pub fn new(task: Arc<Task>, call: Call) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            task,
            call,
            me: me.clone(),
            status: AtomicU8::new(EXECUTING),
            parked: Mutex::new(None),
        })
    }

    /// Leaves the call to whoever wakes it. If the call was woken meanwhile, it must be executed again: then what
    /// was to be left is given back.
    pub fn park(&self, parked: Parked) -> Option<Parked> {
        *self.parked.lock() = Some(parked);
        if self.status.compare_exchange(EXECUTING, PARKED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return None;
        }
        let parked = self.parked.lock().take();
        self.status.store(EXECUTING, Ordering::Release);
        parked
    }

    /// Takes the call back from the queues; none if it is not this thread's to execute.
    pub fn resume(&self) -> Option<Parked> {
        let was = self.status.compare_exchange(QUEUED, EXECUTING, Ordering::AcqRel, Ordering::Acquire);
        if was.is_ok() { self.parked.lock().take() } else { None }
    }

    /// Takes the call back because its task is over; none if another thread is about to execute it (and will see
    /// that the task is over).
    pub fn abandon(&self) -> Option<Parked> {
        let was = self.status.compare_exchange(PARKED, EXECUTING, Ordering::AcqRel, Ordering::Acquire);
        if was.is_ok() { self.parked.lock().take() } else { None }
    }

    /// Marks the call as woken, whoever wakes it.
    pub fn rouse(&self) {
        loop {
            let status = self.status.load(Ordering::Acquire);
            let next = match status {
                EXECUTING => EXECUTING_WOKEN,
                PARKED => QUEUED,
                _ => return,
            };
            if self.status.compare_exchange(status, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                if let (QUEUED, Some(me)) = (next, self.me.upgrade()) {
                    push_woken(me);
                }
                return;
            }
        }
    }
}

impl Wake for Blocked {
    fn wake(&self, _key: u64, _events: Events) {
        self.rouse();
    }
}

impl Runnable for Blocked {
    fn run(self: Arc<Self>) {
        super::run::resume_blocked(self);
    }
}
