//! The bytes of a regular file.
//!
//! A file of the image stays there until it is written: then its bytes are copied to scratch. Small files have
//! blocks in the scratch's arena ([`blocks`]); large ones, mapped ones and memory files have a host file of their
//! own ([`own`]). Every block that exists is charged, holes are not.

mod blocks;
mod own;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::image::ImageFile;
use super::scratch::BLOCK;
use crate::errno::Errno;
use crate::sync::RwLock;
use crate::vfs::{Mapping, Storage};
use blocks::Blocks;
use own::Own;

/// From this size a file of the arena moves to a host file of its own: its blocks would fragment the arena.
const LARGE: u64 = 1 << 20;
/// Bytes that are copied at a time when a file moves.
const COPY: usize = 256 << 10;
/// Largest size of a file in bytes: what every host file system has, and page arithmetic can't overflow.
pub const MAX_SIZE: u64 = 1 << 43;

/// No writes at all (F_SEAL_WRITE).
pub const SEAL_WRITE: u32 = 0x8;
const SEAL_SEAL: u32 = 0x1;
const SEAL_SHRINK: u32 = 0x2;
const SEAL_GROW: u32 = 0x4;
const SEAL_FUTURE_WRITE: u32 = 0x10;
const SEAL_EXEC: u32 = 0x20;

/// The bytes of a regular file. Reads and writes of any length are atomic towards each other.
pub struct Content {
    inner: RwLock<Inner>,
    storage: Storage,
    /// F_SEAL_* of a memfd; SEAL_SEAL for all else.
    seals: AtomicU32,
}

struct Inner {
    size: u64,
    backing: Backing,
}

enum Backing {
    Image(Box<ImageFile>),
    Blocks(Blocks),
    Own(Own),
}

/// What a free-space call does (the mode bits of fallocate(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Blocks are there afterwards.
    Fill,
    /// Bytes read as zeros and blocks are free afterwards.
    Punch,
    /// Bytes read as zeros and blocks are there afterwards.
    Zero,
}

impl Content {
    /// An empty file.
    pub fn empty(storage: &Storage) -> Self {
        Self::with(Inner { size: 0, backing: Backing::Blocks(Blocks::default()) }, storage)
    }

    /// A file of an image.
    pub fn image(file: ImageFile, storage: &Storage) -> Self {
        let size = file.size();
        Self::with(Inner { size, backing: Backing::Image(Box::new(file)) }, storage)
    }

    fn with(inner: Inner, storage: &Storage) -> Self {
        Self { inner: RwLock::new(inner), storage: storage.clone(), seals: AtomicU32::new(SEAL_SEAL) }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.inner.read().size
    }

    /// Blocks of 512 bytes that it occupies.
    pub fn blocks(&self) -> u64 {
        let inner = self.inner.read();
        match &inner.backing {
            Backing::Image(file) => file.size().div_ceil(BLOCK) * (BLOCK / 512),
            Backing::Blocks(blocks) => blocks.count() * (BLOCK / 512),
            Backing::Own(own) => own.count() * (BLOCK / 512),
        }
    }

