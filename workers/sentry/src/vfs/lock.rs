//! flock(2), POSIX record locks and open-file-description locks of one inode.

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::wait::{Events, WaitQueue};

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOwner {
    /// A descriptor table, with the process id that F_GETLK shows.
    Process(u64, i32),
    /// An open file (OFD locks).
    OpenFile(u64),
}

impl LockOwner {
    fn same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Process(a, _), Self::Process(b, _)) | (Self::OpenFile(a), Self::OpenFile(b)) => a == b,
            _ => false,
        }
    }
}

/// A record lock on bytes `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLock {
    /// First byte.
    pub start: u64,
    /// Behind the last byte; `u64::MAX` for "to the end, wherever that is".
    pub end: u64,
    /// F_WRLCK, otherwise F_RDLCK.
    pub exclusive: bool,
    /// Who holds it.
    pub owner: LockOwner,
}

/// Who waits for whose POSIX locks: descriptor tables. Leaves out nothing, so that a circle is found.
static WAITING: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// A descriptor table waits for another one's lock, until this is dropped.
pub struct Waits {
    waiter: u64,
    holder: u64,
}

impl Waits {
    /// Notes that `waiter` waits for `holder`. Open files' locks are not looked at, as on Linux.
    ///
    /// # Errors
    /// EDEADLK if the holder waits for the waiter in turn, by however many others.
    pub fn begin(waiter: LockOwner, holder: LockOwner) -> Result<Option<Self>, Errno> {
        let (LockOwner::Process(waiter, _), LockOwner::Process(holder, _)) = (waiter, holder) else {
            return Ok(None);
        };
        let mut waiting = WAITING.lock();
        let (mut reached, mut looked) = (vec![holder], 0);
        while let Some(at) = reached.get(looked).copied() {
            looked += 1;
            if at == waiter {
                return Err(Errno::EDEADLK);
            }
            for (_, next) in waiting.iter().filter(|(from, _)| *from == at) {
                if !reached.contains(next) {
                    reached.push(*next);
                }
            }
        }
        waiting.push((waiter, holder));
        Ok(Some(Self { waiter, holder }))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut waiting = WAITING.lock();
        if let Some(at) = waiting.iter().position(|pair| *pair == (self.waiter, self.holder)) {
            waiting.swap_remove(at);
        }
    }
}

/// Most record locks of one inode: their memory is the sentry's.
const MAX_RECORDS: usize = 16_384;

#[derive(Default)]
struct Held {
    records: Vec<RecordLock>,
    /// (open file, exclusive).
    flocks: Vec<(u64, bool)>,
}

/// The locks of one inode.
#[derive(Default)]
pub struct Locks {
    held: Mutex<Held>,
    queue: WaitQueue,
}

impl Locks {
    /// Who waits for a lock to go.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// The first lock that keeps `wanted` from being taken.
    pub fn conflict(&self, wanted: &RecordLock) -> Option<RecordLock> {
        let held = self.held.lock();
        held.records.iter().find(|lock| conflicts(lock, wanted)).copied()
    }

    /// Takes a record lock, replacing what its owner holds there.
    ///
    /// # Errors
    /// EAGAIN if it is held by another; ENOLCK if there are too many.
    pub fn take_record(&self, wanted: RecordLock) -> Result<(), Errno> {
        let mut held = self.held.lock();
        if held.records.iter().any(|lock| conflicts(lock, &wanted)) {
            return Err(Errno::EAGAIN);
        }
        if held.records.len() >= MAX_RECORDS {
            return Err(Errno::ENOLCK);
        }
        let weakened = carve(&mut held.records, wanted.start, wanted.end, wanted.owner);
        insert(&mut held.records, wanted);
        drop(held);
        if weakened {
            self.queue.wake(Events::ALL);
        }
        Ok(())
    }

    /// Gives up what an owner holds of a range.
    pub fn release_record(&self, start: u64, end: u64, owner: LockOwner) {
        let released = carve(&mut self.held.lock().records, start, end, owner);
        if released {
            self.queue.wake(Events::ALL);
        }
    }

    /// Gives up all POSIX locks of a descriptor table: it closed a descriptor of the inode.
    pub fn release_process(&self, table: u64) {
        self.release_record(0, u64::MAX, LockOwner::Process(table, 0));
    }

    /// Gives up all that an open file holds: it is closed.
    pub fn release_open_file(&self, id: u64) {
        self.release_record(0, u64::MAX, LockOwner::OpenFile(id));
        self.release_flock(id);
    }

