//! Calls that change owners, modes and times.

use std::sync::Arc;

use super::caller;
use super::layout::Timespec;
use super::paths::lookup_at;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::flags::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::vfs::{Dentry, SetTime, Timestamp};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(90, "chmod", chmod).by(&["files:modes_and_owners", "files:sticky_and_permissions"]),
    Entry::full(91, "fchmod", fchmod).by(&["files:modes_and_owners"]),
    Entry::full(92, "chown", chown).by(&["files:modes_and_owners"]),
    Entry::full(93, "fchown", fchown).by(&["files:modes_and_owners"]),
    Entry::full(94, "lchown", lchown).by(&["files:modes_and_owners"]),
    Entry::full(132, "utime", utime).by(&["files:times_of_files"]),
    Entry::full(235, "utimes", utimes).by(&["files:times_of_files"]),
    Entry::full(260, "fchownat", fchownat).by(&["files:modes_and_owners"]),
    Entry::full(261, "futimesat", futimesat).by(&["files:times_of_files"]),
    Entry::full(268, "fchmodat", fchmodat).by(&["files:modes_and_owners"]),
    Entry::full(280, "utimensat", utimensat).by(&["files:times_of_files"]),
    Entry::full(452, "fchmodat2", fchmodat2).by(&["files:modes_by_path"]),
];

fn chmod(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    chmod_at(cx, AT_FDCWD, args.u64(0), args.uint(1), 0)
}

fn fchmodat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    chmod_at(cx, args.int(0), args.u64(1), args.uint(2), 0)
}

fn fchmodat2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    chmod_at(cx, args.int(0), args.u64(1), args.uint(2), flags)
}

fn chmod_at(cx: &Ctx<'_>, dirfd: i32, path: u64, mode: u32, flags: u32) -> SysResult {
    let caller = caller(cx);
    let dentry = lookup_at(cx, &caller, dirfd, path, flags)?;
    cx.kernel.vfs().chmod(&caller, &dentry, mode)?;
    Ok(0)
}

fn fchmod(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    cx.kernel.vfs().chmod(&caller(cx), file.dentry(), args.uint(1))?;
    Ok(0)
}

/// -1 leaves an id as it is.
fn id(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

fn chown(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    chown_at(cx, AT_FDCWD, args.u64(0), (args.uint(1), args.uint(2)), 0)
}

fn lchown(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    chown_at(cx, AT_FDCWD, args.u64(0), (args.uint(1), args.uint(2)), AT_SYMLINK_NOFOLLOW)
}

fn fchownat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    chown_at(cx, args.int(0), args.u64(1), (args.uint(2), args.uint(3)), flags)
}

fn chown_at(cx: &Ctx<'_>, dirfd: i32, path: u64, ids: (u32, u32), flags: u32) -> SysResult {
    let caller = caller(cx);
    let dentry = lookup_at(cx, &caller, dirfd, path, flags)?;
    cx.kernel.vfs().chown(&caller, &dentry, id(ids.0), id(ids.1))?;
    Ok(0)
}

fn fchown(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    cx.kernel.vfs().chown(&caller(cx), file.dentry(), id(args.uint(1)), id(args.uint(2)))?;
    Ok(0)
}

fn set_time(time: Timespec) -> Result<SetTime, Errno> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    match time.fraction {
        UTIME_NOW => Ok(SetTime::Now),
        UTIME_OMIT => Ok(SetTime::Omit),
        nanoseconds @ 0..1_000_000_000 => {
            Ok(SetTime::At(Timestamp { seconds: time.seconds, nanoseconds: nanoseconds as u32 }))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn utimensat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (dirfd, path, times, flags) = (args.int(0), args.u64(1), args.u64(2), args.uint(3));
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (atime, mtime) = if times == 0 {
        (SetTime::Now, SetTime::Now)
    } else {
        let pair: [Timespec; 2] = cx.memory.read_value(times)?;
        (set_time(pair[0])?, set_time(pair[1])?)
    };
    if atime == SetTime::Omit && mtime == SetTime::Omit {
        return Ok(0);
    }
    if path == 0 && dirfd != AT_FDCWD && flags & AT_EMPTY_PATH == 0 {
        // futimens: the descriptor itself.
        if flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        let file = cx.files().get_io(dirfd)?;
        cx.kernel.vfs().set_times(&caller(cx), file.dentry(), atime, mtime)?;
        return Ok(0);
    }
    let caller = caller(cx);
    let dentry = lookup_at(cx, &caller, dirfd, path, flags)?;
    cx.kernel.vfs().set_times(&caller, &dentry, atime, mtime)?;
    Ok(0)
}

/// Times in microseconds.
fn micro_times(cx: &Ctx<'_>, address: u64) -> Result<(SetTime, SetTime), Errno> {
    if address == 0 {
        return Ok((SetTime::Now, SetTime::Now));
    }
    let pair: [Timespec; 2] = cx.memory.read_value(address)?;
    let time = |time: Timespec| match time.fraction {
        micros @ 0..1_000_000 => {
            Ok(SetTime::At(Timestamp { seconds: time.seconds, nanoseconds: micros as u32 * 1000 }))
        }
        _ => Err(Errno::EINVAL),
    };
    Ok((time(pair[0])?, time(pair[1])?))
}

fn utimes(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let times = micro_times(cx, args.u64(1))?;
    set_times_at(cx, AT_FDCWD, args.u64(0), times)
}

fn futimesat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let times = micro_times(cx, args.u64(2))?;
    if args.u64(1) == 0 && args.int(0) != AT_FDCWD {
        let dentry: Arc<Dentry> = cx.files().get_io(args.int(0))?.dentry().clone();
        cx.kernel.vfs().set_times(&caller(cx), &dentry, times.0, times.1)?;
        return Ok(0);
    }
    set_times_at(cx, args.int(0), args.u64(1), times)
}

fn utime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let times = if args.u64(1) == 0 {
        (SetTime::Now, SetTime::Now)
    } else {
        let pair: [i64; 2] = cx.memory.read_value(args.u64(1))?;
        let time = |seconds| SetTime::At(Timestamp { seconds, nanoseconds: 0 });
        (time(pair[0]), time(pair[1]))
    };
    set_times_at(cx, AT_FDCWD, args.u64(0), times)
}

fn set_times_at(cx: &Ctx<'_>, dirfd: i32, path: u64, times: (SetTime, SetTime)) -> SysResult {
    let caller = caller(cx);
    let dentry = lookup_at(cx, &caller, dirfd, path, 0)?;
    cx.kernel.vfs().set_times(&caller, &dentry, times.0, times.1)?;
    Ok(0)
}