    /// Reads; less than asked only at the end.
    ///
    /// # Errors
    /// EIO and what else the host says.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let inner = self.inner.read();
        inner.read_at(&self.storage, offset, into)
    }

    /// Writes all of `from`, or as much of its front as there is room for.
    ///
    /// # Errors
    /// ENOSPC if there is no room for a single byte, EFBIG, EPERM if it is sealed.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let mut inner = self.inner.write();
        self.write_locked(&mut inner, offset, from)
    }

    /// Writes at the end; answers how much, and the new end.
    ///
    /// # Errors
    /// As `write_at`.
    pub fn append(&self, from: &[u8]) -> Result<(usize, u64), Errno> {
        let mut inner = self.inner.write();
        let end = inner.size;
        let count = self.write_locked(&mut inner, end, from)?;
        Ok((count, end + count as u64))
    }

    fn write_locked(&self, inner: &mut Inner, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        if from.is_empty() {
            return Ok(0);
        }
        let seals = self.seals.load(Ordering::Relaxed);
        let end = offset.checked_add(from.len() as u64).ok_or(Errno::EFBIG)?;
        if seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 || end > inner.size && seals & SEAL_GROW != 0 {
            return Err(Errno::EPERM);
        }
        if offset >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let from = &from[..from.len().min((MAX_SIZE - offset) as usize)];
        inner.make_writable(&self.storage)?;
        if end > LARGE {
            inner.grow_out_of_arena(&self.storage);
        }
        let count = match (&mut inner.backing, &self.storage) {
            (Backing::Blocks(blocks), Storage::Scratch(scratch)) => blocks.write_at(scratch, offset, from)?,
            (Backing::Own(own), _) => own.write_at(offset, from)?,
            _ => return Err(Errno::EROFS),
        };
        inner.size = inner.size.max(offset + count as u64);
        Ok(count)
    }

    /// Sets the size.
    ///
    /// # Errors
    /// EFBIG, EPERM if it is sealed, ENOSPC.
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut inner = self.inner.write();
        let seals = self.seals.load(Ordering::Relaxed);
        if size < inner.size && seals & SEAL_SHRINK != 0 || size > inner.size && seals & SEAL_GROW != 0 {
            return Err(Errno::EPERM);
        }
        if size == inner.size && matches!(inner.backing, Backing::Image(_)) {
            return Ok(());
        }
        if size == 0 && matches!(inner.backing, Backing::Image(_)) {
            // Nothing of the image's bytes is left: don't copy them first.
            inner.backing = Backing::Blocks(Blocks::default());
            inner.size = 0;
        }
        inner.make_writable(&self.storage)?;
        match (&mut inner.backing, &self.storage) {
            (Backing::Blocks(blocks), Storage::Scratch(scratch)) => blocks.truncate(scratch, size)?,
            (Backing::Own(own), _) => own.truncate(size)?,
            _ => return Err(Errno::EROFS),
        }
        inner.size = size;
        Ok(())
    }

    /// fallocate(2); `keep_size` leaves the size although blocks behind the end are filled.
    ///
    /// # Errors
    /// EFBIG, ENOSPC, EPERM if it is sealed.
    pub fn allocate(&self, offset: u64, length: u64, how: Allocate, keep_size: bool) -> Result<(), Errno> {
        let end = offset.checked_add(length).filter(|end| *end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let mut inner = self.inner.write();
        let seals = self.seals.load(Ordering::Relaxed);
        let grows = how != Allocate::Punch && !keep_size && end > inner.size;
        if how != Allocate::Fill && seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0
            || grows && seals & SEAL_GROW != 0
        {
            return Err(Errno::EPERM);
        }
        inner.make_writable(&self.storage)?;
        if how != Allocate::Punch && end > LARGE {
            inner.grow_out_of_arena(&self.storage);
        }
        match (&mut inner.backing, &self.storage) {
            (Backing::Blocks(blocks), Storage::Scratch(scratch)) => {
                if how != Allocate::Fill {
                    blocks.punch(scratch, offset, length)?;
                }
                if how != Allocate::Punch {
                    blocks.fill(scratch, offset, length)?;
                }
            }
            (Backing::Own(own), _) => {
                if how != Allocate::Fill {
                    own.punch(offset, length)?;
                }
                if how != Allocate::Punch {
                    own.fill(offset, length)?;
                }
            }
            _ => return Err(Errno::EROFS),
        }
        if grows {
            if let Backing::Own(own) = &mut inner.backing {
                own.truncate(end)?;
            }
            inner.size = end;
        }
        Ok(())
    }

    /// The next byte at or after `offset` that is data (or hole).
    ///
    /// # Errors
    /// ENXIO if there is none before the end.
    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let inner = self.inner.read();
        if offset >= inner.size {
            return Err(Errno::ENXIO);
        }
        let found = match &inner.backing {
            Backing::Image(_) => (!hole).then_some(offset),
            Backing::Blocks(blocks) => blocks.seek(offset, hole),
            Backing::Own(own) => own.seek(offset, hole),
        };
        match found {
            Some(at) if at < inner.size => Ok(at),
            _ if hole => Ok(inner.size),
            _ => Err(Errno::ENXIO),
        }
    }

    /// The host's file for a mapping from `offset` on.
    ///
    /// # Errors
    /// ENOSPC when the holes of a file under a shared writable mapping, or a copy of the file, don't fit; EPERM if it is
    /// sealed; EMFILE and what else the host says.
    pub fn mapping(&self, offset: u64, writable_shared: bool) -> Result<Mapping, Errno> {
        let seals = self.seals.load(Ordering::Relaxed);
        if writable_shared && seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let mut inner = self.inner.write();
        let size = inner.size;
        let available = size.next_multiple_of(BLOCK).saturating_sub(offset);
        if let Backing::Image(file) = &inner.backing
            && !writable_shared
            && let Some((host_file, place)) = file.mappable()
        {
            return Ok(Mapping {
                host_file: host_file.clone(),
                host_offset: place + offset,
                length_available: available,
                stub_may_write: false,
                own_file: false,
            });
        }
        inner.make_writable(&self.storage)?;
        inner.make_own(&self.storage)?;
        let Backing::Own(own) = &mut inner.backing else { return Err(Errno::ENODEV) };
        Ok(Mapping {
            host_file: if writable_shared { own.share_writable(size)? } else { own.read_only()? },
            host_offset: offset,
            length_available: available,
            stub_may_write: writable_shared,
            own_file: true,
        })
    }

    /// F_GET_SEALS.
    pub fn seals(&self) -> u32 {
        self.seals.load(Ordering::Relaxed)
    }

    /// Allows F_ADD_SEALS (MFD_ALLOW_SEALING).
    pub fn allow_sealing(&self) {
        self.seals.store(0, Ordering::Relaxed);
    }

    /// F_ADD_SEALS.
    ///
    /// # Errors
    /// EPERM after F_SEAL_SEAL, EINVAL for unknown bits.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        const KNOWN: u32 = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE | SEAL_FUTURE_WRITE | SEAL_EXEC;
        if seals & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        // A seal takes effect between writes, never in the middle of one.
        let _inner = self.inner.write();
        if self.seals.load(Ordering::Relaxed) & SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        self.seals.fetch_or(seals, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let mut inner = self.inner.write();
        if let (Backing::Blocks(blocks), Storage::Scratch(scratch)) = (&mut inner.backing, &self.storage) {
            blocks.clear(scratch);
        }
    }
}

