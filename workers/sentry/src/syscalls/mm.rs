//! Memory: mappings of files, and the forms of the native calls that the filter notifies.
//!
//! Private anonymous memory is the host's affair and never comes here. What comes here: mappings of files (the
//! sentry knows them, the host maps them), shared anonymous memory (an unlinked memory file of the host), and
//! forms of the native calls that need a look first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bulkhead_platform::{FileAccess, HostCall, Ran};

use super::Entry;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, MappedFile, Process, Resource, Task, run};
use crate::vfs::{Body, Mapping, OpenFile};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::partial(9, "mmap", sys_mmap, "no MAP_HUGETLB (ENOMEM), MAP_LOCKED and MAP_SYNC are not kept")
        .by(&["memory:anonymous", "memory:files", "memory:limits", "noted:memory"]),
    Entry::full(10, "mprotect", sys_mprotect).by(&["memory:anonymous", "memory:files"]),
    Entry::full(11, "munmap", sys_native).by(&["memory:anonymous", "memory:files"]),
    Entry::full(12, "brk", sys_native).by(&["memory:anonymous", "memory:limits"]),
    Entry::partial(25, "mremap", sys_mremap, "a file mapping can't grow (EFAULT)").by(&["memory:moving"]),
    Entry::full(26, "msync", sys_msync).by(&["memory:files"]),
    Entry::partial(27, "mincore", sys_mincore, "every mapped page counts as resident")
        .by(&["memory:residence"]),
    Entry::partial(
        28,
        "madvise",
        sys_madvise,
        "MADV_REMOVE, MERGEABLE, COLLAPSE, PAGEOUT: EINVAL or no effect",
    )
    .by(&["memory:advice", "noted:memory"]),
    Entry::partial(149, "mlock", sys_mlock, "memory is not pinned; limits are checked")
        .by(&["memory:residence"]),
    Entry::partial(150, "munlock", sys_munlock, "see mlock").by(&["memory:residence"]),
    Entry::partial(151, "mlockall", sys_mlockall, "see mlock").by(&["memory:residence"]),
    Entry::partial(152, "munlockall", |_, _| Ok(0), "see mlock").by(&["memory:residence"]),
    Entry::partial(325, "mlock2", sys_mlock2, "see mlock").by(&["memory:residence"]),
    Entry::refused(216, "remap_file_pages", Errno::ENOSYS, "deprecated; programs map anew"),
    Entry::refused(329, "pkey_mprotect", Errno::EINVAL, "no protection keys"),
    Entry::refused(330, "pkey_alloc", Errno::ENOSPC, "no protection keys"),
    Entry::refused(331, "pkey_free", Errno::EINVAL, "no protection keys"),
    Entry::refused(
        323,
        "userfaultfd",
        Errno::EPERM,
        "refused to unprivileged programs, as Linux does by default",
    ),
    Entry::refused(237, "mbind", Errno::ENOSYS, "one memory node"),
    Entry::refused(238, "set_mempolicy", Errno::ENOSYS, "one memory node"),
    Entry::refused(239, "get_mempolicy", Errno::ENOSYS, "one memory node"),
];

const PAGE: u64 = 4096;
const PROT_WRITE: u64 = 2;
const PROT_BITS: u64 = 7;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MAP_HUGETLB: u64 = 0x4_0000;
/// Flags that MAP_SHARED_VALIDATE knows: all but MAP_SYNC, which needs files in persistent memory.
const MAP_VALIDATED: u64 = 0xfc17_f9f3;
/// What the host is asked for; the rest are hints.
const MAP_KEPT: u64 = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
/// Addresses end here.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// What mmap is asked for.
#[derive(Clone, Copy)]
struct Request {
    address: u64,
    length: u64,
    prot: u64,
    flags: u64,
    offset: u64,
}

impl Request {
    fn shared(&self) -> bool {
        matches!(self.flags & MAP_TYPE, MAP_SHARED | MAP_SHARED_VALIDATE)
    }

