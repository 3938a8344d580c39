//! Changing and asking about metadata.

use std::sync::Arc;

use super::permission::{MAY_EXEC, MAY_READ, MAY_WRITE, check, is_owner, without_set_id};
use super::{
    Body, Caller, Capability, Credentials, Dentry, FileSystem, Inode, Kind, Storage, Timestamp, Vfs,
};
use crate::errno::Errno;
use crate::fs::inotify;

/// What utimensat(2) sets a time to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// UTIME_NOW.
    Now,
    /// UTIME_OMIT.
    Omit,
    /// This.
    At(Timestamp),
}

/// What statfs(2) says, in units of 4 KiB.
#[derive(Debug, Clone, Copy)]
pub struct StatFs {
    /// Magic number.
    pub magic: u64,
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Device, as part of the file system's id.
    pub device: u32,
}

/// access(2): whether somebody may (`MAY_*` bits; 0 asks only for existence).
///
/// # Errors
/// EACCES, EROFS.
pub fn check_access(inode: &Inode, credentials: &Credentials, wanted: u32) -> Result<(), Errno> {
    if wanted & MAY_WRITE != 0
        && inode.fs.budget().is_none()
        && matches!(inode.kind, Kind::Regular | Kind::Directory)
        && matches!(inode.body, Body::Regular(_) | Body::Directory { .. })
    {
        return Err(Errno::EROFS);
    }
    check(inode, credentials, wanted & (MAY_READ | MAY_WRITE | MAY_EXEC))
}

fn check_writable_fs(inode: &Inode) -> Result<(), Errno> {
    match &inode.body {
        Body::Virtual(_) | Body::VirtualDirectory(_) | Body::VirtualLink(_) => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

impl Vfs {
    /// chmod(2).
    ///
    /// # Errors
    /// EPERM; EOPNOTSUPP for a link.
    pub fn chmod(&self, caller: &Caller, dentry: &Arc<Dentry>, mode: u32) -> Result<(), Errno> {
        let inode = dentry.inode();
        check_writable_fs(inode)?;
        if inode.kind == Kind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        let credentials = &caller.credentials;
        let now = Timestamp::now();
        inode.change(|meta| {
            if !is_owner(meta, credentials) {
                return Err(Errno::EPERM);
            }
            meta.mode = mode & 0o7777;
            if !credentials.in_group(meta.gid) && !credentials.can(Capability::Fsetid) {
                meta.mode &= !0o2000;
            }
            meta.ctime = now;
            Ok(())
        })?;
        inotify::notify(dentry, inotify::IN_ATTRIB);
        Ok(())
    }

    /// chown(2); `None` leaves an id as it is.
    ///
    /// # Errors
    /// EPERM.
    pub fn chown(
        &self,
        caller: &Caller,
        dentry: &Arc<Dentry>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Errno> {
        let inode = dentry.inode();
        check_writable_fs(inode)?;
        let credentials = &caller.credentials;
        let now = Timestamp::now();
        inode.change(|meta| {
            let owner = meta.uid == credentials.fsuid;
            let privileged = credentials.can(Capability::Chown);
            let keeps_user = uid.is_none_or(|uid| uid == meta.uid && owner);
            let own_group = gid.is_none_or(|gid| owner && (gid == meta.gid || credentials.in_group(gid)));
            if !privileged && (!keeps_user || !own_group) {
                return Err(Errno::EPERM);
            }
            meta.uid = uid.unwrap_or(meta.uid);
            meta.gid = gid.unwrap_or(meta.gid);
            if inode.kind != Kind::Directory && (uid.is_some() || gid.is_some()) {
                meta.mode = without_set_id(meta.mode);
            }
            meta.ctime = now;
            Ok(())
        })?;
        inotify::notify(dentry, inotify::IN_ATTRIB);
        Ok(())
    }

    /// utimensat(2).
    ///
    /// # Errors
    /// EPERM for times of another's file, EACCES for "now" without write permission.
    pub fn set_times(
        &self,
        caller: &Caller,
        dentry: &Arc<Dentry>,
        atime: SetTime,
        mtime: SetTime,
    ) -> Result<(), Errno> {
        let inode = dentry.inode();
        if atime == SetTime::Omit && mtime == SetTime::Omit {
            return Ok(());
        }
        check_writable_fs(inode)?;
        if !inode.with_meta(|meta| is_owner(meta, &caller.credentials)) {
            if atime != SetTime::Now || mtime != SetTime::Now {
                return Err(Errno::EPERM);
            }
            check(inode, &caller.credentials, MAY_WRITE)?;
        }
        let now = Timestamp::now();
        let value = |set: SetTime, old: Timestamp| match set {
            SetTime::Now => now,
            SetTime::Omit => old,
            SetTime::At(time) => time,
        };
        inode.change(|meta| {
            meta.atime = value(atime, meta.atime);
            meta.mtime = value(mtime, meta.mtime);
            meta.ctime = now;
        });
        inotify::notify(dentry, inotify::IN_ATTRIB);
        Ok(())
    }

    /// truncate(2) of what a path has led to; an open file's right to write is the caller's to check.
    ///
    /// # Errors
    /// EISDIR, EINVAL, ETXTBSY, EFBIG, ENOSPC.
    pub fn truncate(&self, caller: &Caller, dentry: &Arc<Dentry>, size: u64) -> Result<(), Errno> {
        let inode = dentry.inode();
        let content = match &inode.body {
            Body::Regular(content) => content,
            Body::Directory { .. } | Body::VirtualDirectory(_) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        };
        content.truncate(size)?;
        if !caller.credentials.can(Capability::Fsetid) {
            inode.lose_set_id();
        }
        inode.touch();
        inotify::notify(dentry, inotify::IN_MODIFY);
        Ok(())
    }

    /// statfs(2).
    pub fn statfs(&self, fs: &FileSystem) -> StatFs {
        /// Bytes of a block.
        const UNIT: u64 = 4096;
        /// What /proc and the like say: nothing.
        const NONE: (u64, u64) = (0, 0);
        let (total, free) = match &fs.storage {
            Storage::Scratch(scratch) => {
                let budget = scratch.budget();
                let image = fs.image.as_ref().map_or(0, |image| image.length());
                (image + budget.limit(), budget.limit() - budget.used().min(budget.limit()))
            }
            Storage::Memory(budget) => (budget.limit(), budget.limit() - budget.used().min(budget.limit())),
            Storage::None => NONE,
        };
        let files_free = free / (2 * super::METADATA_CHARGE);
        let files = fs.image.as_ref().map_or(0, |image| image.inode_count()) + files_free;
        StatFs {
            magic: fs.magic,
            blocks: total / UNIT,
            free: free / UNIT,
            files,
            files_free,
            device: fs.device,
        }
    }
}
