//! System V shared memory.

use std::sync::Arc;

use bulkhead_platform::HostCall;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Entry;
use super::file::caller;
use super::mm::map_segment;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::kernel::segments::{Attachment, Facts, IPC_PRIVATE, SEGMENTS_MAX, Segment};
use crate::vfs::Timestamp;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::partial(29, "shmget", sys_shmget, "no huge pages (ENOMEM); at most 512 segments").by(&[
        "noted:memory",
        "segments:attaching",
        "segments:finding",
    ]),
    Entry::full(30, "shmat", sys_shmat).by(&["segments:attaching"]),
    Entry::partial(
        31,
        "shmctl",
        sys_shmctl,
        "SHM_LOCK pins nothing; what munmap ended counts as attached until exec or exit",
    )
    .by(&["segments:attaching", "segments:finding"]),
    Entry::full(67, "shmdt", sys_shmdt).by(&["segments:attaching"]),
];

const PAGE: u64 = 4096;
/// Permission bits of a segment.
const PERMISSIONS: u32 = 0o777;
/// Largest size (kernel.shmmax).
const SIZE_MAX: u64 = u64::MAX - (1 << 24);
const READ: u32 = 4;
const WRITE: u32 = 2;

/// `struct shmid64_ds`.
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy, Default)]
#[repr(C)]
struct Status {
    key: i32,
    uid: u32,
    gid: u32,
    creator_uid: u32,
    creator_gid: u32,
    mode: u32,
    sequence: u16,
    _pad: [u16; 3],
    _unused: [u64; 2],
    size: u64,
    attach_time: i64,
    detach_time: i64,
    change_time: i64,
    creator: i32,
    last: i32,
    attached: u64,
    _more: [u64; 2],
}

fn sys_shmget(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const IPC_CREAT: u32 = 0o1000;
    const IPC_EXCL: u32 = 0o2000;
    let (key, size, flags) = (args.int(0), args.u64(1), args.uint(2));
    let known = if key == IPC_PRIVATE { None } else { cx.kernel.segments.find(key) };
    let Some(segment) = known else {
        if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT.into());
        }
        return create(cx, key, size, flags);
    };
    if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
        return Err(Errno::EEXIST.into());
    }
    if size > segment.size {
        return Err(Errno::EINVAL.into());
    }
    let asked = flags >> 6 | flags >> 3 | flags;
    if !segment.grants(&cx.credentials(), asked & 7) {
        return Err(Errno::EACCES.into());
    }
    Ok(segment.id as u64)
}

fn create(cx: &Ctx<'_>, key: i32, size: u64, flags: u32) -> SysResult {
    const SHM_HUGETLB: u32 = 0o4000;
    if size == 0 || size > SIZE_MAX {
        return Err(Errno::EINVAL.into());
    }
    if flags & SHM_HUGETLB != 0 {
        return Err(Errno::ENOMEM.into());
    }
    let shown = format!("/SYSV{key:08x} (deleted)");
    let file = cx.kernel.vfs().unnamed_memory(&caller(cx), shown.as_bytes(), flags & PERMISSIONS)?;
    let length = size.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    file.inode().content().ok_or(Errno::EIO)?.truncate(length).map_err(|_| Errno::ENOMEM)?;
    let own = cx.credentials();
    let facts = Facts {
        key,
        uid: own.euid,
        gid: own.egid,
        creator_uid: own.euid,
        creator_gid: own.egid,
        mode: flags & PERMISSIONS,
        removed: false,
        locked: false,
        attached: 0,
        attach_time: 0,
        detach_time: 0,
        change_time: Timestamp::now().seconds,
        creator: cx.pid(),
        last: 0,
    };
    Ok(cx.kernel.segments.add(size, file, facts)? as u64)
}

fn sys_shmat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const SHM_RDONLY: u32 = 0o10_000;
    const SHM_RND: u32 = 0o20_000;
    const SHM_REMAP: u32 = 0o40_000;
    const SHM_EXEC: u32 = 0o100_000;
    let flags = args.uint(2);
    let (mut address, remap) = (args.u64(1), flags & SHM_REMAP != 0);
    if !address.is_multiple_of(PAGE) {
        if flags & SHM_RND == 0 {
            return Err(Errno::EINVAL.into());
        }
        address &= !(PAGE - 1);
    }
    if address == 0 && remap {
        return Err(Errno::EINVAL.into());
    }
    let segment = cx.kernel.segments.get(args.int(0))?;
    let writable = flags & SHM_RDONLY == 0;
    let (asked, execute) = (READ | if writable { WRITE } else { 0 }, flags & SHM_EXEC != 0);
    if !segment.grants(&cx.credentials(), asked | u32::from(execute)) {
        return Err(Errno::EACCES.into());
    }
    if cx.registers.is_none() {
        return Err(Fail::Registers);
    }
    let prot = 1 | if writable { 2 } else { 0 } | if execute { 4 } else { 0 };
    // Counted first: so it stays, whoever removes it meanwhile.
    let mut attachment = Attachment::new(segment.clone(), cx.pid())?;
    let length = segment.size.next_multiple_of(PAGE);
    let command = map_segment(cx, &segment.file, (address, length), prot, remap)?;
    cx.run_then(
        &[command],
        Box::new(move |task, ran| {
            let taken = |errno: Errno| if errno == Errno::EEXIST { Errno::EINVAL } else { errno };
            attachment.address = ran.result.map_err(|errno| taken(errno.into()))?;
            let address = attachment.address;
            task.process.attachments.add(attachment)?;
            Ok(address)
        }),
    )
}

