//! May somebody do this?

use super::{Body, Capability, Credentials, Dentry, Inode, Kind, Meta};
use crate::errno::Errno;

/// Read permission.
pub const MAY_READ: u32 = 4;
/// Write permission.
pub const MAY_WRITE: u32 = 2;
/// Execute or search permission.
pub const MAY_EXEC: u32 = 1;

/// Checks permission bits (`MAY_*`).
///
/// # Errors
/// EACCES.
pub fn check(inode: &Inode, credentials: &Credentials, wanted: u32) -> Result<(), Errno> {
    let allowed = inode.with_meta(|meta| {
        let class = if meta.uid == credentials.fsuid {
            meta.mode >> 6
        } else if credentials.in_group(meta.gid) {
            meta.mode >> 3
        } else {
            meta.mode
        };
        if class & wanted == wanted {
            return true;
        }
        let directory = inode.kind == Kind::Directory;
        let executable = directory || meta.mode & 0o111 != 0;
        if credentials.can(Capability::DacOverride) && (wanted & MAY_EXEC == 0 || executable) {
            return true;
        }
        let reading = if directory { wanted & MAY_WRITE == 0 } else { wanted == MAY_READ };
        reading && credentials.can(Capability::DacReadSearch)
    });
    if allowed { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether somebody may act as the owner of an inode.
pub fn is_owner(meta: &Meta, credentials: &Credentials) -> bool {
    meta.uid == credentials.fsuid || credentials.can(Capability::Fowner)
}

/// Checks that somebody may remove or replace `victim` in `directory`.
///
/// # Errors
/// EACCES; EPERM where the sticky bit forbids it.
pub fn check_removal(directory: &Inode, victim: &Inode, credentials: &Credentials) -> Result<(), Errno> {
    check(directory, credentials, MAY_WRITE | MAY_EXEC)?;
    let (mode, owner) = directory.with_meta(|meta| (meta.mode, meta.uid));
    let victim_owner = victim.with_meta(|meta| meta.uid);
    let mine = owner == credentials.fsuid || victim_owner == credentials.fsuid;
    if mode & 0o1000 != 0 && !mine && !credentials.can(Capability::Fowner) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Checks that names can be made in a directory, and that somebody may make them.
///
/// # Errors
/// ENOENT for a removed directory, EROFS or EACCES.
pub fn check_creation(directory: &Dentry, credentials: &Credentials) -> Result<(), Errno> {
    let inode = directory.inode();
    if matches!(inode.body, Body::VirtualDirectory(_)) {
        return Err(if inode.fs.name == "proc" { Errno::ENOENT } else { Errno::EPERM });
    }
    let dead = directory.children().ok_or(Errno::ENOTDIR)?.lock().dead;
    if dead {
        return Err(Errno::ENOENT);
    }
    check(inode, credentials, MAY_WRITE | MAY_EXEC)?;
    if inode.fs.budget().is_none() {
        return Err(Errno::EROFS);
    }
    Ok(())
}

/// Owner, group and mode of something new in a directory: its group and, for directories, its set-group bit are
/// inherited from a set-group directory.
pub fn new_meta(directory: &Inode, credentials: &Credentials, kind: Kind, mode: u32, umask: u32) -> Meta {
    let (parent_mode, parent_gid) = directory.with_meta(|meta| (meta.mode, meta.gid));
    let mut mode = mode & 0o7777 & !umask;
    let mut gid = credentials.fsgid;
    if parent_mode & 0o2000 != 0 {
        gid = parent_gid;
        if kind == Kind::Directory {
            mode |= 0o2000;
        } else if mode & 0o2010 == 0o2010
            && !credentials.in_group(gid)
            && !credentials.can(Capability::Fsetid)
        {
            mode &= !0o2000;
        }
    }
    Meta::new(mode, credentials.fsuid, gid)
}

/// The mode after somebody has written to the file or changed its owner: set-user is lost, and set-group unless
/// it only marks mandatory locking.
pub fn without_set_id(mode: u32) -> u32 {
    let kept = if mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
    mode & kept
}
