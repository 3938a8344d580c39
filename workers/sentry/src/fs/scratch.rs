//! The host's scratch directory: where the bytes of a job's files are.
//!
//! Everything in it is unlinked from the start (O_TMPFILE), so nothing remains when the sentry dies. Small files
//! share one arena file, cut into blocks; a file that is mapped, or large, gets a host file of its own.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, Mode, OFlags};

use super::budget::Budget;
use crate::errno::Errno;
use crate::sync::Mutex;

/// Unit of allocation and of charging, in bytes: a page and a block of the usual host file systems.
pub const BLOCK: u64 = 4096;

/// Blocks of a free extent from which the host's disk gets it back: 1 MiB, so that small churn costs no host
/// call.
const PUNCH: u64 = 256;

/// A scratch directory with its arena.
pub struct Scratch {
    directory: OwnedFd,
    budget: Arc<Budget>,
    arena: OnceLock<OwnedFd>,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    /// Free extents by first block, none adjacent to another.
    extents: BTreeMap<u64, u64>,
    /// First block that was never used.
    end: u64,
}

/// Blocks of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub start: u64,
    /// How many.
    pub count: u64,
    /// They were never used, so they read as zeros.
    pub fresh: bool,
}

impl Scratch {
    /// Uses a directory of the host's.
    pub fn new(directory: OwnedFd, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { directory, budget, arena: OnceLock::new(), free: Mutex::default() })
    }

    /// What it may hold.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// A new, unlinked host file.
    ///
    /// # Errors
    /// EMFILE, ENOSPC and what else the host says.
    pub fn create_file(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, ".", flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// The arena's host file.
    ///
    /// # Errors
    /// As `create_file`, at the first use.
    pub fn arena(&self) -> Result<impl AsFd, Errno> {
        if self.arena.get().is_none() {
            let file = self.create_file()?;
            // If another thread was faster, this one's file just goes away.
            let _ = self.arena.set(file);
        }
        self.arena.get().map(|arena| arena.as_fd()).ok_or(Errno::EIO)
    }

    /// Takes at most `want` contiguous blocks, and charges them.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn allocate(&self, want: u64) -> Result<Extent, Errno> {
        let mut free = self.free.lock();
        let recycled = free.extents.iter().next().map(|(start, count)| (*start, *count));
        let Some((start, available)) = recycled else {
            self.budget.take(want * BLOCK)?;
            let start = free.end;
            free.end += want;
            return Ok(Extent { start, count: want, fresh: true });
        };
        let count = available.min(want);
        self.budget.take(count * BLOCK)?;
        free.extents.remove(&start);
        if available > count {
            free.extents.insert(start + count, available - count);
        }
        Ok(Extent { start, count, fresh: false })
    }

    /// Gives blocks back.
    pub fn release(&self, start: u64, count: u64) {
        if count == 0 {
            return;
        }
        self.budget.give_back(count * BLOCK);
        let mut free = self.free.lock();
        let (mut first, mut length) = (start, count);
        let before = free.extents.range(..start).next_back().map(|(s, c)| (*s, *c));
        if let Some((s, c)) = before.filter(|(s, c)| s + c == start) {
            free.extents.remove(&s);
            first = s;
            length += c;
        }
        if let Some(c) = free.extents.remove(&(start + count)) {
            length += c;
        }
        if length >= PUNCH && length < PUNCH + count {
            // It has just become large enough: what was small before goes with it.
            self.punch(first, length);
        } else if length >= PUNCH {
            self.punch(start, count);
        }
        free.extents.insert(first, length);
    }

    fn punch(&self, start: u64, count: u64) {
        if let Some(arena) = self.arena.get() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A host that can't punch keeps the blocks for reuse; the charge is right either way.
            let _ = rustix::fs::fallocate(arena, flags, start * BLOCK, count * BLOCK);
        }
    }
}
