//! Files of output that is not a blob yet.
//!
//! ```text
//! <data-dir>/output/JOB/ATTEMPT-STREAM     the bytes at their own offsets; the first 64 KiB are a hole
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bulkhead_types::{JobId, OutputStream};
use bytes::Bytes;

use super::IN_DATABASE;

/// The files of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OutputSpool {
    root: PathBuf,
}

/// One stream of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpooledStream {
    /// The job.
    pub(crate) job: JobId,
    /// The attempt's number.
    pub(crate) attempt: u32,
    /// Which of its streams.
    pub(crate) stream: OutputStream,
}

impl OutputSpool {
    /// Opens `output/` under a data directory.
    ///
    /// # Errors
    /// If it can't be made.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let root = data.join("output");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root })
    }

    fn directory(&self, job: JobId) -> PathBuf {
        self.root.join(job.to_string())
    }

    fn path(&self, of: SpooledStream) -> PathBuf {
        let stream = match of.stream {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        };
        self.directory(of.job).join(format!("{}-{stream}", of.attempt))
    }

    /// Makes bytes durable that begin at `offset` of their stream; what the database keeps is left out. Writing the
    /// same bytes again changes nothing.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) async fn write(&self, of: SpooledStream, offset: u64, bytes: Bytes) -> io::Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end <= IN_DATABASE {
            return Ok(());
        }
        let (directory, path) = (self.directory(of.job), self.path(of));
        blocking(move || {
            let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = match open() {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
                    open()?
                }
                other => other?,
            };
            let skip = IN_DATABASE.saturating_sub(offset);
            let rest = bytes.slice(usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len())..);
            file.write_all_at(&rest, offset + skip)?;
            file.sync_data()
        })
        .await
    }

    /// Up to `length` bytes from `offset`, which is behind what the database keeps; none if there is no file.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) async fn read(
        &self,
        of: SpooledStream,
        offset: u64,
        length: usize,
    ) -> io::Result<Option<Bytes>> {
        let path = self.path(of);
        blocking(move || {
            let file = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut bytes = vec![0; length];
            let mut filled = 0;
            while filled < length {
                match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    count => filled += count,
                }
            }
            bytes.truncate(filled);
            Ok(Some(bytes.into()))
        })
        .await
    }

    /// Forgets a stream that has become a blob.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) async fn remove(&self, of: SpooledStream) -> io::Result<()> {
        let (path, directory) = (self.path(of), self.directory(of.job));
        blocking(move || {
            gone(fs::remove_file(path))?;
            // The last stream takes the directory along.
            let _ = fs::remove_dir(directory);
            Ok(())
        })
        .await
    }

    /// Forgets all of a job that was deleted.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) async fn remove_job(&self, job: JobId) -> io::Result<()> {
        let directory = self.directory(job);
        blocking(move || gone(fs::remove_dir_all(directory))).await
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_the_database_lacks_is_kept() {
        let data = tempfile::tempdir().expect("directory");
        let spool = OutputSpool::open(data.path()).expect("open");
        let of = SpooledStream { job: JobId::generate(), attempt: 1, stream: OutputStream::Stderr };
        spool.write(of, 0, Bytes::from_static(b"small")).await.expect("left out");
        assert_eq!(spool.read(of, IN_DATABASE, 10).await.expect("read"), None);
        spool.write(of, IN_DATABASE - 2, Bytes::from_static(b"abcdef")).await.expect("written");
        spool.write(of, IN_DATABASE - 2, Bytes::from_static(b"abcdef")).await.expect("again");
        assert_eq!(spool.read(of, IN_DATABASE, 10).await.expect("read").as_deref(), Some(&b"cdef"[..]));
        assert_eq!(spool.read(of, IN_DATABASE + 1, 2).await.expect("read").as_deref(), Some(&b"de"[..]));
        assert_eq!(spool.read(of, IN_DATABASE + 9, 2).await.expect("read").as_deref(), Some(&b""[..]));
        spool.remove(of).await.expect("removed");
        spool.remove_job(of.job).await.expect("nothing is left");
        assert_eq!(fs::read_dir(data.path().join("output")).expect("list").count(), 0);
    }
}
