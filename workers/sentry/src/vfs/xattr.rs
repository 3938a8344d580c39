//! Extended attributes.

use std::sync::Arc;

use super::permission::{MAY_READ, MAY_WRITE, check, is_owner};
use super::{Caller, Capability, Dentry, Inode, Kind, Timestamp, Vfs, Xattrs};
use crate::errno::Errno;
use crate::fs::inotify;

/// XATTR_CREATE: must not exist yet.
const XATTR_CREATE: u32 = 1;
/// XATTR_REPLACE: must exist.
const XATTR_REPLACE: u32 = 2;
/// Longest name in bytes.
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value, and longest list of names, in bytes.
pub const XATTR_SIZE_MAX: usize = 65_536;
/// Bytes of names and values that one inode may have: ext4 allows a block; their memory is the sentry's.
const XATTRS_MAX: usize = 65_536;

impl Vfs {
    /// getxattr(2).
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP, EACCES.
    pub fn get_xattr(&self, caller: &Caller, inode: &Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        check_name(caller, inode, name, false)?;
        with(inode, |xattrs| xattrs.get(name).map(|value| value.to_vec()))?.ok_or(Errno::ENODATA)
    }

    /// listxattr(2): the names, each with its NUL.
    ///
    /// # Errors
    /// EIO.
    pub fn list_xattrs(&self, caller: &Caller, inode: &Inode) -> Result<Vec<u8>, Errno> {
        let trusted = caller.credentials.can(Capability::SysAdmin);
        with(inode, |xattrs| {
            let names = xattrs.keys().filter(|name| trusted || !name.starts_with(b"trusted."));
            names.flat_map(|name| name.iter().copied().chain([0])).collect()
        })
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// EEXIST, ENODATA, EOPNOTSUPP, EPERM, EACCES, ENOSPC.
    pub fn set_xattr(
        &self,
        caller: &Caller,
        dentry: &Arc<Dentry>,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let inode = dentry.inode();
        if flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        check_name(caller, inode, name, true)?;
        let mut xattrs = with(inode, Clone::clone)?;
        let exists = xattrs.contains_key(name);
        if exists && flags & XATTR_CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        if !exists && flags & XATTR_REPLACE != 0 {
            return Err(Errno::ENODATA);
        }
        xattrs.insert(name.into(), value.into());
        let size: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > XATTRS_MAX {
            return Err(Errno::ENOSPC);
        }
        // Charged for the life of the inode: what is replaced is not given back before.
        inode.keep_charge(inode.fs.charge((name.len() + value.len()) as u64)?);
        store(inode, xattrs);
        inotify::notify(dentry, inotify::IN_ATTRIB);
        Ok(())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP, EPERM, EACCES.
    pub fn remove_xattr(&self, caller: &Caller, dentry: &Arc<Dentry>, name: &[u8]) -> Result<(), Errno> {
        let inode = dentry.inode();
        check_name(caller, inode, name, true)?;
        let mut xattrs = with(inode, Clone::clone)?;
        xattrs.remove(name).ok_or(Errno::ENODATA)?;
        store(inode, xattrs);
        inotify::notify(dentry, inotify::IN_ATTRIB);
        Ok(())
    }
}

fn store(inode: &Inode, xattrs: Xattrs) {
    let now = Timestamp::now();
    inode.change(|meta| {
        meta.xattrs = Some(Box::new(xattrs));
        meta.ctime = now;
    });
}

/// Looks at an inode's attributes: its own, or the image's.
fn with<T>(inode: &Inode, look: impl FnOnce(&Xattrs) -> T) -> Result<T, Errno> {
    let changed = inode.with_meta(|meta| meta.xattrs.clone());
    if let Some(xattrs) = changed {
        return Ok(look(&xattrs));
    }
    let (Some(image), Some(nid)) = (&inode.fs.image, inode.origin) else { return Ok(look(&Xattrs::new())) };
    let list = image.xattrs(nid)?;
    Ok(look(&list.into_iter().map(|xattr| (xattr.name.into(), xattr.value.into())).collect()))
}

fn check_name(caller: &Caller, inode: &Inode, name: &[u8], write: bool) -> Result<(), Errno> {
    if inode.fs.budget().is_none() {
        return Err(Errno::EOPNOTSUPP);
    }
    let credentials = &caller.credentials;
    let prefix = name.iter().position(|byte| *byte == b'.').map(|dot| &name[..dot]);
    match prefix {
        Some(_) if name.ends_with(b".") => Err(Errno::EINVAL),
        Some(b"user") => {
            if !matches!(inode.kind, Kind::Regular | Kind::Directory) {
                return Err(if write { Errno::EPERM } else { Errno::ENODATA });
            }
            let (sticky, owner) =
                inode.with_meta(|meta| (meta.mode & 0o1000 != 0, is_owner(meta, credentials)));
            if write && inode.kind == Kind::Directory && sticky && !owner {
                return Err(Errno::EPERM);
            }
            check(inode, credentials, if write { MAY_WRITE } else { MAY_READ })
        }
        Some(b"trusted") if credentials.can(Capability::SysAdmin) => Ok(()),
        Some(b"trusted") => Err(if write { Errno::EPERM } else { Errno::ENODATA }),
        // As a file system without security modules: capabilities can be read, labels can't be set.
        Some(b"security") if !write => Ok(()),
        Some(b"security") if name == b"security.capability" && credentials.can(Capability::SysAdmin) => {
            Ok(())
        }
        Some(b"security") => Err(Errno::EPERM),
        _ => Err(Errno::EOPNOTSUPP),
    }
}
