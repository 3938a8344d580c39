//! A reader of tar streams: ustar, GNU and PAX, with every kind of sparse file.
//!
//! Our own, since a layer's attributes are binary (the usual crate splits PAX records at newlines),
//! headers must be bounded before they are read, and PAX sparse files are to be understood. It
//! returns what the archive says, unchecked: names may be hostile.

mod extension;
mod header;
mod sparse;

use std::io::Read;

use bulkhead_erofs::Meta;

use super::bounds;
use super::error::{ArchiveError, show};
use super::spool::{Run, Spool, read_some};
use extension::Extension;
use header::{BLOCK, Header};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// One member of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    /// Target of a link, else empty.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) meta: Meta,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    /// Runs of data, in order, of a file that has holes.
    runs: Option<Vec<Run>>,
}

/// Reads one archive from front to back.
pub(crate) struct TarReader<R> {
    source: R,
    /// Bytes of the current entry's data that were not read yet.
    left: u64,
    /// Bytes between the current entry's data and the next header.
    padding: u64,
    /// The end of the archive was seen.
    ended: bool,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, ended: false }
    }

    /// Whether the archive was closed by its end mark, rather than by the end of the stream.
    pub(crate) fn has_end_mark(&self) -> bool {
        self.ended
    }

    /// The next member that is a file of some kind; `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extension = Extension::default();
        // Each extended header costs at least a block of the stream, which is bounded.
        while let Some(header) = self.next_header()? {
            let size = header.size()?;
            match header.type_flag() {
                b'x' => extension.read_pax(&self.read_extension(&header, size)?)?,
                b'L' => extension.long_path = Some(self.read_name(&header, size)?),
                b'K' => extension.long_link = Some(self.read_name(&header, size)?),
                // Global records (git's commit, for one), a volume's label, a dump's directory.
                b'g' | b'V' | b'D' => self.set_data(size)?,
                _ => return self.entry(&header, extension).map(Some),
            }
        }
        if extension.is_used() {
            return Err(ArchiveError::Truncated { what: "behind an extended header".into() });
        }
        Ok(None)
    }

    /// Copies the current entry's data into the spool.
    pub(crate) fn copy_data(&mut self, entry: &Entry, spool: &mut Spool) -> Result<Run, ArchiveError> {
        let run = spool.reserve(entry.size)?;
        let whole = [Run { offset: 0, size: entry.size }];
        for part in entry.runs.as_deref().unwrap_or(&whole) {
            if part.size > self.left {
                return Err(ArchiveError::damaged(&entry.path, "its data are shorter than its map"));
            }
            spool.fill(run, part.offset, part.size, &mut self.source)?;
            self.left -= part.size;
        }
        Ok(run)
    }

    /// The stream behind the archive, to be read to its end.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn next_header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut block = [0; BLOCK];
        let count = self.fill(&mut block)?;
        if count == 0 {
            return Ok(None);
        }
        if count < BLOCK {
            return Err(ArchiveError::Truncated { what: "within a header".into() });
        }
        if block == [0; BLOCK] {
            self.ended = true;
            return Ok(None);
        }
        Header::new(block).map(Some)
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, ArchiveError> {
        let path = extension.path().map_or_else(|| header.path(), <[u8]>::to_vec);
        let link = extension.link().map_or_else(|| header.link(), <[u8]>::to_vec);
        let stored = extension.size.map_or_else(|| header.size(), Ok)?;
        let kind = match header.type_flag() {
            // Before ustar a directory was a file whose name ends in a slash.
            0 | b'0' | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::Regular,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice(header.device_major()?, header.device_minor()?),
            b'4' => EntryKind::BlockDevice(header.device_major()?, header.device_minor()?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let what = format!("an entry of type '{}' ({})", other.escape_ascii(), show(&path));
                return Err(ArchiveError::Unsupported { what });
            }
        };
        // Only files have data, whatever the size says: so do all other readers.
        self.set_data(if kind == EntryKind::Regular { stored } else { 0 })?;
        let meta = Meta {
            mode: header.mode()?,
            uid: extension.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extension.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: extension.mtime.map_or_else(|| header.mtime(), |time| Ok(time.0))?,
            mtime_nsec: extension.mtime.map_or(0, |time| time.1),
            xattrs: extension.xattrs.clone(),
        };
        let mut entry = Entry { path, link, kind, meta, size: self.left, runs: None };
        if kind == EntryKind::Regular {
            self.add_holes(&mut entry, header, &extension)?;
        }
        Ok(entry)
    }

    /// Makes the data and padding of an entry known.
    fn set_data(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.ok_or_else(|| ArchiveError::damaged(b"an entry", "its size is absurd"))?;
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    /// The data of an extended header.
    fn read_extension(&mut self, header: &Header, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > bounds::MAX_EXTENSION {
            return Err(ArchiveError::damaged(&header.path(), "an extended header is larger than 1 MiB"));
        }
        self.set_data(size)?;
        let mut bytes = vec![0; size as usize];
        if self.fill(&mut bytes)? < bytes.len() {
            return Err(ArchiveError::Truncated { what: "within an extended header".into() });
        }
        self.left = 0;
        Ok(bytes)
    }

    /// A GNU long name: ended by a NUL.
    fn read_name(&mut self, header: &Header, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.read_extension(header, size)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), ArchiveError> {
        let mut buffer = [0; 16 * 1024];
        while count > 0 {
            let want = count.min(buffer.len() as u64) as usize;
            let got = read_some(&mut self.source, &mut buffer[..want])?;
            if got == 0 {
                return Err(ArchiveError::Truncated { what: "within the data of a file".into() });
            }
            count -= got as u64;
        }
        Ok(())
    }

    /// Reads until `buffer` is full or the stream ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut count = 0;
        while count < buffer.len() {
            match read_some(&mut self.source, &mut buffer[count..])? {
                0 => break,
                more => count += more,
            }
        }
        Ok(count)
    }
}