    fn host_type(&self) -> u64 {
        if self.shared() { MAP_SHARED } else { MAP_PRIVATE }
    }

    /// The command that maps `length` bytes of a descriptor.
    fn command(&self, address: u64, length: u64, extra: u64, fd: i32, offset: u64) -> HostCall {
        let flags = self.host_type() | (self.flags & MAP_KEPT) | extra;
        HostCall::mmap(address, length, self.prot as i32, flags as i32, fd, offset)
    }
}

fn sys_mmap(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let length = args.u64(1).checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let request = Request {
        address: args.u64(0),
        length,
        prot: args.u64(2) & PROT_BITS,
        flags: args.u64(3),
        offset: args.u64(5),
    };
    if length == 0 || !request.offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL.into());
    }
    if length > TASK_SIZE {
        return Err(Errno::ENOMEM.into());
    }
    if request.flags & MAP_TYPE == MAP_SHARED_VALIDATE && request.flags & !MAP_VALIDATED != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if request.flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM.into());
    }
    if !matches!(request.flags & MAP_TYPE, MAP_SHARED | MAP_PRIVATE | MAP_SHARED_VALIDATE) {
        return Err(Errno::EINVAL.into());
    }
    if request.flags & MAP_ANONYMOUS != 0 {
        return anonymous(cx, &request);
    }
    let file = cx.files().get(args.int(4))?;
    file_mapping(cx, &request, &file)
}

fn file_mapping(cx: &mut Ctx<'_>, request: &Request, file: &Arc<OpenFile>) -> SysResult {
    if !file.may_read() {
        return Err(if file.is_path() { Errno::EBADF } else { Errno::EACCES }.into());
    }
    // Linux lets a shared mapping of a writable file be mprotected to writable later.
    let writable = request.shared() && file.may_write();
    if request.shared() && request.prot & PROT_WRITE != 0 && !file.may_write() {
        return Err(Errno::EACCES.into());
    }
    if matches!(file.inode().body, Body::Device(1, 5)) {
        // /dev/zero.
        return anonymous(cx, request);
    }
    let mapping = file.mapping(request.offset, request.length, writable)?;
    // Kept for as long as it is mapped: for its costs, and its name in /proc/PID/maps.
    cx.task.process.space().keep(cx.kernel, cx.task, MappedFile::new(&mapping, file.dentry())?)?;
    let access = if mapping.stub_may_write { FileAccess::ReadWrite } else { FileAccess::ReadOnly };
    if cx.registers.is_none() {
        // A plain call: the guest's own call maps it, at its own offset.
        let same_place = mapping.own_file && mapping.host_offset == request.offset;
        if same_place {
            let host = cx.host()?;
            run::run_then_look(cx.task);
            if host.map_file(mapping.host_file.as_fd(), access).is_ok() {
                return Err(Fail::Done);
            }
            run::enter(cx.task);
        }
        return Err(Fail::Registers);
    }
    map_by_command(cx, request, &mapping, access)
}

/// Maps a file through a command, with all registers at hand.
fn map_by_command(cx: &mut Ctx<'_>, request: &Request, mapping: &Mapping, access: FileAccess) -> SysResult {
    let host = cx.host()?;
    let is_image = cx.kernel.is_public_image(&mapping.host_file) && !request.shared();
    let fd = if is_image {
        bulkhead_platform::layout::IMAGE_FD
    } else {
        host.add_fd(mapping.host_file.as_fd(), None, access)?
    };
    if mapping.own_file || mapping.length_available >= request.length {
        let command = request.command(request.address, request.length, 0, fd, mapping.host_offset);
        return cx.run_and_return(&[command]);
    }
    // The file ends inside the mapping: its pages are laid over a reservation, so that nothing behind it in the
    // host file shows.
    let (fixed, available) =
        (request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0, mapping.length_available);
    let reserve_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (request.flags & MAP_KEPT);
    let reserve = HostCall::mmap(request.address, request.length, 0, reserve_flags as i32, -1, 0);
    let over = {
        let (request, offset) = (*request, mapping.host_offset);
        move |address| request.command(address, available, MAP_FIXED, fd, offset)
    };
    if available == 0 {
        return cx.run_and_return(&[reserve]);
    }
    if fixed {
        return cx.run_and_return(&[reserve, over(request.address)]);
    }
    cx.run_then(&[reserve], Box::new(move |task, ran| lay_over(task, ran, &over)))
}

