//! Where a process stands in the file system, and who asks.

use std::sync::Arc;

use super::{Credentials, Dentry};
use crate::sync::Mutex;

/// Root, working directory and umask; shared by tasks with CLONE_FS.
pub struct FsContext {
    inner: Mutex<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: Arc<Dentry>,
    cwd: Arc<Dentry>,
    umask: u32,
}

impl FsContext {
    /// A context with umask 022.
    pub fn new(root: Arc<Dentry>, cwd: Arc<Dentry>) -> Self {
        Self { inner: Mutex::new(Inner { root, cwd, umask: 0o022 }) }
    }

    /// A copy of its own, for a child without CLONE_FS.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { inner: Mutex::new(self.inner.lock().clone()) }
    }

    /// The root directory.
    pub fn root(&self) -> Arc<Dentry> {
        self.inner.lock().root.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Arc<Dentry> {
        self.inner.lock().cwd.clone()
    }

    /// The umask, 9 bits.
    pub fn umask(&self) -> u32 {
        self.inner.lock().umask
    }

    /// Changes the root directory (chroot).
    pub fn set_root(&self, root: Arc<Dentry>) {
        self.inner.lock().root = root;
    }

    /// Changes the working directory.
    pub fn set_cwd(&self, cwd: Arc<Dentry>) {
        self.inner.lock().cwd = cwd;
    }

    /// Changes the umask and returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        std::mem::replace(&mut self.inner.lock().umask, mask & 0o777)
    }

    /// Who asks, for one call.
    pub fn caller(&self, credentials: Arc<Credentials>, pid: i32, tid: i32) -> Caller {
        let inner = self.inner.lock();
        Caller { credentials, root: inner.root.clone(), cwd: inner.cwd.clone(), umask: inner.umask, pid, tid }
    }
}

/// Who asks for a path operation: a snapshot of what decides about it.
#[derive(Clone)]
pub struct Caller {
    /// For permission checks.
    pub credentials: Arc<Credentials>,
    /// Where absolute paths start and `..` ends.
    pub root: Arc<Dentry>,
    /// Where relative paths start.
    pub cwd: Arc<Dentry>,
    /// Bits that new files don't get.
    pub umask: u32,
    /// Process, for /proc/self.
    pub pid: i32,
    /// Thread, for /proc/thread-self.
    pub tid: i32,
}
