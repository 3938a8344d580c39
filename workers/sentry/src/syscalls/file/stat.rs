//! stat and its relatives.

use std::sync::Arc;

use super::layout::{Stat, Statfs, Statx, StatxTime};
use super::paths::lookup_at;
use super::{base_of, caller, path_argument};
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::flags::{AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW};
use crate::vfs::{Body, Caller, Dentry, Inode, Kind, Timestamp, WalkFlags, check_access};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(4, "stat", stat).by(&["files:what_stat_says"]),
    Entry::full(5, "fstat", fstat).by(&["files:what_stat_says"]),
    Entry::full(6, "lstat", lstat).by(&["files:what_stat_says"]),
    Entry::full(21, "access", access).by(&["files:making_names"]),
    Entry::full(89, "readlink", readlink).by(&["files:making_names"]),
    Entry::full(137, "statfs", statfs).by(&["files:file_systems"]),
    Entry::full(138, "fstatfs", fstatfs).by(&["files:file_systems"]),
    Entry::full(262, "newfstatat", newfstatat).by(&["files:what_stat_says", "open:only_the_path"]),
    Entry::full(267, "readlinkat", readlinkat).by(&["files:making_names_at"]),
    Entry::full(269, "faccessat", faccessat).by(&["files:making_names_at"]),
    Entry::full(332, "statx", statx).by(&["files:what_statx_says"]),
    Entry::full(439, "faccessat2", faccessat2).by(&["files:making_names_at"]),
];

const STATX_BASIC_STATS: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_RESERVED: u32 = 0x8000_0000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
const AT_STATX_SYNC_TYPE: u32 = 0x6000;
/// `st_blksize`: what a read or write should have.
const BLOCK_SIZE: u32 = 4096;

/// What all forms of stat need.
struct Facts {
    size: u64,
    blocks: u64,
    special: (u32, u32),
}

fn facts(inode: &Inode) -> Facts {
    let (size, blocks) = match &inode.body {
        Body::Regular(content) => (content.size(), content.blocks()),
        Body::Directory { .. } => (4096, 8),
        Body::Symlink(target) => (target.len() as u64, 0),
        _ => (0, 0),
    };
    let special = match &inode.body {
        Body::Device(major, minor) => (*major, *minor),
        // A terminal of the host's: what it is called there is not the job's business.
        Body::Host(_) if inode.kind == Kind::CharDevice => (136, 0),
        _ => (0, 0),
    };
    Facts { size, blocks, special }
}

/// Linux's 64-bit device number.
fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn seconds(time: Timestamp) -> [i64; 2] {
    [time.seconds, i64::from(time.nanoseconds)]
}

fn fill(inode: &Inode) -> Stat {
    let facts = facts(inode);
    let meta = inode.meta();
    Stat {
        device: device_number(0, inode.fs.device),
        inode: inode.number,
        links: meta.nlink.into(),
        mode: meta.mode | inode.kind as u32,
        uid: meta.uid,
        gid: meta.gid,
        special_device: device_number(facts.special.0, facts.special.1),
        size: facts.size as i64,
        block_size: BLOCK_SIZE.into(),
        blocks: facts.blocks as i64,
        atime: seconds(meta.atime),
        mtime: seconds(meta.mtime),
        ctime: seconds(meta.ctime),
        ..Stat::default()
    }
}

fn answer(cx: &Ctx<'_>, inode: &Inode, address: u64) -> SysResult {
    cx.memory.write_value(address, &fill(inode))?;
    Ok(0)
}

fn stat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let dentry = lookup_at(cx, &caller(cx), AT_FDCWD, args.u64(0), 0)?;
    answer(cx, dentry.inode(), args.u64(1))
}

fn lstat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let dentry = lookup_at(cx, &caller(cx), AT_FDCWD, args.u64(0), AT_SYMLINK_NOFOLLOW)?;
    answer(cx, dentry.inode(), args.u64(1))
}

fn fstat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get(args.int(0))?;
    answer(cx, file.inode(), args.u64(1))
}

fn newfstatat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let dentry = lookup_at(cx, &caller(cx), args.int(0), args.u64(1), flags)?;
    answer(cx, dentry.inode(), args.u64(2))
}

fn statx(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (flags, mask) = (args.uint(2), args.uint(3));
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if flags & !known != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE || mask & STATX_RESERVED != 0 {
        return Err(Errno::EINVAL.into());
    }
    let dentry = lookup_at(cx, &caller(cx), args.int(0), args.u64(1), flags)?;
    cx.memory.write_value(args.u64(4), &fill_statx(&dentry))?;
    Ok(0)
}

