//! Extended attributes.

use std::sync::Arc;

use super::caller;
use super::paths::lookup_at;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::flags::{AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::vfs::{Dentry, XATTR_NAME_MAX, XATTR_SIZE_MAX};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(188, "setxattr", setxattr).by(&["files:attributes"]),
    Entry::full(189, "lsetxattr", lsetxattr).by(&["files:attributes"]),
    Entry::full(190, "fsetxattr", fsetxattr).by(&["files:attributes"]),
    Entry::full(191, "getxattr", getxattr).by(&["files:attributes"]),
    Entry::full(192, "lgetxattr", lgetxattr).by(&["files:attributes"]),
    Entry::full(193, "fgetxattr", fgetxattr).by(&["files:attributes"]),
    Entry::full(194, "listxattr", listxattr).by(&["files:attributes"]),
    Entry::full(195, "llistxattr", llistxattr).by(&["files:attributes"]),
    Entry::full(196, "flistxattr", flistxattr).by(&["files:attributes"]),
    Entry::full(197, "removexattr", removexattr).by(&["files:attributes"]),
    Entry::full(198, "lremovexattr", lremovexattr).by(&["files:attributes"]),
    Entry::full(199, "fremovexattr", fremovexattr).by(&["files:attributes"]),
];

/// How the first argument names the file.
#[derive(Clone, Copy)]
enum By {
    Path,
    Link,
    Descriptor,
}

fn target(cx: &Ctx<'_>, by: By, args: &Args) -> Result<Arc<Dentry>, Errno> {
    match by {
        By::Path => lookup_at(cx, &caller(cx), AT_FDCWD, args.u64(0), 0),
        By::Link => lookup_at(cx, &caller(cx), AT_FDCWD, args.u64(0), AT_SYMLINK_NOFOLLOW),
        By::Descriptor => Ok(cx.files().get_io(args.int(0))?.dentry().clone()),
    }
}

fn name(cx: &Ctx<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    let name = cx.memory.read_string(address, XATTR_NAME_MAX + 1, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn set(cx: &Ctx<'_>, by: By, args: &Args) -> SysResult {
    let size = args.usize(3);
    let name = name(cx, args.u64(1))?;
    if size > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let mut value = vec![0; size];
    cx.memory.read(args.u64(2), &mut value)?;
    let dentry = target(cx, by, args)?;
    cx.kernel.vfs().set_xattr(&caller(cx), &dentry, &name, &value, args.uint(4))?;
    Ok(0)
}

/// Answers bytes, or with `size` 0 only how many there are.
fn answer(cx: &Ctx<'_>, bytes: &[u8], address: u64, size: usize) -> SysResult {
    if size > 0 {
        if bytes.len() > size {
            return Err(Errno::ERANGE.into());
        }
        cx.memory.write(address, bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn get(cx: &Ctx<'_>, by: By, args: &Args) -> SysResult {
    let name = name(cx, args.u64(1))?;
    let dentry = target(cx, by, args)?;
    let value = cx.kernel.vfs().get_xattr(&caller(cx), dentry.inode(), &name)?;
    answer(cx, &value, args.u64(2), args.usize(3))
}

fn list(cx: &Ctx<'_>, by: By, args: &Args) -> SysResult {
    let dentry = target(cx, by, args)?;
    let names = cx.kernel.vfs().list_xattrs(&caller(cx), dentry.inode())?;
    answer(cx, &names, args.u64(1), args.usize(2))
}

fn remove(cx: &Ctx<'_>, by: By, args: &Args) -> SysResult {
    let name = name(cx, args.u64(1))?;
    let dentry = target(cx, by, args)?;
    cx.kernel.vfs().remove_xattr(&caller(cx), &dentry, &name)?;
    Ok(0)
}

fn setxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    set(cx, By::Path, args)
}

fn lsetxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    set(cx, By::Link, args)
}

fn fsetxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    set(cx, By::Descriptor, args)
}

fn getxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    get(cx, By::Path, args)
}

fn lgetxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    get(cx, By::Link, args)
}

fn fgetxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    get(cx, By::Descriptor, args)
}

fn listxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    list(cx, By::Path, args)
}

fn llistxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    list(cx, By::Link, args)
}

fn flistxattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    list(cx, By::Descriptor, args)
}

fn removexattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    remove(cx, By::Path, args)
}

fn lremovexattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    remove(cx, By::Link, args)
}

fn fremovexattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    remove(cx, By::Descriptor, args)
}
