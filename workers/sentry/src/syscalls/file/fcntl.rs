//! fcntl and flock.

use std::sync::Arc;

use zerocopy::FromZeros;

use super::layout::Flock;
use super::wait_for;
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::fs::pipe::PipeEnd;
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::vfs::flags::{O_DIRECT, O_LARGEFILE, O_NOATIME};
use crate::vfs::{Capability, LockOwner, OpenFile, RecordLock, Waits};

pub(super) const TABLE: &[Entry] = &[
    Entry::partial(72, "fcntl", fcntl, "leases, directory notification and SIGIO are missing: EINVAL").by(&[
        "locks:flags_of_descriptors",
        "locks:leases_and_notices",
        "locks:locks_of_open_files",
        "locks:memory_files",
        "locks:record_locks",
        "noted:files",
    ]),
    Entry::full(73, "flock", flock).by(&["locks:whole_files"]),
];

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_SETOWN: u32 = 8;
const F_GETOWN: u32 = 9;
const F_SETSIG: u32 = 10;
const F_GETSIG: u32 = 11;
const F_SETOWN_EX: u32 = 15;
const F_GETOWN_EX: u32 = 16;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_DUPFD_QUERY: u32 = 1027;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

fn fcntl(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (fd, command, value) = (args.int(0), args.uint(1), args.u64(2));
    let files = cx.files();
    let file = files.get(fd)?;
    let allowed_on_path =
        matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_DUPFD_QUERY | F_GETFD | F_SETFD | F_GETFL);
    if file.is_path() && !allowed_on_path {
        return Err(Errno::EBADF.into());
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = usize::try_from(value as i32).map_err(|_| Errno::EINVAL)?;
            let limit = cx.limit(Resource::OpenFiles);
            if from as u64 >= limit {
                return Err(Errno::EINVAL.into());
            }
            Ok(files.install_from(file, from, command == F_DUPFD_CLOEXEC, limit)? as u64)
        }
        F_DUPFD_QUERY => Ok(files.get(value as i32).is_ok_and(|other| Arc::ptr_eq(&other, &file)).into()),
        F_GETFD => Ok(files.is_close_on_exec(fd)?.into()),
        F_SETFD => {
            files.set_close_on_exec(fd, value & 1 != 0)?;
            Ok(0)
        }
        F_GETFL => {
            // What has no path was not opened by open(2), which sets it.
            let opened = !Arc::ptr_eq(&file.inode().fs, cx.kernel.vfs().anonymous());
            Ok((file.flags() | if opened { O_LARGEFILE } else { 0 }).into())
        }
        F_SETFL => set_flags(cx, &file, value as u32),
        F_GETLK | F_SETLK | F_SETLKW => {
            let owner = LockOwner::Process(files.id(), cx.pid());
            record_lock(cx, &file, command - F_GETLK, value, owner)
        }
        F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            record_lock(cx, &file, command - F_OFD_GETLK, value, LockOwner::OpenFile(file.id()))
        }
        F_SETOWN | F_GETOWN | F_SETSIG | F_GETSIG => owner(cx, &file, command, value as i32),
        F_SETOWN_EX | F_GETOWN_EX => extended_owner(cx, &file, command, value),
        F_SETPIPE_SZ | F_GETPIPE_SZ => pipe_size(&file, command, value as u32),
        F_ADD_SEALS | F_GET_SEALS => seals(cx, &file, command, value as u32),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_flags(cx: &Ctx<'_>, file: &OpenFile, flags: u32) -> SysResult {
    let credentials = cx.credentials();
    let owner = file.inode().with_meta(|meta| meta.uid);
    let sets = flags & !file.flags();
    if sets & O_NOATIME != 0 && owner != credentials.fsuid && !credentials.can(Capability::Fowner) {
        return Err(Errno::EPERM.into());
    }
    if sets & O_DIRECT != 0 && !file.ops().seekable() && file.object::<PipeEnd>().is_none() {
        return Err(Errno::EINVAL.into());
    }
    file.set_flags(flags);
    Ok(0)
}

