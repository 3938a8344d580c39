//! The inotify calls.

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::inotify::Inotify;
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::syscalls::file::{caller, path_argument};
use crate::vfs::WalkFlags;
use crate::vfs::flags::{O_CLOEXEC, O_NONBLOCK, O_RDONLY};
use crate::vfs::permission::{MAY_READ, check};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(253, "inotify_init", inotify_init).by(&["events:inotify"]),
    Entry::full(254, "inotify_add_watch", inotify_add_watch).by(&["events:inotify"]),
    Entry::full(255, "inotify_rm_watch", inotify_rm_watch).by(&["events:inotify"]),
    Entry::full(294, "inotify_init1", inotify_init1).by(&["events:inotify"]),
];

fn create(cx: &Ctx<'_>, flags: u32) -> SysResult {
    let object = Box::new(Inotify::default());
    let file = cx.kernel.vfs().anonymous_file("inotify", O_RDONLY | flags & O_NONBLOCK, object);
    Ok(cx.files().install(file, flags & O_CLOEXEC != 0, cx.limit(Resource::OpenFiles))? as u64)
}

fn inotify_init(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    create(cx, 0)
}

fn inotify_init1(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(0);
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    create(cx, flags)
}

fn inotify_add_watch(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const IN_ONLYDIR: u32 = 0x100_0000;
    const IN_DONT_FOLLOW: u32 = 0x200_0000;
    let mask = args.uint(2);
    let file = cx.files().get_io(args.int(0))?;
    let inotify = file.object::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = path_argument(cx, args.u64(1))?;
    let caller = caller(cx);
    let flags = WalkFlags { follow: mask & IN_DONT_FOLLOW == 0, ..WalkFlags::default() };
    let dentry = cx.kernel.vfs().lookup(&caller, &caller.cwd, &path, flags)?;
    check(dentry.inode(), &caller.credentials, MAY_READ)?;
    if mask & IN_ONLYDIR != 0 && !dentry.inode().is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    Ok(inotify.add(&dentry, mask)? as u64)
}

fn inotify_rm_watch(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    file.object::<Inotify>().ok_or(Errno::EINVAL)?.remove(args.int(1))?;
    Ok(0)
}
