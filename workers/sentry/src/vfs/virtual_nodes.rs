//! What procfs, sysfs and the like plug into the tree: nodes that are made when they are asked for.

use std::sync::Arc;

use super::{Caller, Dentry, Inode, Kind};
use crate::errno::Errno;

/// A file whose content is made when it is first read, and kept for that open file.
pub trait VirtualFile: Send + Sync {
    /// The content. Called with no lock held.
    ///
    /// # Errors
    /// For example ESRCH when the process is gone.
    fn content(&self) -> Result<Vec<u8>, Errno>;

    /// Takes what one write(2) writes.
    ///
    /// # Errors
    /// EINVAL for anything that is not understood; by default everything.
    fn write(&self, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
}

/// An entry of a virtual directory.
pub struct VirtualEntry {
    /// Name.
    pub name: Vec<u8>,
    /// Type.
    pub kind: Kind,
    /// Inode number.
    pub number: u64,
}

/// A directory whose entries are made when they are asked for.
pub trait VirtualDirectory: Send + Sync {
    /// The entry called `name`.
    ///
    /// # Errors
    /// None for a name that does not exist: that is `Ok(None)`.
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno>;

    /// All entries, in a stable order.
    ///
    /// # Errors
    /// For example ENOENT when the process is gone.
    fn list(&self) -> Result<Vec<VirtualEntry>, Errno>;
}

/// A symbolic link whose target depends on the moment or on who asks.
pub trait VirtualLink: Send + Sync {
    /// What readlink(2) says.
    ///
    /// # Errors
    /// For example ENOENT when the process is gone.
    fn target(&self, caller: &Caller) -> Result<Vec<u8>, Errno>;

    /// Where following the link leads, if that is not what its text says (as in /proc/PID/fd).
    ///
    /// # Errors
    /// As `target`.
    fn jump(&self, _caller: &Caller) -> Option<Result<Arc<Dentry>, Errno>> {
        None
    }
}
