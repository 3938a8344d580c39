//! open and its relatives.

use std::sync::Arc;

use super::{base_of, caller, path_argument};
use crate::call::{Args, Fail, Restart, SysResult};
use crate::errno::Errno;
use crate::fs::pipe::PipeEnd;
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::vfs::flags::{
    AT_FDCWD, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_TMPFILE, O_TRUNC, O_WRONLY,
    RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
};
use crate::vfs::{OpenFile, OpenHow};
use crate::wait::Events;

pub(super) const TABLE: &[Entry] = &[
    Entry::full(2, "open", open).by(&[
        "open:fifos",
        "open:flags",
        "open:only_the_path",
        "open:temporary_files",
    ]),
    Entry::full(85, "creat", creat).by(&["open:flags"]),
    Entry::full(257, "openat", openat).by(&[
        "open:only_the_path",
        "open:relative_to",
        "open:temporary_files",
    ]),
    Entry::partial(437, "openat2", openat2, "RESOLVE_CACHED: EAGAIN")
        .by(&["noted:files", "open:with_resolution"]),
];

/// O_* bits that openat2 knows.
const VALID_FLAGS: u32 = 0o7777_7777 & !0o30;

fn open(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    open_at(cx, AT_FDCWD, args.u64(0), OpenHow::flags(args.uint(1), args.uint(2)))
}

fn creat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = O_CREAT | O_WRONLY | O_TRUNC;
    open_at(cx, AT_FDCWD, args.u64(0), OpenHow::flags(flags, args.uint(1)))
}

fn openat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    open_at(cx, args.int(0), args.u64(1), OpenHow::flags(args.uint(2), args.uint(3)))
}

fn openat2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// Bytes of the first version of `struct open_how`.
    const FIRST: usize = 24;
    let size = args.usize(3);
    if size < FIRST {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut raw = vec![0; size];
    cx.memory.read(args.u64(2), &mut raw)?;
    if raw[FIRST..].iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let field = |n: usize| raw[n * 8..n * 8 + 8].iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
    let (flags, mode, resolve) = (field(0), field(1), field(2));
    let known = RESOLVE_BENEATH
        | RESOLVE_CACHED
        | RESOLVE_IN_ROOT
        | RESOLVE_NO_MAGICLINKS
        | RESOLVE_NO_SYMLINKS
        | RESOLVE_NO_XDEV;
    let creates = flags as u32 & O_CREAT != 0 || flags as u32 & O_TMPFILE == O_TMPFILE;
    let both = u64::from(RESOLVE_BENEATH | RESOLVE_IN_ROOT);
    if flags & !u64::from(VALID_FLAGS) != 0
        || resolve & !u64::from(known) != 0
        || resolve & both == both
        || mode & !0o7777 != 0
        || mode != 0 && !creates
        || flags as u32 & O_PATH != 0 && flags as u32 & !(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    if resolve as u32 & RESOLVE_CACHED != 0 {
        // Allowed at any time: "can't be done without waiting".
        return Err(Errno::EAGAIN.into());
    }
    let how = OpenHow { flags: flags as u32, mode: mode as u32, resolve: resolve as u32 };
    open_at(cx, args.int(0), args.u64(1), how)
}

fn open_at(cx: &mut Ctx<'_>, dirfd: i32, path: u64, how: OpenHow) -> SysResult {
    let file = match cx.call.held.take() {
        Some(held) => held.downcast::<OpenFile>().map_err(|_| Errno::EIO)?,
        None => {
            let path = path_argument(cx, path)?;
            let caller = caller(cx);
            // With RESOLVE_IN_ROOT an absolute path starts at the descriptor, too.
            let relative = if how.resolve & RESOLVE_IN_ROOT != 0 { b".".as_slice() } else { &path };
            let base = base_of(cx, &caller, dirfd, relative)?;
            cx.kernel.vfs().open(&caller, &base, &path, how)?
        }
    };
    wait_for_other_end(cx, &file)?;
    let limit = cx.limit(Resource::OpenFiles);
    Ok(cx.files().install(file, how.flags & O_CLOEXEC != 0, limit)? as u64)
}

/// A FIFO is open when its other end is.
fn wait_for_other_end(cx: &mut Ctx<'_>, file: &Arc<OpenFile>) -> Result<(), Fail> {
    let Some(end) = file.object::<PipeEnd>() else { return Ok(()) };
    if file.flags() & O_NONBLOCK != 0 || end.is_connected() {
        return Ok(());
    }
    let waiter = cx.waiter();
    file.poll(Some((&waiter, 0, Events::ALL)));
    if end.is_connected() {
        return Ok(());
    }
    cx.call.held = Some(file.clone());
    Err(cx.park(Restart::Sys))
}
