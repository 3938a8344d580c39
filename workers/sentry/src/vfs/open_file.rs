//! Open files: what a descriptor refers to, with position and flags.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::flags::{O_ACCMODE, O_APPEND, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, SETTABLE_FLAGS};
use super::{Dentry, Inode};
use crate::errno::Errno;
use crate::sync::Mutex;
use crate::wait::{Events, Wake};

/// A waiter for events of a file: who, with which key, for what.
pub type Waiter<'a> = Option<(&'a Arc<dyn Wake>, u64, Events)>;

/// What the host needs to map a part of a file.
#[derive(Clone)]
pub struct Mapping {
    /// The host's file. Writable only if the guest may write through a shared mapping.
    pub host_file: Arc<OwnedFd>,
    /// Byte offset in it; a multiple of the page size.
    pub host_offset: u64,
    /// Bytes from there that belong to the file, rounded up to a page; 0 if the offset is at or behind the end.
    pub length_available: u64,
    /// `host_file` is open for writing, and the guest may map it shared and writable.
    pub stub_may_write: bool,
    /// The host file is this guest file's alone, so that offsets are the same, and mapping beyond the end gives
    /// SIGBUS as it should. Otherwise it is an image, and the mapping must be cut.
    pub own_file: bool,
}

/// What kinds of open files do. Nothing here waits: what would wait is EAGAIN, and the system call parks.
pub trait File: Send + Sync + Any {
    /// Reads as a stream.
    ///
    /// # Errors
    /// EAGAIN when there is nothing yet; EINVAL if it can't be read.
    fn read(&self, _file: &OpenFile, _into: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// Writes as a stream.
    ///
    /// # Errors
    /// EAGAIN when there is no room; EINVAL if it can't be written.
    fn write(&self, _file: &OpenFile, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// Reads at a position.
    ///
    /// # Errors
    /// ESPIPE if it has no positions.
    fn read_at(&self, _file: &OpenFile, _offset: u64, _into: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }

    /// Writes at a position.
    ///
    /// # Errors
    /// ESPIPE if it has no positions.
    fn write_at(&self, _file: &OpenFile, _offset: u64, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }

    /// Writes at the end and answers the position behind it.
    ///
    /// # Errors
    /// As `write_at`.
    fn append(&self, file: &OpenFile, from: &[u8]) -> Result<(usize, u64), Errno> {
        self.write(file, from).map(|count| (count, 0))
    }

    /// Whether it has positions.
    fn seekable(&self) -> bool {
        false
    }

    /// Where a seek from the end counts from, in bytes; and SEEK_DATA and SEEK_HOLE.
    ///
    /// # Errors
    /// EINVAL, ENXIO.
    fn seek(&self, _file: &OpenFile, _current: u64, _offset: i64, _whence: u32) -> Result<u64, Errno> {
        Err(Errno::ESPIPE)
    }

    /// What it is ready for; registers the waiter first.
    fn poll(&self, _file: &OpenFile, _waiter: Waiter<'_>) -> Events {
        Events::IN | Events::OUT
    }

    /// Whether epoll takes it.
    fn pollable(&self) -> bool {
        false
    }

    /// Bytes that can be read at once (FIONREAD).
    ///
    /// # Errors
    /// ENOTTY if that has no meaning.
    fn readable_bytes(&self, _file: &OpenFile) -> Result<usize, Errno> {
        Err(Errno::ENOTTY)
    }

    /// What is to be mapped.
    ///
    /// # Errors
    /// ENODEV if it can't be mapped.
    fn mapping(
        &self,
        _file: &OpenFile,
        _offset: u64,
        _length: u64,
        _writable_shared: bool,
    ) -> Result<Mapping, Errno> {
        Err(Errno::ENODEV)
    }

    /// The last descriptor is closed.
    fn release(&self, _file: &OpenFile) {}

    /// Further lines of /proc/PID/fdinfo/N.
    fn describe(&self, _out: &mut String) {}

    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An open file description.
pub struct OpenFile {
    /// Unique; the owner of flocks and OFD locks.
    id: u64,
    dentry: Arc<Dentry>,
    /// O_* as F_GETFL shows them.
    flags: AtomicU32,
    position: Mutex<u64>,
    /// F_SETOWN's process (negative: group), and F_SETSIG's signal in the upper half.
    owner: AtomicU64,
    counts_as_writer: bool,
    /// Its writes leave set-user and set-group bits alone (CAP_FSETID of whoever opened it).
    keeps_set_id: AtomicBool,
    object: Box<dyn File>,
}

impl OpenFile {
    /// A new open file. `flags` are those that F_GETFL is to show, with the access mode.
    pub fn new(dentry: Arc<Dentry>, flags: u32, object: Box<dyn File>) -> Arc<Self> {
        Arc::new(Self::assemble(dentry, flags, object, false))
    }

    /// As `new`, for one that writes to a regular file: it counts as a writer until it is closed.
    ///
    /// # Errors
    /// ETXTBSY.
    pub fn new_writer(dentry: Arc<Dentry>, flags: u32, object: Box<dyn File>) -> Result<Arc<Self>, Errno> {
        dentry.inode().begin_write()?;
        Ok(Arc::new(Self::assemble(dentry, flags, object, true)))
    }

    fn assemble(dentry: Arc<Dentry>, flags: u32, object: Box<dyn File>, counts_as_writer: bool) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            dentry,
            flags: AtomicU32::new(flags),
            position: Mutex::new(0),
            owner: AtomicU64::new(0),
            counts_as_writer,
            keeps_set_id: AtomicBool::new(false),
            object,
        }
    }

    /// Identifies the open file description.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name.
    pub fn dentry(&self) -> &Arc<Dentry> {
        &self.dentry
    }

    /// Its inode.
    pub fn inode(&self) -> &Arc<Inode> {
        self.dentry.inode()
    }

    /// What it does, as its own type.
    pub fn object<T: File>(&self) -> Option<&T> {
        self.object.as_any().downcast_ref()
    }

    /// What it does.
    pub fn ops(&self) -> &dyn File {
        &*self.object
    }

    /// The flags of F_GETFL.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes the flags that F_SETFL may change.
    pub fn set_flags(&self, flags: u32) {
        let kept = self.flags() & !SETTABLE_FLAGS;
        self.flags.store(kept | flags & SETTABLE_FLAGS, Ordering::Relaxed);
    }

    /// Whether it was opened with O_PATH.
    pub fn is_path(&self) -> bool {
        self.flags() & O_PATH != 0
    }

    /// Whether its reads and writes must not wait.
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }

