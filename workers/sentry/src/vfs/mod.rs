//! The virtual file system: names, inodes, open files and who may do what.
//!
//! One tree, in memory. The root's lower side is the job's image, which is read only where the tree has nothing
//! of its own ([`dentry`] says how names are known); bytes of changed files are in [`crate::fs::content`].
//! Mounts are grafts: a file system's root simply is an entry of the directory that it is mounted in.
//!
//! Reading walks take no lock over several names ([`walk`]); everything that changes names holds the tree's lock.
//! No call of another part of the kernel (procfs asks it) happens under that lock.

mod attributes;
mod context;
mod credentials;
mod dentry;
pub mod flags;
mod inode;
mod list;
mod lock;
mod mount;
mod names;
mod open;
mod open_file;
pub mod permission;
mod rename;
mod table;
#[cfg(test)]
mod tests;
mod virtual_nodes;
mod walk;
mod xattr;

pub use attributes::{SetTime, StatFs, check_access};
pub use context::{Caller, FsContext};
pub use credentials::{Capability, Credentials, ROOT_CAPABILITIES, secure};
pub use dentry::Dentry;
pub use inode::{
    Body, DenyWrite, Extra, FileSystem, Inode, Kind, METADATA_CHARGE, Meta, Storage, Timestamp, Xattrs,
};
pub use list::{Listed, list};
pub use lock::{LockOwner, Locks, RecordLock, Waits};
pub use mount::{MountLine, Setup};
pub use open::OpenHow;
pub use open_file::{File, Mapping, OpenFile, Waiter};
pub use table::{FdTable, MAX_DESCRIPTORS};
pub use virtual_nodes::{VirtualDirectory, VirtualEntry, VirtualFile, VirtualLink};
pub use walk::{WalkFlags, child, walk};
pub use xattr::{XATTR_NAME_MAX, XATTR_SIZE_MAX};

use std::sync::{Arc, OnceLock};

use crate::errno::Errno;
use crate::fs::budget::Budget;
use crate::sync::Mutex;

/// The file systems of a job.
pub struct Vfs {
    root: Arc<Dentry>,
    /// Held while names change.
    tree: Mutex<()>,
    mounts: Vec<MountLine>,
    disk: Arc<Budget>,
    memory: Arc<Budget>,
    /// Of things without a place in the tree.
    anonymous: Arc<FileSystem>,
    /// Of memory files.
    shared_memory: Arc<FileSystem>,
    proc_root: OnceLock<Arc<Dentry>>,
    socket_names: crate::net::unix::Names,
}

impl Vfs {
    /// The root directory.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// What files on disk may use together.
    pub fn disk(&self) -> &Arc<Budget> {
        &self.disk
    }

    /// What files in memory may use together.
    pub fn memory(&self) -> &Arc<Budget> {
        &self.memory
    }

    /// The file system of pipes, sockets and the like.
    pub fn anonymous(&self) -> &Arc<FileSystem> {
        &self.anonymous
    }

    /// Abstract names of AF_UNIX sockets.
    pub fn socket_names(&self) -> &crate::net::unix::Names {
        &self.socket_names
    }

    /// What is mounted, for /proc/mounts.
    pub fn mounts(&self) -> &[MountLine] {
        &self.mounts
    }

    /// Walks to what a path names, following links as `flags` say. `base` is where a relative path starts
    /// (usually `caller.cwd`).
    ///
    /// # Errors
    /// As Linux's path resolution.
    pub fn lookup(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        flags: WalkFlags,
    ) -> Result<Arc<Dentry>, Errno> {
        let found = walk(caller, base, path, flags);
        self.forget_names();
        found
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL if it is not one.
    pub fn readlink(&self, caller: &Caller, link: &Dentry) -> Result<Vec<u8>, Errno> {
        match &link.inode().body {
            Body::Symlink(target) => Ok(target.to_vec()),
            Body::VirtualLink(link) => link.target(caller),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Forgets names of the image if there are too many of them in memory.
    fn forget_names(&self) {
        if dentry::cached_names() > dentry::MAX_CACHED_NAMES {
            let _tree = self.tree.lock();
            dentry::sweep(&self.root);
            if let Some(image) = &self.root.inode().fs.image {
                image.forget_unused();
            }
        }
    }
}