fn lay_over(task: &Arc<Task>, ran: &Ran, over: &dyn Fn(u64) -> HostCall) -> SysResult {
    let address = ran.result?;
    crate::kernel::run_and_return(task, &[over(address)], ran.registers)
}

/// The command that maps a segment of System V shared memory of `place` (address, or 0 for any, and length).
///
/// # Errors
/// ENOMEM if there is no room for it.
pub(super) fn map_segment(
    cx: &Ctx<'_>,
    file: &Arc<OpenFile>,
    (address, length): (u64, u64),
    prot: u64,
    replace: bool,
) -> Result<HostCall, Errno> {
    let writable = prot & PROT_WRITE != 0;
    let no_room = |errno| if errno == Errno::ENOSPC { Errno::ENOMEM } else { errno };
    let mapping = file.mapping(0, length, writable).map_err(no_room)?;
    cx.task.process.space().keep(cx.kernel, cx.task, MappedFile::new(&mapping, file.dentry())?)?;
    let access = if mapping.stub_may_write { FileAccess::ReadWrite } else { FileAccess::ReadOnly };
    let fd = cx.host()?.add_fd(mapping.host_file.as_fd(), None, access)?;
    let place = match (address, replace) {
        (0, _) => 0,
        (_, false) => MAP_FIXED_NOREPLACE,
        (_, true) => MAP_FIXED,
    };
    let request = Request { address, length, prot, flags: MAP_SHARED | place, offset: 0 };
    Ok(request.command(address, length, 0, fd, mapping.host_offset))
}

/// MAP_SHARED|MAP_ANONYMOUS: an unlinked memory file of the host, charged to the job like all its memory.
fn anonymous(cx: &mut Ctx<'_>, request: &Request) -> SysResult {
    if !request.shared() {
        // A private form that the filter does not take, for its flags: without those that are only hints.
        if cx.registers.is_none() {
            return Err(Fail::Registers);
        }
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | (request.flags & MAP_KEPT);
        let call = HostCall::mmap(request.address, request.length, request.prot as i32, flags as i32, -1, 0);
        return cx.run_and_return(&[call]);
    }
    if cx.registers.is_none() {
        return Err(Fail::Registers);
    }
    let file = shared_memory(request.length)?;
    let host = cx.host()?;
    let fd = host.add_fd(file.as_fd(), None, FileAccess::ReadWrite)?;
    let command = request.command(request.address, request.length, 0, fd, 0);
    cx.run_and_return(&[command])
}

fn shared_memory(length: u64) -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let file = memfd_create("shared", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, length)?;
    Ok(file)
}

/// A form of a native call that the filter notifies (odd flags, mediation): the host's kernel decides, if the
/// platform lets it.
fn sys_native(_cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Err(Fail::Native)
}

fn sys_mprotect(_cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    // What the filter does not let through has bits that only mappings of other machines and kinds know.
    if args.u64(2) & !PROT_BITS != 0 { Err(Errno::EINVAL.into()) } else { Err(Fail::Native) }
}

fn sys_mremap(_cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    // The platform lets anonymous memory grow and answers for the rest.
    Err(Fail::Native)
}

fn sys_msync(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const MS_ASYNC: u32 = 1;
    const MS_INVALIDATE: u32 = 2;
    const MS_SYNC: u32 = 4;
    let flags = args.uint(2);
    let both = flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC;
    if !args.u64(0).is_multiple_of(PAGE) || flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0 || both {
        return Err(Errno::EINVAL.into());
    }
    // Mapped pages are the file's pages: nothing is to be written back that a reader could miss.
    if mapped_bytes(cx, args.u64(0), args.u64(1))? { Ok(0) } else { Err(Errno::ENOMEM.into()) }
}

