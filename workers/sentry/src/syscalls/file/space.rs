//! Positions, sizes and what is written through to the disk.

use super::{caller, path_argument};
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::content::{Allocate, Content};
use crate::fs::inotify;
use crate::kernel::{Ctx, Resource, Signal};
use crate::syscalls::Entry;
use crate::vfs::permission::{MAY_WRITE, check};
use crate::vfs::{Kind, WalkFlags};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(8, "lseek", lseek).by(&["io:at_offsets"]),
    Entry::full(74, "fsync", fsync).by(&["files:syncing"]),
    Entry::full(75, "fdatasync", fsync).by(&["files:syncing"]),
    Entry::full(76, "truncate", truncate).by(&["files:sizes"]),
    Entry::full(77, "ftruncate", ftruncate).by(&["files:sizes"]),
    Entry::full(162, "sync", accepted).by(&["files:syncing"]),
    Entry::full(187, "readahead", readahead).by(&["files:syncing"]),
    Entry::full(221, "fadvise64", fadvise64).by(&["files:syncing"]),
    Entry::full(277, "sync_file_range", sync_file_range).by(&["files:syncing"]),
    Entry::partial(285, "fallocate", fallocate, "COLLAPSE_RANGE, INSERT_RANGE and UNSHARE_RANGE: EOPNOTSUPP")
        .by(&["files:space", "noted:files"]),
    Entry::full(306, "syncfs", fsync).by(&["files:syncing"]),
];

/// A job's files are gone with the sandbox: there is nothing that has to survive the host.
fn accepted(_cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Ok(0)
}

fn fsync(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    match file.inode().kind {
        Kind::Regular | Kind::Directory => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sync_file_range(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const FLAGS: u32 = 7;
    let (offset, length) = (args.long(1), args.long(2));
    let file = cx.files().get_io(args.int(0))?;
    let end = offset.checked_add(length).ok_or(Errno::EINVAL)?;
    if args.uint(3) & !FLAGS != 0 || offset < 0 || end < offset {
        return Err(Errno::EINVAL.into());
    }
    match file.inode().kind {
        Kind::Regular | Kind::Directory | Kind::BlockDevice | Kind::Symlink => Ok(0),
        _ => Err(Errno::ESPIPE.into()),
    }
}

fn lseek(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let (offset, whence) = (args.long(1), args.uint(2));
    if whence > 4 {
        return Err(Errno::EINVAL.into());
    }
    if file.inode().kind == Kind::Anonymous {
        // Files like eventfd have no position, and don't mind.
        return Ok(0);
    }
    let moved = file.with_position(|position| {
        let target = file.ops().seek(&file, *position, offset, whence)?;
        *position = target;
        Ok::<_, Errno>(target)
    })?;
    Ok(moved)
}

/// Checks RLIMIT_FSIZE for a file that grows from `now` to `size` bytes.
fn check_size(cx: &Ctx<'_>, now: u64, size: i64) -> Result<u64, Errno> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size > now && size > cx.limit(Resource::FileSize) {
        cx.send_signal(Signal::XFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(size)
}

fn truncate(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let size = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let path = path_argument(cx, args.u64(0))?;
    let caller = caller(cx);
    let dentry = cx.kernel.vfs().lookup(&caller, &caller.cwd, &path, WalkFlags::FOLLOW)?;
    match dentry.inode().kind {
        Kind::Directory => return Err(Errno::EISDIR.into()),
        Kind::Regular => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    check(dentry.inode(), &caller.credentials, MAY_WRITE)?;
    check_size(cx, dentry.inode().content().map_or(0, Content::size), size as i64)?;
    dentry.inode().begin_write()?;
    let result = cx.kernel.vfs().truncate(&caller, &dentry, size);
    dentry.inode().end_write();
    result?;
    Ok(0)
}

fn ftruncate(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let size = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let file = cx.files().get_io(args.int(0))?;
    if !file.may_write() || file.inode().kind != Kind::Regular {
        return Err(Errno::EINVAL.into());
    }
    check_size(cx, file.inode().content().map_or(0, Content::size), size as i64)?;
    cx.kernel.vfs().truncate(&caller(cx), file.dentry(), size)?;
    Ok(0)
}

fn fallocate(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    const ZERO_RANGE: u32 = 16;
    let (mode, offset, length) = (args.uint(1), args.long(2), args.long(3));
    let file = cx.files().get_io(args.int(0))?;
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let how = match mode & !KEEP_SIZE {
        0 => Allocate::Fill,
        PUNCH_HOLE if mode & KEEP_SIZE != 0 => Allocate::Punch,
        ZERO_RANGE => Allocate::Zero,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    if !file.may_write() {
        return Err(Errno::EBADF.into());
    }
    match file.inode().kind {
        Kind::Regular => {}
        Kind::Fifo => return Err(Errno::ESPIPE.into()),
        Kind::Directory => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
    let keep_size = mode & KEEP_SIZE != 0;
    if !keep_size {
        check_size(cx, file.inode().content().map_or(0, Content::size), end)?;
    }
    let content = file.inode().content().ok_or(Errno::ENODEV)?;
    content.allocate(offset as u64, length as u64, how, keep_size)?;
    file.inode().touch();
    inotify::notify(file.dentry(), inotify::IN_MODIFY);
    Ok(0)
}

fn readahead(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    if !file.may_read() {
        return Err(Errno::EBADF.into());
    }
    if file.inode().kind != Kind::Regular {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

fn fadvise64(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    if file.inode().kind == Kind::Fifo {
        return Err(Errno::ESPIPE.into());
    }
    if args.long(2) < 0 || args.uint(3) > 5 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}