/// Whom SIGIO would go to: kept and shown.
fn owner(cx: &Ctx<'_>, file: &OpenFile, command: u32, value: i32) -> SysResult {
    let (pid, signal) = file.owner();
    match command {
        F_GETOWN => Ok(i64::from(pid) as u64),
        F_GETSIG => Ok(signal.into()),
        F_SETOWN => {
            check_owner(cx, value)?;
            file.set_owner(value, signal);
            Ok(0)
        }
        _ => {
            let signal = u32::try_from(value).ok().filter(|signal| *signal <= 64).ok_or(Errno::EINVAL)?;
            file.set_owner(pid, signal);
            Ok(0)
        }
    }
}

/// Whether there is such a process, or a group for a negative number.
fn check_owner(cx: &Ctx<'_>, pid: i32) -> Result<(), Errno> {
    let tree = cx.kernel.tree.lock();
    let there = match pid {
        0 => true,
        i32::MIN => return Err(Errno::EINVAL),
        pid if pid > 0 => tree.task(pid).is_some(),
        pid => !tree.group(-pid).is_empty(),
    };
    if there { Ok(()) } else { Err(Errno::ESRCH) }
}

fn extended_owner(cx: &Ctx<'_>, file: &OpenFile, command: u32, address: u64) -> SysResult {
    const OF_PROCESS: i32 = 1;
    const OF_GROUP: i32 = 2;
    let (pid, signal) = file.owner();
    if command == F_GETOWN_EX {
        let answer = if pid < 0 { [OF_GROUP, -pid] } else { [OF_PROCESS, pid] };
        cx.memory.write_value(address, &answer)?;
        return Ok(0);
    }
    let [kind, id]: [i32; 2] = cx.memory.read_value(address)?;
    let pid = match kind {
        0 | OF_PROCESS => id,
        OF_GROUP => id.checked_neg().ok_or(Errno::EINVAL)?,
        _ => return Err(Errno::EINVAL.into()),
    };
    check_owner(cx, pid)?;
    file.set_owner(pid, signal);
    Ok(0)
}

fn pipe_size(file: &OpenFile, command: u32, value: u32) -> SysResult {
    let pipe = file.object::<PipeEnd>().ok_or(Errno::EBADF)?.pipe();
    if command == F_GETPIPE_SZ {
        return Ok(pipe.capacity() as u64);
    }
    Ok(pipe.set_capacity(value as usize)? as u64)
}

/// Whether any process can write to the file through a shared mapping.
fn is_mapped_writable(cx: &Ctx<'_>, file: &OpenFile) -> bool {
    let processes: Vec<_> = cx.kernel.tree.lock().nodes().map(|node| node.process.clone()).collect();
    processes.iter().any(|process| {
        let inodes = process.space().host_inodes(file.inode());
        let maps = process.stub().filter(|_| !inodes.is_empty()).and_then(|stub| stub.maps().ok());
        maps.unwrap_or_default().iter().any(|mapping| {
            let [_, write, _, shared] = mapping.permissions;
            inodes.contains(&mapping.inode) && write == b'w' && shared == b's'
        })
    })
}

fn seals(cx: &Ctx<'_>, file: &OpenFile, command: u32, value: u32) -> SysResult {
    const SEAL_WRITE: u32 = 8;
    let content = file.inode().content().filter(|_| file.inode().fs.image.is_none()).ok_or(Errno::EINVAL)?;
    if command == F_GET_SEALS {
        return Ok(content.seals().into());
    }
    if !file.may_write() {
        return Err(Errno::EPERM.into());
    }
    if value & SEAL_WRITE != 0 && is_mapped_writable(cx, file) {
        return Err(Errno::EBUSY.into());
    }
    content.add_seals(value)?;
    Ok(0)
}

