//! Making and removing names. Everything here holds the tree's lock while it changes something.

use std::sync::{Arc, OnceLock};

use super::permission::{check_creation, check_removal, is_owner, new_meta};
use super::walk::{Last, child, walk_to_last};
use super::{Body, Caller, Capability, Dentry, Inode, Kind, METADATA_CHARGE, Vfs};
use crate::errno::Errno;
use crate::fs::content::Content;
use crate::fs::inotify;
use crate::sync::Mutex;

/// Most names of an inode, as ext4 has it.
const LINK_MAX: u32 = 65_000;

impl Vfs {
    /// Enters a new name into a directory. The tree's lock is held and the name is known to be free.
    pub(super) fn add_name(
        &self,
        directory: &Arc<Dentry>,
        name: &[u8],
        inode: Arc<Inode>,
    ) -> Result<Arc<Dentry>, Errno> {
        let charge = directory.inode().fs.charge(METADATA_CHARGE)?;
        let dentry = Dentry::charged(Some(directory.clone()), name, inode, charge);
        directory.children().ok_or(Errno::ENOTDIR)?.lock().add(name, dentry.clone());
        directory.inode().touch();
        Ok(dentry)
    }

    /// Takes a name out of its directory. The tree's lock is held.
    pub(super) fn remove_name(&self, directory: &Arc<Dentry>, name: &[u8]) -> Result<(), Errno> {
        let inode = directory.inode();
        let in_image = match (&inode.body, &inode.fs.image) {
            (Body::Directory { lower: Some(lower) }, Some(image)) => image.lookup(lower, name)?.is_some(),
            _ => false,
        };
        directory.children().ok_or(Errno::ENOTDIR)?.lock().remove(name, in_image);
        inode.touch();
        Ok(())
    }

    /// Makes something new under a name that must be free, and tells who watches.
    fn make(
        &self,
        caller: &Caller,
        last: &Last,
        kind: Kind,
        mode: u32,
        body: Body,
    ) -> Result<Arc<Dentry>, Errno> {
        let tree = self.tree.lock();
        if child(&last.directory, &last.name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        check_creation(&last.directory, &caller.credentials)?;
        let directory = last.directory.inode();
        let mut meta = new_meta(directory, &caller.credentials, kind, mode, caller.umask);
        if kind == Kind::Directory {
            meta.nlink = 2;
        }
        let inode = Inode::create(&directory.fs, kind, meta, body)?;
        let dentry = self.add_name(&last.directory, &last.name, inode)?;
        if kind == Kind::Directory {
            directory.change(|meta| meta.nlink += 1);
        }
        drop(tree);
        let is_directory = if kind == Kind::Directory { inotify::IN_ISDIR } else { 0 };
        inotify::notify_entry(&last.directory, inotify::IN_CREATE | is_directory, &last.name, 0);
        Ok(dentry)
    }

    fn last(&self, caller: &Caller, base: &Arc<Dentry>, path: &[u8]) -> Result<Last, Errno> {
        let last = walk_to_last(caller, base, path, 0)?;
        if last.name.len() > super::flags::NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(last)
    }

    /// As `last`, for a call that makes a name.
    fn last_new(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        directory: bool,
    ) -> Result<Last, Errno> {
        let last = self.last(caller, base, path)?;
        if !last.is_name() {
            return Err(Errno::EEXIST);
        }
        if last.slash && !directory {
            let exists = child(&last.directory, &last.name)?.is_some();
            return Err(if exists { Errno::EEXIST } else { Errno::ENOENT });
        }
        Ok(last)
    }

    /// mkdir(2).
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        mode: u32,
    ) -> Result<Arc<Dentry>, Errno> {
        let last = self.last_new(caller, base, path, true)?;
        let body = Body::Directory { lower: None };
        self.make(caller, &last, Kind::Directory, mode & 0o1777, body)
    }

    /// mknod(2) for regular files, FIFOs and sockets. Device nodes can't be made.
    ///
    /// # Errors
    /// As mknod(2); EPERM for devices.
    pub fn mknod(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        mode: u32,
    ) -> Result<Arc<Dentry>, Errno> {
        let kind = match Kind::from_mode(mode).ok_or(Errno::EINVAL)? {
            Kind::Directory | Kind::Symlink => return Err(Errno::EPERM),
            kind => kind,
        };
        let last = self.last_new(caller, base, path, false)?;
        let body = match kind {
            Kind::Fifo => Body::Fifo(OnceLock::new()),
            Kind::Socket => Body::Socket(Mutex::new(None)),
            Kind::Regular => Body::Regular(Content::empty(&last.directory.inode().fs.storage)),
            _ => {
                // overlayfs' whiteouts are character devices 0/0; nothing else would work anyway.
                let exists = child(&last.directory, &last.name)?.is_some();
                return Err(if exists { Errno::EEXIST } else { Errno::EPERM });
            }
        };
        self.make(caller, &last, kind, mode, body)
    }

