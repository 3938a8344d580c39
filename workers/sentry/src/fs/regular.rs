//! Open files of regular files, directories, O_PATH and virtual files.

use std::any::Any;
use std::sync::Arc;

use super::inotify;
use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::flags::O_NOATIME;
use crate::vfs::{File, Mapping, OpenFile, Timestamp, VirtualFile};

/// An open regular file.
pub struct RegularFile;

impl RegularFile {
    fn after_write(file: &OpenFile) {
        let inode = file.inode();
        if !file.keeps_set_id() {
            inode.lose_set_id();
        }
        inode.touch();
        inotify::notify(file.dentry(), inotify::IN_MODIFY);
    }
}

impl File for RegularFile {
    fn read_at(&self, file: &OpenFile, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let content = file.inode().content().ok_or(Errno::EIO)?;
        let count = content.read_at(offset, into)?;
        if count > 0 {
            if file.flags() & O_NOATIME == 0 {
                file.inode().note_access();
            }
            inotify::notify(file.dentry(), inotify::IN_ACCESS);
        }
        Ok(count)
    }

    fn write_at(&self, file: &OpenFile, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let count = file.inode().content().ok_or(Errno::EIO)?.write_at(offset, from)?;
        if count > 0 {
            Self::after_write(file);
        }
        Ok(count)
    }

    fn append(&self, file: &OpenFile, from: &[u8]) -> Result<(usize, u64), Errno> {
        let done = file.inode().content().ok_or(Errno::EIO)?.append(from)?;
        if done.0 > 0 {
            Self::after_write(file);
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &OpenFile, current: u64, offset: i64, whence: u32) -> Result<u64, Errno> {
        let content = file.inode().content().ok_or(Errno::EIO)?;
        seek_in(content.size(), current, offset, whence, |from, hole| content.seek_data(from, hole))
    }

    fn readable_bytes(&self, file: &OpenFile) -> Result<usize, Errno> {
        let size = file.inode().content().ok_or(Errno::EIO)?.size();
        Ok(size.saturating_sub(file.position()) as usize)
    }

    fn mapping(
        &self,
        file: &OpenFile,
        offset: u64,
        _length: u64,
        writable_shared: bool,
    ) -> Result<Mapping, Errno> {
        file.inode().content().ok_or(Errno::ENODEV)?.mapping(offset, writable_shared)
    }

    fn release(&self, file: &OpenFile) {
        close_event(file);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn close_event(file: &OpenFile) {
    let event = if file.may_write() { inotify::IN_CLOSE_WRITE } else { inotify::IN_CLOSE_NOWRITE };
    inotify::notify(file.dentry(), event);
}

/// A new position.
///
/// # Errors
/// EINVAL, ENXIO, EOVERFLOW.
pub fn seek_in(
    size: u64,
    current: u64,
    offset: i64,
    whence: u32,
    data: impl Fn(u64, bool) -> Result<u64, Errno>,
) -> Result<u64, Errno> {
    use linux_raw_sys::general::{SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET};
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => current,
        SEEK_END => size,
        SEEK_DATA | SEEK_HOLE => {
            let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            return data(from, whence == SEEK_HOLE);
        }
        _ => return Err(Errno::EINVAL),
    };
    let position = i64::try_from(base).ok().and_then(|base| base.checked_add(offset));
    let position = position.ok_or(Errno::EOVERFLOW)?;
    u64::try_from(position).map_err(|_| Errno::EINVAL)
}

/// An open directory. Its position is the place of the next entry in the listing.
pub struct DirectoryFile;

impl File for DirectoryFile {
    fn read_at(&self, _file: &OpenFile, _offset: u64, _into: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _file: &OpenFile, current: u64, offset: i64, whence: u32) -> Result<u64, Errno> {
        seek_in(i64::MAX as u64, current, offset, whence, |_, _| Err(Errno::EINVAL))
    }

    fn release(&self, file: &OpenFile) {
        close_event(file);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An O_PATH file: nothing can be done with it, its descriptor only names a place.
pub struct PathFile;

impl File for PathFile {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open virtual file: its content as it was at the first read.
pub struct VirtualOpenFile {
    source: Arc<dyn VirtualFile>,
    content: Mutex<Option<Arc<[u8]>>>,
}

impl VirtualOpenFile {
    /// Opens a virtual file.
    pub fn new(source: Arc<dyn VirtualFile>) -> Self {
        Self { source, content: Mutex::new(None) }
    }

    fn content(&self, anew: bool) -> Result<Arc<[u8]>, Errno> {
        if let Some(content) = &*self.content.lock()
            && !anew
        {
            return Ok(content.clone());
        }
        // Made without the lock: it asks other parts of the kernel.
        let content: Arc<[u8]> = self.source.content()?.into();
        *self.content.lock() = Some(content.clone());
        Ok(content)
    }
}

impl File for VirtualOpenFile {
    fn read_at(&self, _file: &OpenFile, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        // Whoever reads from the start again wants to know how things are now.
        let content = self.content(offset == 0)?;
        let rest = usize::try_from(offset).ok().and_then(|from| content.get(from..)).unwrap_or(&[]);
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _file: &OpenFile, _offset: u64, from: &[u8]) -> Result<usize, Errno> {
        self.source.write(from)?;
        Ok(from.len())
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _file: &OpenFile, current: u64, offset: i64, whence: u32) -> Result<u64, Errno> {
        let size = self.content(false)?.len() as u64;
        seek_in(size, current, offset, whence, |_, _| Err(Errno::EINVAL))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Whether an access is to be noted: as `relatime` does.
pub fn wants_access_time(atime: Timestamp, mtime: Timestamp, ctime: Timestamp, now: Timestamp) -> bool {
    /// Seconds of a day.
    const DAY: i64 = 86_400;
    atime <= mtime || atime <= ctime || now.seconds - atime.seconds >= DAY
}
