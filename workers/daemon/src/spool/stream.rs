use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_types::StreamTotals;

/// One output stream of an attempt on disk: what the job wrote and we kept. One thread appends; others read.
#[derive(Debug)]
pub(crate) struct StreamFile {
    file: File,
    kept: AtomicU64,
    total: AtomicU64,
    /// Bytes before this were handed back to the disk.
    released: AtomicU64,
}

impl StreamFile {
    /// Opens the file, or makes it; what an earlier life kept is its length.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let kept = file.metadata()?.len();
        Ok(Self { file, kept: kept.into(), total: kept.into(), released: 0.into() })
    }

    /// Appends the first `keep` bytes and counts all of them.
    pub(crate) fn append(&self, bytes: &[u8], keep: usize) -> io::Result<()> {
        self.total.fetch_add(bytes.len() as u64, Ordering::Release);
        let kept = self.kept.load(Ordering::Relaxed);
        self.file.write_all_at(&bytes[..keep], kept)?;
        self.kept.store(kept + keep as u64, Ordering::Release);
        Ok(())
    }

    /// At most `max` bytes from `offset`; empty at the end.
    pub(crate) fn read(&self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let left = self.kept().saturating_sub(offset);
        let mut bytes = vec![0; max.min(usize::try_from(left).unwrap_or(max))];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Bytes that can be read.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }

    /// What the job wrote and what was kept.
    pub(crate) fn totals(&self) -> StreamTotals {
        let kept_bytes = self.kept();
        StreamTotals { total_bytes: self.total.load(Ordering::Acquire).max(kept_bytes), kept_bytes }
    }

    /// Gives the disk back what the server has: bytes before `durable` are never read again.
    pub(crate) fn release(&self, durable: u64) {
        /// Bytes; smaller holes cost more calls than they free.
        const STEP: u64 = 1 << 20;
        let released = self.released.load(Ordering::Relaxed);
        if durable.saturating_sub(released) < STEP {
            return;
        }
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        // A file system without holes keeps the bytes until the attempt is forgotten, which is as correct.
        let _ = rustix::fs::fallocate(&self.file, flags, released, durable - released);
        self.released.store(durable, Ordering::Relaxed);
    }
}
