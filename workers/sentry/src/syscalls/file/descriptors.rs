//! close, dup and their relatives.

use std::sync::Arc;

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::vfs::flags::O_CLOEXEC;

pub(super) const TABLE: &[Entry] = &[
    Entry::full(3, "close", close).by(&["io:descriptors"]),
    Entry::full(32, "dup", dup).by(&["io:descriptors", "open:only_the_path"]),
    Entry::full(33, "dup2", dup2).by(&["io:descriptors"]),
    Entry::full(292, "dup3", dup3).by(&["io:descriptors"]),
    Entry::full(436, "close_range", close_range).by(&["io:ranges_of_descriptors"]),
];

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

fn close(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    drop(cx.files().close(args.int(0))?);
    closed(cx, args.int(0), args.int(0));
    Ok(0)
}

/// What was mapped by these numbers is let go of: it would keep the file, and its room on the disk.
fn closed(cx: &Ctx<'_>, first: i32, last: i32) {
    if let Ok(host) = cx.host() {
        host.closed(first, last);
    }
}

fn dup(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let files = cx.files();
    let file = files.get(args.int(0))?;
    Ok(files.install(file, false, cx.limit(Resource::OpenFiles))? as u64)
}

fn dup2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (old, new) = (args.int(0), args.int(1));
    if old == new {
        cx.files().get(old)?;
        return Ok(new as u64);
    }
    replace(cx, old, new, false)
}

fn dup3(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (old, new, flags) = (args.int(0), args.int(1), args.uint(2));
    if flags & !O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL.into());
    }
    replace(cx, old, new, flags & O_CLOEXEC != 0)
}

fn replace(cx: &mut Ctx<'_>, old: i32, new: i32, close_on_exec: bool) -> SysResult {
    let files = cx.files();
    let file = files.get(old)?;
    drop(files.install_at(file, new, close_on_exec, cx.limit(Resource::OpenFiles))?);
    closed(cx, new, new);
    Ok(new as u64)
}

fn close_range(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (first, last, flags) = (args.uint(0), args.uint(1), args.uint(2));
    if first > last || flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        let own = Arc::new(cx.files().fork());
        drop(cx.task.set_files(own));
    }
    let files = cx.files();
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        files.mark_range(first, last);
    } else {
        drop(files.close_range(first, last));
        let number = |fd: u32| i32::try_from(fd).unwrap_or(i32::MAX);
        closed(cx, number(first), number(last));
    }
    Ok(0)
}