    /// Whether it may be read.
    pub fn may_read(&self) -> bool {
        matches!(self.flags() & (O_ACCMODE | O_PATH), O_RDONLY | O_RDWR)
    }

    /// Whether it may be written.
    pub fn may_write(&self) -> bool {
        matches!(self.flags() & (O_ACCMODE | O_PATH), O_WRONLY | O_RDWR)
    }

    /// Says that writes leave set-user and set-group bits alone.
    pub fn keep_set_id(&self) {
        self.keeps_set_id.store(true, Ordering::Relaxed);
    }

    /// Whether writes leave set-user and set-group bits alone.
    pub fn keeps_set_id(&self) -> bool {
        self.keeps_set_id.load(Ordering::Relaxed)
    }

    /// F_GETOWN's value and F_GETSIG's signal.
    pub fn owner(&self) -> (i32, u32) {
        let owner = self.owner.load(Ordering::Relaxed);
        (owner as u32 as i32, (owner >> 32) as u32)
    }

    /// Sets F_SETOWN's value and F_SETSIG's signal.
    pub fn set_owner(&self, pid: i32, signal: u32) {
        self.owner.store(u64::from(pid as u32) | u64::from(signal) << 32, Ordering::Relaxed);
    }

    /// Reads at the position, which moves. Never waits.
    ///
    /// # Errors
    /// EBADF if it is not open for reading; EAGAIN; what the kind says.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        if !self.may_read() {
            return Err(Errno::EBADF);
        }
        if !self.object.seekable() {
            return self.object.read(self, into);
        }
        let mut position = self.position.lock();
        let count = self.object.read_at(self, *position, into)?;
        *position += count as u64;
        Ok(count)
    }

    /// Writes at the position, which moves, or at the end with O_APPEND. Never waits.
    ///
    /// # Errors
    /// EBADF if it is not open for writing; EAGAIN; what the kind says.
    pub fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        if !self.may_write() {
            return Err(Errno::EBADF);
        }
        if !self.object.seekable() {
            return self.object.write(self, from);
        }
        let mut position = self.position.lock();
        if self.flags() & O_APPEND != 0 {
            let (count, end) = self.object.append(self, from)?;
            *position = end;
            return Ok(count);
        }
        let count = self.object.write_at(self, *position, from)?;
        *position += count as u64;
        Ok(count)
    }

    /// Reads at `offset`.
    ///
    /// # Errors
    /// EBADF, ESPIPE, what the kind says.
    pub fn pread(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        if !self.may_read() {
            return Err(Errno::EBADF);
        }
        self.object.read_at(self, offset, into)
    }

    /// Writes at `offset`; with O_APPEND at the end, as Linux does.
    ///
    /// # Errors
    /// EBADF, ESPIPE, what the kind says.
    pub fn pwrite(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        if !self.may_write() {
            return Err(Errno::EBADF);
        }
        if self.object.seekable() && self.flags() & O_APPEND != 0 {
            return self.object.append(self, from).map(|(count, _)| count);
        }
        self.object.write_at(self, offset, from)
    }

    /// Runs `act` with the position locked.
    pub fn with_position<T>(&self, act: impl FnOnce(&mut u64) -> T) -> T {
        act(&mut self.position.lock())
    }

    /// The position.
    pub fn position(&self) -> u64 {
        *self.position.lock()
    }

    /// What it is ready for; registers the waiter first.
    pub fn poll(&self, waiter: Waiter<'_>) -> Events {
        self.object.poll(self, waiter)
    }

    /// What is to be mapped of `offset..offset + length`. Rights (EACCES) are checked here: a shared writable
    /// mapping needs a file open for both, any mapping one open for reading.
    ///
    /// # Errors
    /// EBADF, EACCES, ENODEV, ENOSPC (holes under a shared writable mapping are filled first).
    pub fn mapping(&self, offset: u64, length: u64, writable_shared: bool) -> Result<Mapping, Errno> {
        if self.is_path() {
            return Err(Errno::EBADF);
        }
        if !self.may_read() || writable_shared && !self.may_write() {
            return Err(Errno::EACCES);
        }
        self.object.mapping(self, offset, length, writable_shared)
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({}, {:?}, flags {:o})", self.id, self.dentry, self.flags())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.object.release(self);
        let inode = self.dentry.inode();
        if self.counts_as_writer {
            inode.end_write();
        }
        if let Some(extra) = inode.extra_if_any() {
            extra.locks.release_open_file(self.id);
        }
    }
}