    /// Takes or converts an flock.
    ///
    /// # Errors
    /// EAGAIN if it is held by another (a lock to be converted is lost, as on Linux).
    pub fn take_flock(&self, id: u64, exclusive: bool) -> Result<(), Errno> {
        let mut held = self.held.lock();
        let before = held.flocks.len();
        if held.flocks.contains(&(id, exclusive)) {
            return Ok(());
        }
        held.flocks.retain(|(owner, _)| *owner != id);
        let converted = held.flocks.len() < before;
        let free = held.flocks.iter().all(|(_, other)| !exclusive && !other);
        if free {
            held.flocks.push((id, exclusive));
        }
        drop(held);
        if converted {
            self.queue.wake(Events::ALL);
        }
        if free { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    /// Gives up an flock.
    pub fn release_flock(&self, id: u64) {
        let mut held = self.held.lock();
        let before = held.flocks.len();
        held.flocks.retain(|(owner, _)| *owner != id);
        let released = held.flocks.len() < before;
        drop(held);
        if released {
            self.queue.wake(Events::ALL);
        }
    }
}

fn conflicts(held: &RecordLock, wanted: &RecordLock) -> bool {
    !held.owner.same(wanted.owner)
        && held.start < wanted.end
        && wanted.start < held.end
        && (held.exclusive || wanted.exclusive)
}

/// Removes an owner's locks from a range; answers whether there were any.
fn carve(records: &mut Vec<RecordLock>, start: u64, end: u64, owner: LockOwner) -> bool {
    let mut rest = Vec::new();
    let before = records.len();
    records.retain(|lock| {
        if !lock.owner.same(owner) || lock.end <= start || lock.start >= end {
            return true;
        }
        if lock.start < start {
            rest.push(RecordLock { end: start, ..*lock });
        }
        if lock.end > end {
            rest.push(RecordLock { start: end, ..*lock });
        }
        false
    });
    let found = records.len() < before;
    records.extend(rest);
    found
}

/// Adds a lock, merged with its owner's adjacent ones of the same kind.
fn insert(records: &mut Vec<RecordLock>, mut new: RecordLock) {
    records.retain(|lock| {
        let adjacent = lock.end == new.start || lock.start == new.end;
        if lock.owner.same(new.owner) && lock.exclusive == new.exclusive && adjacent {
            new.start = new.start.min(lock.start);
            new.end = new.end.max(lock.end);
            return false;
        }
        true
    });
    let place = records.partition_point(|lock| lock.start < new.start);
    records.insert(place, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LockOwner = LockOwner::Process(1, 10);
    const B: LockOwner = LockOwner::Process(2, 20);

    fn lock(start: u64, end: u64, exclusive: bool, owner: LockOwner) -> RecordLock {
        RecordLock { start, end, exclusive, owner }
    }

    #[test]
    fn records_split_merge_and_conflict() {
        let locks = Locks::default();
        assert_eq!(locks.take_record(lock(0, 100, true, A)), Ok(()));
        assert_eq!(locks.take_record(lock(50, 60, false, B)), Err(Errno::EAGAIN));
        locks.release_record(40, 70, A);
        assert_eq!(locks.take_record(lock(50, 60, false, B)), Ok(()));
        assert_eq!(locks.conflict(&lock(90, 91, false, B)), Some(lock(70, 100, true, A)));
        assert_eq!(locks.take_record(lock(40, 50, true, A)), Ok(()));
        assert_eq!(locks.conflict(&lock(45, 46, false, B)), Some(lock(0, 50, true, A)));
        // Reading locks are shared, and an owner never conflicts with itself.
        assert_eq!(locks.take_record(lock(50, 60, false, A)), Ok(()));
        assert_eq!(locks.take_record(lock(50, 60, true, A)), Err(Errno::EAGAIN));
        locks.release_process(2);
        assert_eq!(locks.take_record(lock(50, 60, true, A)), Ok(()));
        locks.release_process(1);
        assert_eq!(locks.take_record(lock(0, u64::MAX, true, B)), Ok(()));
    }

    #[test]
    fn flocks_belong_to_open_files() {
        let locks = Locks::default();
        assert_eq!(locks.take_flock(1, false), Ok(()));
        assert_eq!(locks.take_flock(2, false), Ok(()));
        assert_eq!(locks.take_flock(1, true), Err(Errno::EAGAIN));
        // The conversion lost the shared lock.
        assert_eq!(locks.take_flock(2, true), Ok(()));
        assert_eq!(locks.take_flock(1, false), Err(Errno::EAGAIN));
        locks.release_open_file(2);
        assert_eq!(locks.take_flock(1, true), Ok(()));
    }
}