impl Inner {
    fn read_at(&self, storage: &Storage, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        if offset >= self.size {
            return Ok(0);
        }
        let count = into.len().min(usize::try_from(self.size - offset).unwrap_or(usize::MAX));
        let into = &mut into[..count];
        match (&self.backing, storage) {
            (Backing::Image(file), _) => return file.read_at(offset, into),
            (Backing::Blocks(blocks), Storage::Scratch(scratch)) => blocks.read_at(scratch, offset, into)?,
            (Backing::Own(own), _) => own.read_at(offset, into)?,
            (Backing::Blocks(_), _) => into.fill(0),
        }
        Ok(count)
    }

    /// Copies a file of the image; gives an empty memory file its host file.
    fn make_writable(&mut self, storage: &Storage) -> Result<(), Errno> {
        match (&self.backing, storage) {
            (Backing::Image(_), Storage::Scratch(_)) if self.size <= LARGE => self.copy_to_arena(storage),
            (Backing::Image(_), _) | (Backing::Blocks(_), Storage::Memory(_)) => self.make_own(storage),
            _ => Ok(()),
        }
    }

    fn copy_to_arena(&mut self, storage: &Storage) -> Result<(), Errno> {
        let (Backing::Image(file), Storage::Scratch(scratch)) = (&self.backing, storage) else {
            return Ok(());
        };
        let mut blocks = Blocks::default();
        let mut bytes = vec![0; (self.size as usize).min(LARGE as usize)];
        let count = file.read_at(0, &mut bytes)?;
        let written = blocks.write_at(scratch, 0, &bytes[..count]);
        if written != Ok(count) {
            blocks.clear(scratch);
            return Err(written.err().unwrap_or(Errno::ENOSPC));
        }
        self.backing = Backing::Blocks(blocks);
        Ok(())
    }

    /// Gives it a host file of its own, with its bytes copied.
    fn make_own(&mut self, storage: &Storage) -> Result<(), Errno> {
        if matches!(self.backing, Backing::Own(_)) {
            return Ok(());
        }
        let mut own = Own::create(storage)?;
        let mut buffer = vec![0; COPY.min(self.size as usize)];
        let mut offset = 0;
        while offset < self.size {
            // Holes stay holes.
            if let Backing::Blocks(blocks) = &self.backing {
                match blocks.seek(offset, false) {
                    Some(data) if data < self.size => offset = data,
                    _ => break,
                }
            }
            let want = self.data_run(offset).min(buffer.len());
            let count = self.read_at(storage, offset, &mut buffer[..want])?;
            if count == 0 {
                break;
            }
            let mut done = 0;
            while done < count {
                done += own.write_at(offset + done as u64, &buffer[done..count])?;
            }
            offset += count as u64;
        }
        own.truncate(self.size)?;
        let old = std::mem::replace(&mut self.backing, Backing::Own(own));
        if let (Backing::Blocks(mut blocks), Storage::Scratch(scratch)) = (old, storage) {
            blocks.clear(scratch);
        }
        Ok(())
    }

    /// Bytes of data from `offset` on, without a hole.
    fn data_run(&self, offset: u64) -> usize {
        let end = match &self.backing {
            Backing::Blocks(blocks) => blocks.seek(offset, true).unwrap_or(self.size),
            _ => self.size,
        };
        usize::try_from(end.min(self.size) - offset).unwrap_or(usize::MAX)
    }

    /// Moves a large file out of the arena; where that fails (descriptors), it stays.
    fn grow_out_of_arena(&mut self, storage: &Storage) {
        if matches!(self.backing, Backing::Blocks(_)) {
            let _ = self.make_own(storage);
        }
    }
}

/// Shared by the two kinds of storage: the blocks of `offset..offset + length`, from first to behind the last.
fn block_range(offset: u64, length: u64) -> std::ops::Range<u64> {
    offset / BLOCK..(offset + length).div_ceil(BLOCK)
}

/// An `Arc` of a host file.
type HostFile = Arc<std::os::fd::OwnedFd>;