/// Bytes that a `struct flock` is about.
fn range(file: &OpenFile, flock: &Flock) -> Result<(u64, u64), Errno> {
    let base = match flock.whence {
        0 => 0,
        1 => file.position() as i64,
        2 => file.inode().content().map_or(0, |content| content.size() as i64),
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match flock.length {
        0 => (start, None),
        length if length > 0 => (start, Some(start.checked_add(length).ok_or(Errno::EOVERFLOW)?)),
        length => (start.checked_add(length).ok_or(Errno::EINVAL)?, Some(start)),
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    Ok((start, end.map_or(u64::MAX, |end| end as u64)))
}

/// `command`: 0 asks, 1 sets, 2 sets and waits.
fn record_lock(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    command: u32,
    address: u64,
    owner: LockOwner,
) -> SysResult {
    let flock: Flock = cx.memory.read_value(address)?;
    let open_file = matches!(owner, LockOwner::OpenFile(_));
    if open_file && flock.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (start, end) = range(file, &flock)?;
    let wanted = RecordLock { start, end, exclusive: flock.kind == F_WRLCK, owner };
    let inode = file.inode().clone();
    if command == 0 {
        if flock.kind == F_UNLCK && !open_file || !matches!(flock.kind, F_RDLCK | F_WRLCK | F_UNLCK) {
            return Err(Errno::EINVAL.into());
        }
        return answer_lock(cx, flock, inode.extra().locks.conflict(&wanted), address);
    }
    match flock.kind {
        F_UNLCK => {
            inode.extra().locks.release_record(start, end, owner);
            return Ok(0);
        }
        F_RDLCK if !file.may_read() => return Err(Errno::EBADF.into()),
        F_WRLCK if !file.may_write() => return Err(Errno::EBADF.into()),
        F_RDLCK | F_WRLCK => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let locks = &inode.extra().locks;
    if command == 1 {
        locks.take_record(wanted)?;
        return Ok(0);
    }
    wait_for(cx, locks.queue(), Restart::Sys, |cx| match locks.take_record(wanted) {
        Err(Errno::EAGAIN) => {
            // Kept for as long as the call waits.
            let waits =
                locks.conflict(&wanted).map(|holder| Waits::begin(owner, holder.owner)).transpose()?;
            cx.call.held = waits.flatten().map(|waits| Arc::new(waits) as _);
            Err(Errno::EAGAIN)
        }
        result => result,
    })?;
    Ok(0)
}

fn answer_lock(cx: &Ctx<'_>, asked: Flock, found: Option<RecordLock>, address: u64) -> SysResult {
    let answer = match found {
        None => Flock { kind: F_UNLCK, ..asked },
        Some(lock) => {
            let mut answer = Flock::new_zeroed();
            answer.kind = if lock.exclusive { F_WRLCK } else { F_RDLCK };
            answer.start = lock.start as i64;
            answer.length = if lock.end == u64::MAX { 0 } else { (lock.end - lock.start) as i64 };
            answer.pid = match lock.owner {
                LockOwner::Process(_, pid) => pid,
                LockOwner::OpenFile(_) => -1,
            };
            answer
        }
    };
    cx.memory.write_value(address, &answer)?;
    Ok(0)
}

fn flock(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const LOCK_SH: u32 = 1;
    const LOCK_EX: u32 = 2;
    const LOCK_NB: u32 = 4;
    const LOCK_UN: u32 = 8;
    let file = cx.files().get_io(args.int(0))?;
    let operation = args.uint(1);
    let inode = file.inode().clone();
    let locks = &inode.extra().locks;
    let exclusive = match operation & !LOCK_NB {
        LOCK_UN => {
            locks.release_flock(file.id());
            return Ok(0);
        }
        LOCK_SH => false,
        LOCK_EX => true,
        _ => return Err(Errno::EINVAL.into()),
    };
    if operation & LOCK_NB != 0 {
        locks.take_flock(file.id(), exclusive)?;
        return Ok(0);
    }
    wait_for(cx, locks.queue(), Restart::Sys, |_| locks.take_flock(file.id(), exclusive))?;
    Ok(0)
}
