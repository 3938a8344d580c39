//! System V shared memory: segments, and who has them attached.
//!
//! A segment is a memory file that has no name in the tree; attaching it is mapping it. Who has it attached is a
//! list of each process: copied by fork, emptied by exec and exit, which the host's mappings follow by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::Pid;
use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{Capability, Credentials, OpenFile, Timestamp};

/// Most segments (kernel.shmmni; Linux has 4096): each holds a host descriptor of the sentry's.
pub const SEGMENTS_MAX: usize = 512;
/// Most attachments of one process, each of which is the sentry's memory.
const ATTACHMENTS_MAX: usize = 4096;
/// An id is this many times a number that grows, plus the segment's index.
const ID_STEP: i32 = 1 << 15;
/// The key of segments that nobody finds by key.
pub const IPC_PRIVATE: i32 = 0;

/// Who may do what with a segment, and what has happened to it.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The key; IPC_PRIVATE once it is removed.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Who made it.
    pub creator_uid: u32,
    /// Their group.
    pub creator_gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// It goes with its last attachment.
    pub removed: bool,
    /// SHM_LOCK.
    pub locked: bool,
    /// Attachments of all processes.
    pub attached: u64,
    /// Time of the last attachment, in seconds since 1970.
    pub attach_time: i64,
    /// Time of the last detachment.
    pub detach_time: i64,
    /// Time of the last change.
    pub change_time: i64,
    /// Who made it.
    pub creator: Pid,
    /// Who attached or detached it last.
    pub last: Pid,
}

/// A segment.
pub struct Segment {
    /// What shmget answers.
    pub id: i32,
    /// Bytes, as asked for.
    pub size: u64,
    /// The memory.
    pub file: Arc<OpenFile>,
    /// The rest.
    pub facts: Mutex<Facts>,
    all: Weak<Segments>,
}

impl Segment {
    /// Whether these permission bits (of one class: 4 to read, 2 to write) are granted.
    pub fn grants(&self, credentials: &Credentials, bits: u32) -> bool {
        let facts = self.facts.lock();
        let own = credentials.euid == facts.uid || credentials.euid == facts.creator_uid;
        let in_group = |gid: u32| credentials.egid == gid || credentials.groups.contains(&gid);
        let shift = match () {
            () if own => 6,
            () if in_group(facts.gid) || in_group(facts.creator_gid) => 3,
            () => 0,
        };
        bits & !(facts.mode >> shift) & 7 == 0 || credentials.can(Capability::IpcOwner)
    }

    /// Whether the caller may change or remove it.
    pub fn is_own(&self, credentials: &Credentials) -> bool {
        let facts = self.facts.lock();
        credentials.euid == facts.uid
            || credentials.euid == facts.creator_uid
            || credentials.can(Capability::SysAdmin)
    }
}

#[derive(Default)]
struct Table {
    by_index: BTreeMap<i32, Arc<Segment>>,
    sequence: i32,
}

/// All segments of a sandbox.
#[derive(Default)]
pub struct Segments {
    table: Mutex<Table>,
}

impl Segments {
    /// The segment of an id.
    ///
    /// # Errors
    /// EINVAL.
    pub fn get(&self, id: i32) -> Result<Arc<Segment>, Errno> {
        let table = self.table.lock();
        let found = table.by_index.get(&(id % ID_STEP)).filter(|segment| segment.id == id);
        found.cloned().ok_or(Errno::EINVAL)
    }

    /// The segment at an index; and the highest index in use.
    pub fn at(&self, index: i32) -> (Option<Arc<Segment>>, i32) {
        let table = self.table.lock();
        (table.by_index.get(&index).cloned(), table.by_index.keys().next_back().copied().unwrap_or(0))
    }

    /// The segment of a key.
    pub fn find(&self, key: i32) -> Option<Arc<Segment>> {
        let table = self.table.lock();
        table.by_index.values().find(|segment| segment.facts.lock().key == key).cloned()
    }

    /// How many there are, and their bytes.
    pub fn totals(&self) -> (usize, u64) {
        let table = self.table.lock();
        (table.by_index.len(), table.by_index.values().map(|segment| segment.size).sum())
    }

