//! The descriptor table of a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::OpenFile;
use crate::errno::Errno;
use crate::sync::Mutex;

/// Most descriptors of a table, whatever RLIMIT_NOFILE says: Linux's default of fs.nr_open is 1,048,576; a
/// table's memory (16 bytes each) belongs to the sentry.
pub const MAX_DESCRIPTORS: usize = 65_536;

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

#[derive(Default, Clone)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No free number is below.
    lowest_free: usize,
}

/// Descriptors of a process; shared with CLONE_FILES. What is closed is dropped outside the table's lock.
pub struct FdTable {
    /// Identifies the owner of POSIX record locks.
    id: u64,
    inner: Mutex<Slots>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Self {
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), inner: Mutex::default() }
    }

    /// Who holds POSIX record locks taken through this table.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A copy of its own, for a child without CLONE_FILES.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = Self::new();
        *copy.inner.lock() = self.inner.lock().clone();
        copy
    }

    /// The open file at `fd`.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let inner = self.inner.lock();
        let slot = usize::try_from(fd).ok().and_then(|fd| inner.slots.get(fd)?.as_ref());
        slot.map(|slot| slot.file.clone()).ok_or(Errno::EBADF)
    }

    /// The open file at `fd`, unless it is O_PATH.
    ///
    /// # Errors
    /// EBADF.
    pub fn get_io(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let file = self.get(fd)?;
        if file.is_path() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Puts a file at the lowest free number of at least `from`. `limit` is the soft RLIMIT_NOFILE.
    ///
    /// # Errors
    /// EMFILE; EINVAL if `from` is not below the limit.
    pub fn install_from(
        &self,
        file: Arc<OpenFile>,
        from: usize,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<i32, Errno> {
        let limit = usize::try_from(limit).map_or(MAX_DESCRIPTORS, |limit| limit.min(MAX_DESCRIPTORS));
        if from > 0 && from >= limit {
            return Err(Errno::EINVAL);
        }
        let mut inner = self.inner.lock();
        let mut number = from.max(inner.lowest_free);
        while inner.slots.get(number).is_some_and(Option::is_some) {
            number += 1;
        }
        if number >= limit {
            return Err(Errno::EMFILE);
        }
        if from <= inner.lowest_free {
            inner.lowest_free = number + 1;
        }
        inner.put(number, Slot { file, close_on_exec });
        Ok(number as i32)
    }

    /// Puts a file at the lowest free number.
    ///
    /// # Errors
    /// EMFILE.
    pub fn install(&self, file: Arc<OpenFile>, close_on_exec: bool, limit: u64) -> Result<i32, Errno> {
        self.install_from(file, 0, close_on_exec, limit)
    }

    /// Puts a file at `fd`, and returns what was there.
    ///
    /// # Errors
    /// EBADF if `fd` is negative or not below the limit.
    pub fn install_at(
        &self,
        file: Arc<OpenFile>,
        fd: i32,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let number = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if number as u64 >= limit || number >= MAX_DESCRIPTORS {
            return Err(Errno::EBADF);
        }
        let old = self.inner.lock().put(number, Slot { file, close_on_exec }).map(|slot| slot.file);
        old.iter().for_each(|file| self.closed(file));
        Ok(old)
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let number = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let file = self.inner.lock().take(number).map(|slot| slot.file).ok_or(Errno::EBADF)?;
        self.closed(&file);
        Ok(file)
    }

    /// A process that closes any descriptor of a file loses its POSIX locks on it.
    fn closed(&self, file: &OpenFile) {
        if let Some(extra) = file.inode().extra_if_any() {
            extra.locks.release_process(self.id);
        }
    }

    /// Takes out all descriptors of `first..=last` (close_range).
    pub fn close_range(&self, first: u32, last: u32) -> Vec<Arc<OpenFile>> {
        let files: Vec<Arc<OpenFile>> = {
            let mut inner = self.inner.lock();
            let end = (last as usize).saturating_add(1).min(inner.slots.len());
            let numbers = first as usize..end;
            numbers.filter_map(|number| inner.take(number)).map(|slot| slot.file).collect()
        };
        files.iter().for_each(|file| self.closed(file));
        files
    }

    /// Marks all descriptors of `first..=last` close-on-exec.
    pub fn mark_range(&self, first: u32, last: u32) {
        let mut inner = self.inner.lock();
        let end = (last as usize).saturating_add(1).min(inner.slots.len());
        for number in first as usize..end {
            if let Some(slot) = &mut inner.slots[number] {
                slot.close_on_exec = true;
            }
        }
    }

    /// Takes out what exec closes.
    pub fn close_on_exec(&self) -> Vec<Arc<OpenFile>> {
        let files: Vec<Arc<OpenFile>> = {
            let mut inner = self.inner.lock();
            let marked: Vec<usize> = (0..inner.slots.len())
                .filter(|n| inner.slots[*n].as_ref().is_some_and(|slot| slot.close_on_exec))
                .collect();
            marked.into_iter().filter_map(|number| inner.take(number)).map(|slot| slot.file).collect()
        };
        files.iter().for_each(|file| self.closed(file));
        files
    }

    /// Takes out everything: the process has ended.
    pub fn clear(&self) -> Vec<Arc<OpenFile>> {
        self.close_range(0, u32::MAX)
    }

    /// Whether a descriptor is close-on-exec.
    ///
    /// # Errors
    /// EBADF.
    pub fn is_close_on_exec(&self, fd: i32) -> Result<bool, Errno> {
        let inner = self.inner.lock();
        let slot = usize::try_from(fd).ok().and_then(|fd| inner.slots.get(fd)?.as_ref());
        slot.map(|slot| slot.close_on_exec).ok_or(Errno::EBADF)
    }

    /// Sets or clears close-on-exec.
    ///
    /// # Errors
    /// EBADF.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let slot = usize::try_from(fd).ok().and_then(|fd| inner.slots.get_mut(fd)?.as_mut());
        slot.ok_or(Errno::EBADF)?.close_on_exec = on;
        Ok(())
    }

    /// The numbers in use, ascending, with their files.
    pub fn open_files(&self) -> Vec<(i32, Arc<OpenFile>)> {
        let inner = self.inner.lock();
        let numbered = inner.slots.iter().enumerate();
        numbered.filter_map(|(n, slot)| Some((n as i32, slot.as_ref()?.file.clone()))).collect()
    }

    /// How many numbers the table has room for now (FDSize of /proc/PID/status).
    pub fn size(&self) -> usize {
        self.inner.lock().slots.len().next_power_of_two().max(64)
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        // The process has ended, or left the table: its locks go with its descriptors.
        drop(self.clear());
    }
}

impl Slots {
    fn put(&mut self, number: usize, slot: Slot) -> Option<Slot> {
        if number >= self.slots.len() {
            self.slots.resize_with(number + 1, || None);
        }
        self.slots[number].replace(slot)
    }

    fn take(&mut self, number: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(number)?.take()?;
        self.lowest_free = self.lowest_free.min(number);
        Some(slot)
    }
}
