//! Listing directories, and where a process stands.

use super::{caller, path_argument};
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::inotify;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::permission::{MAY_EXEC, check};
use crate::vfs::{Capability, Dentry, Listed, WalkFlags, list};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(78, "getdents", getdents).by(&["files:directories"]),
    Entry::full(79, "getcwd", getcwd).by(&["files:directories"]),
    Entry::full(80, "chdir", chdir).by(&["files:directories"]),
    Entry::full(81, "fchdir", fchdir).by(&["files:directories", "open:only_the_path"]),
    Entry::full(95, "umask", umask).by(&["files:modes_and_owners"]),
    Entry::full(161, "chroot", chroot).by(&["files:another_root"]),
    Entry::full(217, "getdents64", getdents64).by(&["files:a_large_directory", "files:directories"]),
];

/// Bytes that one call writes at most, whatever the guest's buffer holds.
const MAX_LISTING: usize = 128 << 10;
/// Bytes of an entry without its name, about; for guessing how many fit.
const ENTRY: usize = 24;

fn getdents(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    list_directory(cx, args, |entry, out| {
        // number, next, length, name, NUL, padding, type
        let length = (18 + entry.name.len() + 2).next_multiple_of(8);
        let start = out.len();
        out.extend_from_slice(&entry.number.to_le_bytes());
        out.extend_from_slice(&entry.next.to_le_bytes());
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.extend_from_slice(&entry.name);
        out.resize(start + length - 1, 0);
        out.push(entry.kind.dirent_type());
    })
}

fn getdents64(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    list_directory(cx, args, |entry, out| {
        // number, next, length, type, name, NUL, padding
        let length = (19 + entry.name.len() + 1).next_multiple_of(8);
        let start = out.len();
        out.extend_from_slice(&entry.number.to_le_bytes());
        out.extend_from_slice(&entry.next.to_le_bytes());
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.push(entry.kind.dirent_type());
        out.extend_from_slice(&entry.name);
        out.resize(start + length, 0);
    })
}

fn list_directory(cx: &mut Ctx<'_>, args: &Args, encode: impl Fn(&Listed, &mut Vec<u8>)) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    if !file.inode().is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    let room = (args.uint(2) as usize).min(MAX_LISTING);
    let position = file.position();
    let mut out = Vec::with_capacity(room.min(32 << 10));
    let mut next = position;
    let mut full = false;
    while !full {
        let entries = list(file.dentry(), next, (room / ENTRY).clamp(1, 1024))?;
        if entries.is_empty() {
            break;
        }
        for entry in &entries {
            let before = out.len();
            encode(entry, &mut out);
            if out.len() > room {
                out.truncate(before);
                full = true;
                break;
            }
            next = entry.next;
        }
    }
    if out.is_empty() && full {
        return Err(Errno::EINVAL.into());
    }
    cx.memory.write(args.u64(1), &out)?;
    file.with_position(|position| *position = next);
    inotify::notify(file.dentry(), inotify::IN_ACCESS);
    Ok(out.len() as u64)
}

fn getcwd(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let fs = cx.fs();
    let cwd = fs.cwd();
    if cwd.is_unlinked() {
        return Err(Errno::ENOENT.into());
    }
    let mut path = cwd.path(&fs.root());
    path.push(0);
    if path.len() > args.usize(1) {
        return Err(Errno::ERANGE.into());
    }
    cx.memory.write(args.u64(0), &path)?;
    Ok(path.len() as u64)
}

fn enter(cx: &Ctx<'_>, directory: &std::sync::Arc<Dentry>) -> Result<(), Errno> {
    if !directory.inode().is_directory() {
        return Err(Errno::ENOTDIR);
    }
    check(directory.inode(), &cx.credentials(), MAY_EXEC)
}

fn chdir(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let path = path_argument(cx, args.u64(0))?;
    let caller = caller(cx);
    let directory = cx.kernel.vfs().lookup(&caller, &caller.cwd, &path, WalkFlags::FOLLOW)?;
    enter(cx, &directory)?;
    cx.fs().set_cwd(directory);
    Ok(0)
}

fn fchdir(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let directory = cx.files().get(args.int(0))?.dentry().clone();
    enter(cx, &directory)?;
    cx.fs().set_cwd(directory);
    Ok(0)
}

fn chroot(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let path = path_argument(cx, args.u64(0))?;
    let caller = caller(cx);
    let directory = cx.kernel.vfs().lookup(&caller, &caller.cwd, &path, WalkFlags::FOLLOW)?;
    enter(cx, &directory)?;
    if !caller.credentials.can(Capability::SysChroot) {
        return Err(Errno::EPERM.into());
    }
    cx.fs().set_root(directory);
    Ok(0)
}

fn umask(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    Ok(cx.fs().set_umask(args.uint(0)).into())
}