fn sys_shmdt(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if cx.registers.is_none() {
        return Err(Fail::Registers);
    }
    let address = args.u64(0);
    let attachment = cx.task.process.attachments.take(address).ok_or(Errno::EINVAL)?;
    let end = address + attachment.segment.size.next_multiple_of(PAGE);
    drop(attachment);
    // What the guest has put over it since stays: only shared mappings of the same file go.
    let maps = cx.host()?.stub().maps()?;
    let first = maps.iter().find(|mapping| mapping.start == address).map(|mapping| mapping.inode);
    let same = maps.iter().filter(|mapping| mapping.start < end && mapping.end > address);
    let same = same.filter(|mapping| first.is_some_and(|inode| inode != 0 && inode == mapping.inode));
    let commands: Vec<HostCall> = same
        .take(bulkhead_platform::layout::MAX_COMMANDS)
        .map(|mapping| {
            let (start, end) = (mapping.start.max(address), mapping.end.min(end));
            HostCall::munmap(start, end - start)
        })
        .collect();
    if commands.is_empty() { Ok(0) } else { cx.run_and_return(&commands) }
}

const IPC_RMID: u32 = 0;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const IPC_INFO: u32 = 3;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;
/// In a segment's mode: it goes with its last attachment.
const SHM_DEST: u32 = 0o1000;
/// In a segment's mode: SHM_LOCK.
const SHM_LOCKED: u32 = 0o2000;

fn sys_shmctl(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (id, command, address) = (args.int(0), args.uint(1), args.u64(2));
    match command {
        IPC_INFO | SHM_INFO => info(cx, command, address),
        SHM_STAT | SHM_STAT_ANY => {
            let segment = cx.kernel.segments.at(id).0.ok_or(Errno::EINVAL)?;
            if command == SHM_STAT && !segment.grants(&cx.credentials(), READ) {
                return Err(Errno::EACCES.into());
            }
            cx.memory.write_value(address, &status(&segment))?;
            Ok(segment.id as u64)
        }
        IPC_STAT => {
            let segment = cx.kernel.segments.get(id)?;
            if !segment.grants(&cx.credentials(), READ) {
                return Err(Errno::EACCES.into());
            }
            cx.memory.write_value(address, &status(&segment))?;
            Ok(0)
        }
        IPC_SET | IPC_RMID | SHM_LOCK | SHM_UNLOCK => change(cx, id, command, address),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn change(cx: &Ctx<'_>, id: i32, command: u32, address: u64) -> SysResult {
    let wanted: Option<Status> = if command == IPC_SET { Some(cx.memory.read_value(address)?) } else { None };
    let segment = cx.kernel.segments.get(id)?;
    if !segment.is_own(&cx.credentials()) {
        return Err(Errno::EPERM.into());
    }
    match wanted {
        Some(wanted) => {
            if wanted.uid == u32::MAX || wanted.gid == u32::MAX {
                return Err(Errno::EINVAL.into());
            }
            let mut facts = segment.facts.lock();
            (facts.uid, facts.gid, facts.mode) = (wanted.uid, wanted.gid, wanted.mode & PERMISSIONS);
            facts.change_time = Timestamp::now().seconds;
        }
        None if command == IPC_RMID => cx.kernel.segments.remove(&segment),
        None => segment.facts.lock().locked = command == SHM_LOCK,
    }
    Ok(0)
}

fn status(segment: &Arc<Segment>) -> Status {
    let facts = *segment.facts.lock();
    let mark = |on: bool, bit: u32| if on { bit } else { 0 };
    Status {
        key: facts.key,
        uid: facts.uid,
        gid: facts.gid,
        creator_uid: facts.creator_uid,
        creator_gid: facts.creator_gid,
        mode: facts.mode | mark(facts.removed, SHM_DEST) | mark(facts.locked, SHM_LOCKED),
        sequence: (segment.id >> 15) as u16,
        size: segment.size,
        attach_time: facts.attach_time,
        detach_time: facts.detach_time,
        change_time: facts.change_time,
        creator: facts.creator,
        last: facts.last,
        attached: facts.attached,
        ..Status::default()
    }
}

fn info(cx: &Ctx<'_>, command: u32, address: u64) -> SysResult {
    let (used, bytes) = cx.kernel.segments.totals();
    if command == IPC_INFO {
        // shmmax, shmmin, shmmni, shmseg, shmall
        let most = SEGMENTS_MAX as u64;
        cx.memory.write_value(address, &[SIZE_MAX, 1, most, most, SIZE_MAX, 0, 0, 0, 0])?;
    } else {
        // used_ids, shm_tot, shm_rss, shm_swp, two that are unused
        cx.memory.write_value(address, &[used as u64, bytes / PAGE, bytes / PAGE, 0, 0, 0])?;
    }
    Ok(cx.kernel.segments.at(0).1 as u64)
}