    /// symlink(2).
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(
        &self,
        caller: &Caller,
        target: &[u8],
        base: &Arc<Dentry>,
        path: &[u8],
    ) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let last = self.last_new(caller, base, path, false)?;
        let unmasked = Caller { umask: 0, ..caller.clone() };
        self.make(&unmasked, &last, Kind::Symlink, 0o777, Body::Symlink(target.into()))?;
        Ok(())
    }

    /// link(2): a further name for what `source` stands for.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(
        &self,
        caller: &Caller,
        source: &Arc<Dentry>,
        base: &Arc<Dentry>,
        path: &[u8],
    ) -> Result<(), Errno> {
        let last = self.last_new(caller, base, path, false)?;
        let tree = self.tree.lock();
        if child(&last.directory, &last.name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = source.inode();
        if !Arc::ptr_eq(&inode.fs, &last.directory.inode().fs) {
            // A directory without room for new names says so first.
            let virtual_directory = matches!(last.directory.inode().body, super::Body::VirtualDirectory(_));
            if virtual_directory {
                check_creation(&last.directory, &caller.credentials)?;
            }
            return Err(Errno::EXDEV);
        }
        check_creation(&last.directory, &caller.credentials)?;
        if inode.is_directory() {
            return Err(Errno::EPERM);
        }
        let (nlink, owned) = inode.with_meta(|meta| (meta.nlink, is_owner(meta, &caller.credentials)));
        if !owned && !may_link(inode, caller) {
            return Err(Errno::EPERM);
        }
        if nlink == 0 && !inode.may_be_linked() {
            return Err(Errno::ENOENT);
        }
        if nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        let dentry = self.add_name(&last.directory, &last.name, inode.clone())?;
        let now = super::Timestamp::now();
        inode.change(|meta| {
            meta.nlink += 1;
            meta.ctime = now;
        });
        drop(tree);
        inotify::notify_inode(&dentry, inotify::IN_ATTRIB);
        inotify::notify_entry(&last.directory, inotify::IN_CREATE, &last.name, 0);
        Ok(())
    }

    /// unlink(2).
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, caller: &Caller, base: &Arc<Dentry>, path: &[u8]) -> Result<(), Errno> {
        let last = self.last(caller, base, path)?;
        if !last.is_name() {
            return Err(Errno::EISDIR);
        }
        let tree = self.tree.lock();
        let victim = child(&last.directory, &last.name)?.ok_or(Errno::ENOENT)?;
        if last.slash {
            return Err(if victim.inode().is_directory() { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        check_removable(&last.directory, &victim, caller)?;
        if victim.inode().is_directory() {
            return Err(Errno::EISDIR);
        }
        self.remove_name(&last.directory, &last.name)?;
        victim.mark_unlinked();
        let now = super::Timestamp::now();
        let left = victim.inode().change(|meta| {
            meta.nlink = meta.nlink.saturating_sub(1);
            meta.ctime = now;
            meta.nlink
        });
        drop(tree);
        inotify::notify_inode(&victim, inotify::IN_ATTRIB);
        // As on Linux, the entry's own watchers hear of it first.
        inotify::unlinked(&victim, left == 0);
        inotify::notify_entry(&last.directory, inotify::IN_DELETE, &last.name, 0);
        Ok(())
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, caller: &Caller, base: &Arc<Dentry>, path: &[u8]) -> Result<(), Errno> {
        let last = self.last(caller, base, path)?;
        match &last.name[..] {
            b"" => return Err(Errno::EBUSY),
            b"." => return Err(Errno::EINVAL),
            b".." => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let tree = self.tree.lock();
        let victim = child(&last.directory, &last.name)?.ok_or(Errno::ENOENT)?;
        check_removable(&last.directory, &victim, caller)?;
        if !victim.inode().is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if Arc::ptr_eq(&victim, &caller.root) {
            return Err(Errno::EBUSY);
        }
        if !super::list::is_empty(&victim)? {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove_name(&last.directory, &last.name)?;
        last.directory.inode().change(|meta| meta.nlink = meta.nlink.saturating_sub(1));
        bury(&victim);
        drop(tree);
        inotify::unlinked(&victim, true);
        inotify::notify_entry(&last.directory, inotify::IN_DELETE | inotify::IN_ISDIR, &last.name, 0);
        Ok(())
    }
}

/// Marks a directory as removed: nothing can be made in it any more.
pub(super) fn bury(directory: &Dentry) {
    directory.mark_unlinked();
    directory.inode().change(|meta| meta.nlink = 0);
    if let Some(children) = directory.children() {
        let mut children = children.lock();
        children.dead = true;
        children.clear();
    }
}

/// Checks that a name may be removed or replaced by somebody.
pub(super) fn check_removable(directory: &Dentry, victim: &Dentry, caller: &Caller) -> Result<(), Errno> {
    if matches!(directory.inode().body, Body::VirtualDirectory(_)) {
        return Err(Errno::EPERM);
    }
    check_removal(directory.inode(), victim.inode(), &caller.credentials)?;
    if directory.inode().fs.budget().is_none() {
        return Err(Errno::EROFS);
    }
    if victim.is_mount_point() { Err(Errno::EBUSY) } else { Ok(()) }
}

/// fs.protected_hardlinks: only what one could write anyway, and nothing set-id or special.
fn may_link(inode: &Inode, caller: &Caller) -> bool {
    use super::permission::{MAY_READ, MAY_WRITE, check};
    let mode = inode.with_meta(|meta| meta.mode);
    let set_id = mode & 0o4000 != 0 || mode & 0o2010 == 0o2010;
    caller.credentials.can(Capability::Fowner)
        || inode.kind == Kind::Regular
            && !set_id
            && check(inode, &caller.credentials, MAY_READ | MAY_WRITE).is_ok()
}
