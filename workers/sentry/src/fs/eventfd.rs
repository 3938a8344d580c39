//! eventfd.

use std::any::Any;
use std::fmt::Write;

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue};

/// A counter that can be waited for.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    queue: WaitQueue,
}

/// The largest value that the counter has.
const MAX: u64 = u64::MAX - 1;

impl EventFd {
    /// A counter; a semaphore is read one at a time.
    pub fn new(count: u32, semaphore: bool) -> Self {
        Self { count: Mutex::new(count.into()), semaphore, queue: WaitQueue::new() }
    }
}

impl File for EventFd {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        let target = into.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.semaphore { 1 } else { *count };
        *count -= taken;
        drop(count);
        *target = taken.to_le_bytes();
        self.queue.wake(Events::OUT);
        Ok(8)
    }

    fn write(&self, _file: &OpenFile, from: &[u8]) -> Result<usize, Errno> {
        let value = u64::from_le_bytes(*from.first_chunk::<8>().ok_or(Errno::EINVAL)?);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if value > MAX - *count {
            return Err(Errno::EAGAIN);
        }
        *count += value;
        drop(count);
        self.queue.wake(Events::IN);
        Ok(8)
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.queue.register(waiter, key, mask);
        }
        let count = *self.count.lock();
        let readable = if count > 0 { Events::IN } else { Events::default() };
        let writable = if count < MAX { Events::OUT } else { Events::default() };
        readable | writable
    }

    fn pollable(&self) -> bool {
        true
    }

    fn describe(&self, out: &mut String) {
        let _infallible = writeln!(out, "eventfd-count: {:16x}", *self.count.lock());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