    /// Adds one. The key must be free, or the other one is found.
    ///
    /// # Errors
    /// ENOSPC when there are too many; EEXIST with IPC_EXCL races.
    pub fn add(self: &Arc<Self>, size: u64, file: Arc<OpenFile>, facts: Facts) -> Result<i32, Errno> {
        let mut table = self.table.lock();
        let taken = |segment: &Arc<Segment>| segment.facts.lock().key == facts.key;
        if facts.key != IPC_PRIVATE && table.by_index.values().any(taken) {
            return Err(Errno::EEXIST);
        }
        if table.by_index.len() >= SEGMENTS_MAX {
            return Err(Errno::ENOSPC);
        }
        let index = (0..).find(|index| !table.by_index.contains_key(index)).unwrap_or(0);
        let id = table.sequence * ID_STEP + index;
        let segment = Segment { id, size, file, facts: Mutex::new(facts), all: Arc::downgrade(self) };
        table.by_index.insert(index, Arc::new(segment));
        Ok(id)
    }

    /// IPC_RMID: its key is free, and it goes with its last attachment.
    pub fn remove(&self, segment: &Arc<Segment>) {
        let unused = {
            let mut facts = segment.facts.lock();
            (facts.removed, facts.key) = (true, IPC_PRIVATE);
            facts.attached == 0
        };
        if unused {
            self.forget(segment);
        }
    }

    fn forget(&self, segment: &Segment) {
        let gone = {
            let mut table = self.table.lock();
            let index = segment.id % ID_STEP;
            let known = table.by_index.get(&index).is_some_and(|known| known.id == segment.id);
            table.sequence = (table.sequence + i32::from(known)) % ID_STEP;
            known.then(|| table.by_index.remove(&index))
        };
        // The memory goes where nothing is locked.
        drop(gone);
    }
}

/// A segment at a place in an address space.
pub struct Attachment {
    /// Where it begins.
    pub address: u64,
    /// What lies there.
    pub segment: Arc<Segment>,
    pid: Pid,
}

impl Attachment {
    /// Counts an attachment.
    ///
    /// # Errors
    /// EIDRM if the segment has gone meanwhile.
    pub fn new(segment: Arc<Segment>, pid: Pid) -> Result<Self, Errno> {
        {
            let mut facts = segment.facts.lock();
            if facts.removed && facts.attached == 0 {
                return Err(Errno::EIDRM);
            }
            facts.attached += 1;
            (facts.attach_time, facts.last) = (Timestamp::now().seconds, pid);
        }
        Ok(Self { address: 0, segment, pid })
    }

    fn end(&self) -> u64 {
        self.address.saturating_add(self.segment.size)
    }

    fn covers(&self, other: &Self) -> bool {
        self.address <= other.address && other.end() <= self.end()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let last = {
            let mut facts = self.segment.facts.lock();
            facts.attached = facts.attached.saturating_sub(1);
            (facts.detach_time, facts.last) = (Timestamp::now().seconds, self.pid);
            facts.removed && facts.attached == 0
        };
        if last && let Some(all) = self.segment.all.upgrade() {
            all.forget(&self.segment);
        }
    }
}

/// What a process has attached.
#[derive(Default)]
pub struct Attachments(Mutex<Vec<Attachment>>);

impl Attachments {
    /// Adds one. What it has been laid over (SHM_REMAP, or where the guest had unmapped) is attached no more.
    ///
    /// # Errors
    /// EMFILE when there are too many.
    pub fn add(&self, attachment: Attachment) -> Result<(), Errno> {
        let mut list = self.0.lock();
        let covered: Vec<Attachment> = list.extract_if(.., |other| attachment.covers(other)).collect();
        let fits = list.len() < ATTACHMENTS_MAX;
        // What does not fit is dropped with the rest, where nothing is locked.
        let left_over = if fits {
            list.push(attachment);
            None
        } else {
            Some(attachment)
        };
        drop(list);
        drop((covered, left_over));
        if fits { Ok(()) } else { Err(Errno::EMFILE) }
    }

    /// Takes out the one that begins at `address`.
    pub fn take(&self, address: u64) -> Option<Attachment> {
        let mut list = self.0.lock();
        let at = list.iter().position(|attachment| attachment.address == address)?;
        Some(list.swap_remove(at))
    }

    /// fork: the child has what its parent has.
    pub fn inherit(&self, parent: &Self, pid: Pid) {
        let copies = {
            let list = parent.0.lock();
            let copy = |one: &Attachment| {
                let mut copied = Attachment::new(one.segment.clone(), pid).ok()?;
                copied.address = one.address;
                Some(copied)
            };
            list.iter().filter_map(copy).collect::<Vec<_>>()
        };
        self.0.lock().extend(copies);
    }

    /// exec and exit.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}
