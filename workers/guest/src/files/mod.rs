//! Inputs into the job's tree, and outputs out of it.
//!
//! The rules are those of the other sandbox (`bulkhead-sentry`, `fs/transfer`); here the tree is a real one, seen through
//! descriptors of directories that no name and no link leads out of. Everything runs as root of the machine while no
//! process of the job does.

mod archive;
mod collect;
mod input;
mod output;
#[cfg(test)]
mod tests;
mod unpack;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat};
use rustix::io::Errno;

pub(crate) use input::take;
pub(crate) use output::send;

/// Why inputs could not be put in, or outputs not be taken out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The stream failed.
    #[error("could not read or write the stream")]
    Stream(#[source] io::Error),
    /// The file system refused something; ENOSPC is the disk limit.
    #[error("{path}: {errno}")]
    File { path: String, errno: Errno },
    /// The archive is damaged, or holds what is not allowed.
    #[error("bad archive: {0}")]
    Archive(String),
    /// There is more than may be collected.
    #[error("more than {0} output files match; collect a directory instead")]
    TooMany(usize),
}

impl FileError {
    fn file(path: &[u8], errno: Errno) -> Self {
        Self::File { path: String::from_utf8_lossy(path).into_owned(), errno }
    }
}

/// Who files belong to: user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u32, pub(crate) u32);

impl Owner {
    fn user(self) -> Option<Uid> {
        Some(Uid::from_raw(self.0))
    }

    fn group(self) -> Option<Gid> {
        Some(Gid::from_raw(self.1))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory by its path, through links.
fn directory(path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, DIRECTORY, Mode::empty())
}

/// A directory in a directory; a link is none.
fn child_directory(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(|errno| match errno {
        Errno::LOOP => Errno::NOTDIR,
        other => other,
    })
}

/// Makes the directories of a path that are missing, owned by `owner`. Links are not followed.
fn make_directories(from: OwnedFd, names: &[&[u8]], owner: Owner) -> Result<OwnedFd, Errno> {
    let mut at = from;
    for name in names {
        match mkdirat(&at, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) => chownat(&at, *name, owner.user(), owner.group(), AtFlags::SYMLINK_NOFOLLOW)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        at = child_directory(&at, name)?;
    }
    Ok(at)
}
