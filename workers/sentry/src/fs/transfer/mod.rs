//! Inputs into a sandbox's tree, and outputs out of it.
//!
//! Archives are hostile input. Their entries are made by the sandbox's own file system, relative to a directory
//! that no name and no link leads out of; every byte and name is charged to the job's disk limit.

mod collect;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::{self, Read};
use std::sync::Arc;

use crate::errno::Errno;
use crate::vfs::{Caller, Credentials, Dentry, Inode, OpenFile, Vfs, child};

pub use bulkhead_types::glob::Pattern;
use bulkhead_types::glob::components;
pub use collect::{Collected, collect, write_tar};
pub use unpack::{Unpacked, unpack_archive};

/// Why inputs could not be put in, or outputs not be taken out.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The stream failed.
    #[error("could not read or write the stream")]
    Stream(#[source] io::Error),
    /// The sandbox's file system refused something.
    #[error("{path}: {errno}")]
    File {
        /// Which name.
        path: String,
        /// Why: ENOSPC is the disk limit.
        errno: Errno,
    },
    /// The archive is damaged, or holds what is not allowed.
    #[error("bad archive: {0}")]
    Archive(String),
    /// There is more than may be collected.
    #[error("more than {0} output files match; collect a directory instead")]
    TooMany(usize),
}

impl TransferError {
    fn file(path: &[u8], errno: Errno) -> Self {
        Self::File { path: String::from_utf8_lossy(path).into_owned(), errno }
    }
}

/// Bytes that are moved at a time.
const CHUNK: usize = 128 << 10;

/// Who does it: root of the sandbox, so that nothing in an image keeps inputs out or outputs in.
fn operator(vfs: &Vfs) -> Caller {
    let mut credentials = Credentials::new(0, 0, &[]);
    credentials.effective = u64::MAX;
    Caller {
        credentials: Arc::new(credentials),
        root: vfs.root().clone(),
        cwd: vfs.root().clone(),
        umask: 0,
        pid: 0,
        tid: 0,
    }
}

/// Makes the directories of a path that are missing, owned by `owner`. Links are not followed.
fn make_directories(
    vfs: &Vfs,
    caller: &Caller,
    from: &Arc<Dentry>,
    names: &[&[u8]],
    owner: (u32, u32),
) -> Result<Arc<Dentry>, Errno> {
    let mut at = from.clone();
    for name in names {
        at = match child(&at, name)? {
            Some(found) if found.inode().is_directory() => found,
            Some(_) => return Err(Errno::ENOTDIR),
            None => {
                let made = vfs.mkdir(caller, &at, name, 0o755)?;
                own(made.inode(), owner);
                made
            }
        };
    }
    Ok(at)
}

fn own(inode: &Inode, owner: (u32, u32)) {
    inode.change(|meta| (meta.uid, meta.gid) = owner);
}

/// Writes a file into the sandbox: `path` is absolute, missing directories are made, what was there is replaced.
///
/// # Errors
/// [`TransferError::File`] with ENOSPC at the disk limit.
pub fn write_input_file(
    vfs: &Vfs,
    path: &[u8],
    mode: u32,
    owner: (u32, u32),
    reader: &mut dyn Read,
) -> Result<u64, TransferError> {
    let caller = operator(vfs);
    let failed = |errno| TransferError::file(path, errno);
    let names = components(path).ok_or_else(|| failed(Errno::EINVAL))?;
    let (name, directories) = names.split_last().ok_or_else(|| failed(Errno::EISDIR))?;
    // Inputs may go through the image's links (/bin to /usr/bin): such paths are the submitter's own choice.
    let directory = match vfs.lookup(&caller, vfs.root(), &join(directories), crate::vfs::WalkFlags::FOLLOW) {
        Ok(found) => found,
        Err(_) => make_directories(vfs, &caller, vfs.root(), directories, owner).map_err(failed)?,
    };
    write_file(vfs, &caller, &directory, name, mode, owner, reader, path)
}

fn join(names: &[&[u8]]) -> Vec<u8> {
    let mut path = vec![b'/'];
    path.extend_from_slice(&names.join(&b'/'));
    path
}

/// Writes a file into a directory, in place of what was there.
#[expect(clippy::too_many_arguments, reason = "all are needed to make one file")]
fn write_file(
    vfs: &Vfs,
    caller: &Caller,
    directory: &Arc<Dentry>,
    name: &[u8],
    mode: u32,
    owner: (u32, u32),
    reader: &mut dyn Read,
    shown: &[u8],
) -> Result<u64, TransferError> {
    const S_IFREG: u32 = 0o100_000;
    let failed = |errno| TransferError::file(shown, errno);
    if child(directory, name).map_err(failed)?.is_some() {
        vfs.unlink(caller, directory, name).map_err(failed)?;
    }
    let dentry = vfs.mknod(caller, directory, name, S_IFREG | mode & 0o777).map_err(failed)?;
    own(dentry.inode(), owner);
    let content = dentry.inode().content().ok_or_else(|| failed(Errno::EIO))?;
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let got = match reader.read(&mut buffer) {
            Ok(0) => return Ok(offset),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TransferError::Stream(error)),
        };
        let wrote = content.write_at(offset, &buffer[..got]).map_err(failed)?;
        if wrote < got {
            return Err(failed(Errno::ENOSPC));
        }
        offset += got as u64;
    }
}

/// Reads an open file of the sandbox from its start.
pub struct FileReader {
    file: Arc<OpenFile>,
    offset: u64,
}

impl FileReader {
    /// A reader of `file`, which must be open for reading.
    pub fn new(file: Arc<OpenFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count =
            self.file.pread(self.offset, into).map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
        self.offset += count as u64;
        Ok(count)
    }
}
