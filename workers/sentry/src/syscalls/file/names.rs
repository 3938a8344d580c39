//! Calls that make, remove and rename names.

use super::{base_of, caller, path_argument};
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::flags::{AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW};
use crate::vfs::{Capability, WalkFlags};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(82, "rename", rename).by(&["files:renaming", "files:sticky_and_permissions"]),
    Entry::full(83, "mkdir", mkdir).by(&["files:making_names", "files:sticky_and_permissions"]),
    Entry::full(84, "rmdir", rmdir).by(&["files:making_names"]),
    Entry::full(86, "link", link).by(&["files:making_names"]),
    Entry::full(87, "unlink", unlink).by(&["files:making_names", "files:sticky_and_permissions"]),
    Entry::full(88, "symlink", symlink).by(&["files:making_names"]),
    Entry::partial(133, "mknod", mknod, "device nodes: EPERM").by(&["files:devices", "noted:files"]),
    Entry::full(258, "mkdirat", mkdirat).by(&["files:making_names_at", "open:relative_to"]),
    Entry::partial(259, "mknodat", mknodat, "device nodes: EPERM").by(&[
        "files:devices",
        "files:making_names_at",
        "noted:files",
        "open:fifos",
    ]),
    Entry::full(263, "unlinkat", unlinkat).by(&["files:a_large_directory", "files:making_names_at"]),
    Entry::full(264, "renameat", renameat).by(&["files:making_names_at"]),
    Entry::full(265, "linkat", linkat).by(&["files:making_names_at", "open:temporary_files"]),
    Entry::full(266, "symlinkat", symlinkat).by(&["files:making_names_at"]),
    Entry::partial(316, "renameat2", renameat2, "RENAME_WHITEOUT: EINVAL")
        .by(&["files:renaming", "noted:files"]),
];

fn mkdir(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    mkdir_at(cx, AT_FDCWD, args.u64(0), args.uint(1))
}

fn mkdirat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    mkdir_at(cx, args.int(0), args.u64(1), args.uint(2))
}

fn mkdir_at(cx: &Ctx<'_>, dirfd: i32, path: u64, mode: u32) -> SysResult {
    let path = path_argument(cx, path)?;
    let caller = caller(cx);
    let base = base_of(cx, &caller, dirfd, &path)?;
    cx.kernel.vfs().mkdir(&caller, &base, &path, mode)?;
    Ok(0)
}

fn mknod(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    mknod_at(cx, AT_FDCWD, args.u64(0), args.uint(1))
}

fn mknodat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    mknod_at(cx, args.int(0), args.u64(1), args.uint(2))
}

fn mknod_at(cx: &Ctx<'_>, dirfd: i32, path: u64, mode: u32) -> SysResult {
    let path = path_argument(cx, path)?;
    let caller = caller(cx);
    let base = base_of(cx, &caller, dirfd, &path)?;
    cx.kernel.vfs().mknod(&caller, &base, &path, mode)?;
    Ok(0)
}

fn symlink(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    symlink_at(cx, args.u64(0), AT_FDCWD, args.u64(1))
}

fn symlinkat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    symlink_at(cx, args.u64(0), args.int(1), args.u64(2))
}

fn symlink_at(cx: &Ctx<'_>, target: u64, dirfd: i32, path: u64) -> SysResult {
    let target = path_argument(cx, target)?;
    let path = path_argument(cx, path)?;
    let caller = caller(cx);
    let base = base_of(cx, &caller, dirfd, &path)?;
    cx.kernel.vfs().symlink(&caller, &target, &base, &path)?;
    Ok(0)
}

fn link(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    link_at(cx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

fn linkat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    link_at(cx, (args.int(0), args.u64(1)), (args.int(2), args.u64(3)), args.uint(4))
}

fn link_at(cx: &Ctx<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> SysResult {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let caller = caller(cx);
    let path = path_argument(cx, from.1)?;
    let empty = flags & AT_EMPTY_PATH != 0;
    if empty && path.is_empty() && !caller.credentials.can(Capability::DacReadSearch) {
        // Whoever has the descriptor has opened it: the name that it had may be gone, which is the point.
        let owner = cx.files().get(from.0)?.inode().with_meta(|meta| meta.uid);
        if owner != caller.credentials.fsuid {
            return Err(Errno::ENOENT.into());
        }
    }
    let base = base_of(cx, &caller, from.0, &path)?;
    let follow = flags & AT_SYMLINK_FOLLOW != 0;
    let source = cx.kernel.vfs().lookup(&caller, &base, &path, WalkFlags { follow, resolve: 0, empty })?;
    let path = path_argument(cx, to.1)?;
    let base = base_of(cx, &caller, to.0, &path)?;
    cx.kernel.vfs().link(&caller, &source, &base, &path)?;
    Ok(0)
}

fn unlink(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    remove_at(cx, AT_FDCWD, args.u64(0), false)
}

fn rmdir(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    remove_at(cx, AT_FDCWD, args.u64(0), true)
}

fn unlinkat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(2);
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    remove_at(cx, args.int(0), args.u64(1), flags & AT_REMOVEDIR != 0)
}

fn remove_at(cx: &Ctx<'_>, dirfd: i32, path: u64, directory: bool) -> SysResult {
    let path = path_argument(cx, path)?;
    let caller = caller(cx);
    let base = base_of(cx, &caller, dirfd, &path)?;
    if directory {
        cx.kernel.vfs().rmdir(&caller, &base, &path)?;
    } else {
        cx.kernel.vfs().unlink(&caller, &base, &path)?;
    }
    Ok(0)
}

fn rename(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    rename_at(cx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

fn renameat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    rename_at(cx, (args.int(0), args.u64(1)), (args.int(2), args.u64(3)), 0)
}

fn renameat2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    rename_at(cx, (args.int(0), args.u64(1)), (args.int(2), args.u64(3)), args.uint(4))
}

fn rename_at(cx: &Ctx<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> SysResult {
    let old = path_argument(cx, from.1)?;
    let new = path_argument(cx, to.1)?;
    let caller = caller(cx);
    let old_base = base_of(cx, &caller, from.0, &old)?;
    let new_base = base_of(cx, &caller, to.0, &new)?;
    cx.kernel.vfs().rename(&caller, (&old_base, &old), (&new_base, &new), flags)?;
    Ok(0)
}