/// Whether every page of the range is mapped.
fn mapped_bytes(cx: &Ctx<'_>, address: u64, length: u64) -> Result<bool, Errno> {
    let end = address.checked_add(length).ok_or(Errno::ENOMEM)?;
    let stub = cx.host()?.stub().clone();
    let maps = stub.maps()?;
    let mut at = address;
    for mapping in maps.iter().filter(|mapping| mapping.end > address && mapping.start < end) {
        if mapping.start > at {
            return Ok(false);
        }
        at = mapping.end;
    }
    Ok(at >= end)
}

fn sys_mincore(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// Pages of one call: the vector is the sentry's memory.
    const PAGES_MAX: u64 = 1 << 20;
    if !args.u64(0).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL.into());
    }
    let pages = args.u64(1).div_ceil(PAGE);
    if pages > PAGES_MAX || !mapped_bytes(cx, args.u64(0), args.u64(1))? {
        return Err(Errno::ENOMEM.into());
    }
    cx.memory.write(args.u64(2), &vec![1; pages as usize])?;
    Ok(0)
}

fn sys_madvise(_cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const MADV_MERGEABLE: u32 = 12;
    const MADV_UNMERGEABLE: u32 = 13;
    const MADV_PAGEOUT: u32 = 21;
    match args.uint(2) {
        // Hints without an effect here.
        MADV_MERGEABLE | MADV_UNMERGEABLE | MADV_PAGEOUT => Ok(0),
        // What comes here only when the sentry is asked about all memory: advice that stays in the address space.
        0..=4 | 8 | 10 | 11 | 14..=20 | 22 | 23 => Err(Fail::Native),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn lock_limit(cx: &Ctx<'_>, length: u64) -> SysResult {
    let limit = cx.limit(Resource::LockedMemory);
    if length > limit { Err(if limit == 0 { Errno::EPERM } else { Errno::ENOMEM }.into()) } else { Ok(0) }
}

fn sys_mlock(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if !mapped_bytes(cx, args.u64(0) & !(PAGE - 1), args.u64(1))? {
        return Err(Errno::ENOMEM.into());
    }
    lock_limit(cx, args.u64(1))
}

fn sys_munlock(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if mapped_bytes(cx, args.u64(0) & !(PAGE - 1), args.u64(1))? { Ok(0) } else { Err(Errno::ENOMEM.into()) }
}

fn sys_mlock2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const MLOCK_ONFAULT: u32 = 1;
    if args.uint(2) & !MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL.into());
    }
    sys_mlock(cx, args)
}

fn sys_mlockall(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const FLAGS: u32 = 7;
    /// MCL_ONFAULT, which says how and not what.
    const ONFAULT: u32 = 4;
    if args.uint(0) == 0 || args.uint(0) & !FLAGS != 0 || args.uint(0) == ONFAULT {
        return Err(Errno::EINVAL.into());
    }
    lock_limit(cx, 1)
}

/// Limits that bind natively are set on the stub, too.
pub(crate) fn limit_changed(process: &Arc<Process>, resource: Resource, soft: u64) {
    let host = match resource {
        Resource::AddressSpace => rustix::process::Resource::As,
        Resource::Data => rustix::process::Resource::Data,
        Resource::Stack => rustix::process::Resource::Stack,
        _ => return,
    };
    // The stub has address space of its own beside the guest's.
    let extra = if resource == Resource::Stack { 0 } else { bulkhead_platform::layout::OVERHEAD };
    let soft = soft.checked_add(extra).filter(|_| soft != crate::kernel::INFINITY);
    let pid = process.stub().and_then(|stub| rustix::process::Pid::from_raw(stub.pid()));
    if let Some(pid) = pid {
        let limit = rustix::process::Rlimit { current: soft, maximum: None };
        let _host_refuses = rustix::process::prlimit(Some(pid), host, limit);
    }
}
