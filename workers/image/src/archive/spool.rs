//! The one temporary file that holds the data of everything in an archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::bounds;
use super::error::ArchiveError;

/// Bytes that are copied at once.
const BUFFER: usize = 128 * 1024;

/// Appends data to a file, at most so many bytes.
pub(crate) struct Spool {
    file: Arc<File>,
    end: u64,
    limit: u64,
    buffer: Vec<u8>,
}

/// A run of bytes in a [`Spool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl Spool {
    /// A spool in `file`, which is empty, of at most `limit` bytes.
    pub(crate) fn new(file: File, limit: u64) -> Self {
        Self { file: Arc::new(file), end: 0, limit, buffer: vec![0; BUFFER] }
    }

    /// Bound on the bytes of the spool.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Room for `size` bytes, which read as zeros until they are written.
    pub(crate) fn reserve(&mut self, size: u64) -> Result<Run, ArchiveError> {
        let end = self.end.checked_add(size).filter(|end| *end <= self.limit);
        let end = end.ok_or_else(|| ArchiveError::too_much(self.limit, "bytes of files"))?;
        Ok(Run { offset: std::mem::replace(&mut self.end, end), size })
    }

    /// Copies exactly `size` bytes of `source` to byte `at` of `run`, where they must have room.
    /// Blocks of zeros are left out, so that a bomb of them costs no disk.
    pub(crate) fn fill(
        &mut self,
        run: Run,
        at: u64,
        size: u64,
        source: &mut impl Read,
    ) -> Result<(), ArchiveError> {
        let mut done = 0;
        while done < size {
            let want = (size - done).min(BUFFER as u64) as usize;
            let count = read_some(source, &mut self.buffer[..want])?;
            if count == 0 {
                return Err(ArchiveError::Truncated { what: "within the data of a file".into() });
            }
            let bytes = &self.buffer[..count];
            if bytes.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(bytes, run.offset + at + done).map_err(write_error)?;
            }
            done += count as u64;
        }
        Ok(())
    }

    /// Makes the file as long as all that was reserved.
    pub(crate) fn settle(&self) -> Result<(), ArchiveError> {
        self.file.set_len(self.end).map_err(write_error)
    }

    /// The bytes of a run, from its start.
    pub(crate) fn reader(&self, run: Run) -> RunReader {
        RunReader { file: Arc::clone(&self.file), position: run.offset, end: run.offset + run.size }
    }

    /// The whole of a small run.
    pub(crate) fn read_description(&self, run: Run, what: &str) -> Result<Vec<u8>, ArchiveError> {
        if run.size > bounds::MAX_DESCRIPTION {
            return Err(ArchiveError::description(what, "it is larger than 4 MiB"));
        }
        let mut bytes = Vec::new();
        self.reader(run).read_to_end(&mut bytes).map_err(write_error)?;
        Ok(bytes)
    }
}

/// Reads one run.
pub(crate) struct RunReader {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for RunReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = (self.end - self.position).min(buffer.len() as u64) as usize;
        let mut count = self.file.read_at(&mut buffer[..want], self.position)?;
        if count == 0 && want > 0 {
            // Reserved, but behind the last byte that was written: zeros.
            buffer[..want].fill(0);
            count = want;
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// One read that is not interrupted.
pub(crate) fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(&error)),
            Ok(count) => return Ok(count),
        }
    }
}

pub(crate) fn read_error(error: &io::Error) -> ArchiveError {
    // A reader of ours may have wrapped its own error.
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ArchiveError>()) {
        Some(inner) => inner.clone(),
        None => ArchiveError::Read { why: error.to_string() },
    }
}

fn write_error(error: io::Error) -> ArchiveError {
    ArchiveError::Write { why: error.to_string() }
}