fn fill_statx(dentry: &Dentry) -> Statx {
    let inode = dentry.inode();
    let facts = facts(inode);
    let meta = inode.meta();
    let time = |time: Timestamp| StatxTime { seconds: time.seconds, nanoseconds: time.nanoseconds, pad: 0 };
    Statx {
        mask: STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID,
        block_size: BLOCK_SIZE,
        attributes: if dentry.is_mount_point() { STATX_ATTR_MOUNT_ROOT } else { 0 },
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        links: meta.nlink,
        uid: meta.uid,
        gid: meta.gid,
        mode: (meta.mode | inode.kind as u32) as u16,
        inode: inode.number,
        size: facts.size,
        blocks: facts.blocks,
        atime: time(meta.atime),
        btime: time(meta.btime),
        ctime: time(meta.ctime),
        mtime: time(meta.mtime),
        special_major: facts.special.0,
        special_minor: facts.special.1,
        device_minor: inode.fs.device,
        mount: inode.fs.device.into(),
        ..Statx::default()
    }
}

fn access(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    access_at(cx, AT_FDCWD, args.u64(0), args.uint(1), 0)
}

fn faccessat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    access_at(cx, args.int(0), args.u64(1), args.uint(2), 0)
}

fn faccessat2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    access_at(cx, args.int(0), args.u64(1), args.uint(2), args.uint(3))
}

fn access_at(cx: &Ctx<'_>, dirfd: i32, path: u64, wanted: u32, flags: u32) -> SysResult {
    if wanted & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut caller = caller(cx);
    if flags & AT_EACCESS == 0 {
        caller.credentials = Arc::new(caller.credentials.as_real());
    }
    let dentry = lookup_at(cx, &caller, dirfd, path, flags)?;
    check_access(dentry.inode(), &caller.credentials, wanted)?;
    Ok(0)
}

fn readlink(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    readlink_at(cx, AT_FDCWD, args.u64(0), args.u64(1), args.int(2))
}

fn readlinkat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    readlink_at(cx, args.int(0), args.u64(1), args.u64(2), args.int(3))
}

fn readlink_at(cx: &Ctx<'_>, dirfd: i32, path: u64, buffer: u64, size: i32) -> SysResult {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(Errno::EINVAL)?;
    let path = path_argument(cx, path)?;
    let caller = caller(cx);
    let base = base_of(cx, &caller, dirfd, &path)?;
    let empty = dirfd != AT_FDCWD;
    let flags = WalkFlags { follow: false, resolve: 0, empty };
    let link = cx.kernel.vfs().lookup(&caller, &base, &path, flags)?;
    let target = target_of(cx, &caller, &link, &path)?;
    let count = target.len().min(size);
    cx.memory.write(buffer, &target[..count])?;
    Ok(count as u64)
}

fn target_of(cx: &Ctx<'_>, caller: &Caller, link: &Dentry, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let target = cx.kernel.vfs().readlink(caller, link);
    // With an empty path it is the descriptor that is not a link.
    if path.is_empty() && target == Err(Errno::EINVAL) { Err(Errno::ENOENT) } else { target }
}

fn statfs(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let dentry = lookup_at(cx, &caller(cx), AT_FDCWD, args.u64(0), 0)?;
    answer_statfs(cx, dentry.inode(), args.u64(1))
}

fn fstatfs(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get(args.int(0))?;
    answer_statfs(cx, file.inode(), args.u64(1))
}

fn answer_statfs(cx: &Ctx<'_>, inode: &Inode, address: u64) -> SysResult {
    const ST_RELATIME: i64 = 0x1000;
    const ST_VALID: i64 = 0x20;
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    const SOCKFS_MAGIC: i64 = 0x534f_434b;
    let facts = cx.kernel.vfs().statfs(&inode.fs);
    let nameless = Arc::ptr_eq(&inode.fs, cx.kernel.vfs().anonymous());
    let magic = match inode.kind {
        Kind::Fifo if nameless => PIPEFS_MAGIC,
        Kind::Socket if nameless => SOCKFS_MAGIC,
        _ => facts.magic as i64,
    };
    let statfs = Statfs {
        magic,
        block_size: 4096,
        blocks: facts.blocks,
        free: facts.free,
        available: facts.free,
        files: facts.files,
        files_free: facts.files_free,
        id: [facts.device as i32, 0],
        name_length: 255,
        fragment_size: 4096,
        flags: ST_RELATIME | ST_VALID,
        spare: [0; 4],
    };
    cx.memory.write_value(address, &statfs)?;
    Ok(0)
}
