//! Paths as arguments.

use std::sync::Arc;

use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::vfs::flags::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, PATH_MAX};
use crate::vfs::{Caller, Dentry, WalkFlags};

/// Who calls, for path operations.
pub(in crate::syscalls) fn caller(cx: &Ctx<'_>) -> Caller {
    cx.fs().caller(cx.credentials(), cx.pid(), cx.tid())
}

/// The path at an address.
///
/// # Errors
/// EFAULT, ENAMETOOLONG.
pub(in crate::syscalls) fn path_argument(cx: &Ctx<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    cx.memory.read_string(address, PATH_MAX, Errno::ENAMETOOLONG)
}

/// Where a path starts that is relative to `dirfd`.
///
/// # Errors
/// EBADF; ENOTDIR for a path relative to something else than a directory.
pub(in crate::syscalls) fn base_of(
    cx: &Ctx<'_>,
    caller: &Caller,
    dirfd: i32,
    path: &[u8],
) -> Result<Arc<Dentry>, Errno> {
    if dirfd == AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(caller.cwd.clone());
    }
    let file = cx.files().get(dirfd)?;
    if !path.is_empty() && !file.inode().is_directory() {
        return Err(Errno::ENOTDIR);
    }
    Ok(file.dentry().clone())
}

/// What a (dirfd, path, AT_*) triple names. AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW are heeded; `dirfd` with an
/// empty path may be any open file.
///
/// # Errors
/// As path resolution.
pub(super) fn lookup_at(
    cx: &Ctx<'_>,
    caller: &Caller,
    dirfd: i32,
    address: u64,
    at_flags: u32,
) -> Result<Arc<Dentry>, Errno> {
    let empty = at_flags & AT_EMPTY_PATH != 0;
    // Newer kernels take no path at all for an empty one.
    let path = if empty && address == 0 { Vec::new() } else { path_argument(cx, address)? };
    let base = base_of(cx, caller, dirfd, &path)?;
    let follow = at_flags & AT_SYMLINK_NOFOLLOW == 0;
    cx.kernel.vfs().lookup(caller, &base, &path, WalkFlags { follow, resolve: 0, empty })
}
