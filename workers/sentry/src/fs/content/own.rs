//! A file with a host file of its own: large, mapped, or in memory.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags};

use super::{HostFile, block_range};
use crate::errno::Errno;
use crate::fs::budget::Budget;
use crate::fs::scratch::BLOCK;
use crate::vfs::Storage;

/// A host file, and which of its blocks exist and are paid for.
pub(super) struct Own {
    file: HostFile,
    read_only: Option<HostFile>,
    budget: Arc<Budget>,
    /// First block: how many. None adjacent to another.
    paid: BTreeMap<u64, u64>,
    count: u64,
    on_disk: bool,
    /// A guest may write through a shared mapping: the host then gives any byte of the file a block, unseen. All
    /// blocks up to the end are paid for from then on, whether they exist or not.
    shared_writable: bool,
}

impl Own {
    /// An empty one.
    pub(super) fn create(storage: &Storage) -> Result<Self, Errno> {
        let (file, budget, on_disk) = match storage {
            Storage::Scratch(scratch) => (scratch.create_file()?, scratch.budget().clone(), true),
            Storage::Memory(budget) => {
                (rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC)?, budget.clone(), false)
            }
            Storage::None => return Err(Errno::EROFS),
        };
        Ok(Self {
            file: Arc::new(file),
            read_only: None,
            budget,
            paid: BTreeMap::new(),
            count: 0,
            on_disk,
            shared_writable: false,
        })
    }

    /// Blocks that are paid for.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The host file, open for writing through shared mappings: a file of `size` bytes is paid for as a whole.
    pub(super) fn share_writable(&mut self, size: u64) -> Result<HostFile, Errno> {
        let first = !std::mem::replace(&mut self.shared_writable, true);
        if let Err(errno) = self.pay_up_to(size) {
            self.shared_writable = !first;
            return Err(errno);
        }
        Ok(self.file.clone())
    }

    /// Before the file grows to `end`: what a mapping could then fill is paid for.
    fn pay_up_to(&mut self, end: u64) -> Result<(), Errno> {
        if !self.shared_writable || self.gaps(&block_range(0, end)).is_empty() {
            return Ok(());
        }
        self.fill(0, end)
    }

    /// The host file, opened anew for reading only: so a mapping of it can't be made writable.
    pub(super) fn read_only(&mut self) -> Result<HostFile, Errno> {
        if let Some(file) = &self.read_only {
            return Ok(file.clone());
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = Arc::new(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        self.read_only = Some(file.clone());
        Ok(file)
    }

    /// Reads exactly; what the host's file does not have is zero.
    pub(super) fn read_at(&self, mut offset: u64, mut into: &mut [u8]) -> Result<(), Errno> {
        while !into.is_empty() {
            match rustix::io::pread(&self.file, &mut *into, offset)? {
                0 => {
                    into.fill(0);
                    return Ok(());
                }
                count => {
                    into = &mut into[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Writes as much of the front as there is room for.
    pub(super) fn write_at(&mut self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        self.pay_up_to(offset)?;
        let room = self.pay_front(block_range(offset, from.len() as u64))?;
        let want = (room * BLOCK - offset % BLOCK).min(from.len() as u64) as usize;
        let mut done = 0;
        while done < want {
            done += rustix::io::pwrite(&self.file, &from[done..want], offset + done as u64)?;
        }
        Ok(done)
    }

    /// Pays for the blocks of a range; if not for all, for as many of its front as possible. Answers how many.
    fn pay_front(&mut self, range: std::ops::Range<u64>) -> Result<u64, Errno> {
        for gap in self.gaps(&range) {
            if self.pay(gap.clone()).is_ok() {
                continue;
            }
            // One by one up to the limit: this happens once, when the disk is full.
            for block in gap {
                if let Err(errno) = self.pay(block..block + 1) {
                    return if block > range.start { Ok(block - range.start) } else { Err(errno) };
                }
            }
        }
        Ok(range.end - range.start)
    }

    fn pay(&mut self, gap: std::ops::Range<u64>) -> Result<(), Errno> {
        let blocks = gap.end - gap.start;
        self.budget.take(blocks.saturating_mul(BLOCK))?;
        self.count += blocks;
        let (mut start, mut count) = (gap.start, blocks);
        if let Some((before, length)) = self.paid.range(..start).next_back().map(|(s, c)| (*s, *c))
            && before + length == start
        {
            start = before;
            count += length;
        }
        if let Some(length) = self.paid.remove(&gap.end) {
            count += length;
        }
        self.paid.insert(start, count);
        Ok(())
    }

    /// Parts of a range that are not paid for.
    fn gaps(&self, range: &std::ops::Range<u64>) -> Vec<std::ops::Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let before = self.paid.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (start, count) in self.paid.range(before..range.end) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = at.max(start + count);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    fn refund(&mut self, range: std::ops::Range<u64>) {
        let first = self.paid.range(..range.start).next_back().map_or(range.start, |(start, _)| *start);
        let touched: Vec<(u64, u64)> =
            self.paid.range(first..range.end).map(|(start, count)| (*start, *count)).collect();
        for (start, count) in touched {
            let (from, to) = (start.max(range.start), (start + count).min(range.end));
            if from >= to {
                continue;
            }
            self.paid.remove(&start);
            if start < from {
                self.paid.insert(start, from - start);
            }
            if to < start + count {
                self.paid.insert(to, start + count - to);
            }
            self.count -= to - from;
            self.budget.give_back((to - from) * BLOCK);
        }
    }

    /// Sets the size of the host's file.
    pub(super) fn truncate(&mut self, size: u64) -> Result<(), Errno> {
        self.pay_up_to(size)?;
        rustix::fs::ftruncate(&self.file, size)?;
        self.refund(size.div_ceil(BLOCK)..u64::MAX);
        Ok(())
    }

    /// Makes bytes a hole.
    pub(super) fn punch(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, length)?;
        let (first, last) = (offset.div_ceil(BLOCK), (offset + length) / BLOCK);
        if first < last && !self.shared_writable {
            self.refund(first..last);
        }
        Ok(())
    }

    /// Gives all holes of a range blocks; none, if there is not room for all.
    pub(super) fn fill(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        let mut paid = Vec::new();
        for gap in self.gaps(&block_range(offset, length)) {
            if let Err(errno) = self.pay(gap.clone()) {
                paid.into_iter().for_each(|gap| self.refund(gap));
                return Err(errno);
            }
            paid.push(gap);
        }
        // Memory is left to whoever touches it first; a disk block that is promised must be there.
        if self.on_disk {
            let result = rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length);
            match result {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    paid.into_iter().for_each(|gap| self.refund(gap));
                    return Err(errno.into());
                }
            }
        }
        Ok(())
    }

    /// The next data or hole at or after `offset`.
    pub(super) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        let block = offset / BLOCK;
        let inside = self.paid.range(..=block).next_back().filter(|(start, count)| block < **start + **count);
        match (inside, hole) {
            (Some(_), false) | (None, true) => Some(offset),
            (Some((start, count)), true) => Some((start + count) * BLOCK),
            (None, false) => self.paid.range(block..).next().map(|(start, _)| start * BLOCK),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.budget.give_back(self.count * BLOCK);
    }
}
