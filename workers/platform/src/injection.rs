//! Which descriptors may enter a stub, and which plain calls the host's kernel may execute.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::platform::Shared;
use crate::{Abi, Call, FileAccess, Stub, filter, layout, procfs};

/// Flags of a mapping that the guest's own call makes.
const FILE_MMAP_FLAGS: u64 = (libc::MAP_TYPE
    | libc::MAP_FIXED
    | libc::MAP_FIXED_NOREPLACE
    | libc::MAP_NORESERVE
    | libc::MAP_POPULATE
    | libc::MAP_DENYWRITE
    | libc::MAP_EXECUTABLE) as u64;

/// Checks a guest's mmap of a descriptor; the descriptor's number.
pub(crate) fn check_mmap(call: &Call, access: FileAccess) -> Result<i32, Errno> {
    let [_, _, prot, flags, fd, _] = call.args;
    let is_mmap = call.abi == Abi::X86_64 && call.nr == libc::SYS_mmap as u64;
    let shared = flags & libc::MAP_TYPE as u64 == libc::MAP_SHARED as u64;
    let private = flags & libc::MAP_TYPE as u64 == libc::MAP_PRIVATE as u64;
    let prot_bits = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    if !is_mmap || flags & !FILE_MMAP_FLAGS != 0 || !(shared || private) || prot & !prot_bits != 0 {
        return Err(Errno::INVAL);
    }
    if shared && prot & libc::PROT_WRITE as u64 != 0 && access == FileAccess::ReadOnly {
        return Err(Errno::ACCESS);
    }
    match i32::try_from(fd) {
        Ok(number) if (0..layout::IMAGE_FD).contains(&number) => Ok(number),
        _ => Err(Errno::MFILE),
    }
}

/// A descriptor with exactly these rights for what `fd` refers to: a writable one could be mprotected to
/// writable, whatever the guest's own open file says.
pub(crate) fn injectable(fd: BorrowedFd<'_>, access: FileAccess, exact: bool) -> Result<OwnedFd, Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    if kind != FileType::RegularFile {
        // A socket, device or directory would be a way out.
        return Err(Errno::INVAL);
    }
    let mode = rustix::fs::fcntl_getfl(fd)? & OFlags::ACCMODE;
    match access {
        FileAccess::ReadOnly if mode != OFlags::RDONLY && exact => {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        }
        FileAccess::ReadWrite if mode != OFlags::RDWR => Err(Errno::ACCESS),
        _ => rustix::io::fcntl_dupfd_cloexec(fd, 0),
    }
}

/// Whether the host's kernel may execute this plain call: nothing in memory can change what it does.
pub(crate) fn native_allowed(shared: &Shared, stub: &Stub, call: &Call) -> Result<(), Errno> {
    if call.abi != Abi::X86_64 {
        return Err(Errno::PERM);
    }
    // rseq names memory of the guest's own, and nothing else.
    if call.nr == libc::SYS_rseq as u64 || filter::native(&shared.full, call.nr, call.args, call.ip) {
        return Ok(());
    }
    let [old, length, _, flags, ..] = call.args;
    let known_flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) as u64;
    if call.nr == libc::SYS_mremap as u64 && flags & !known_flags == 0 {
        return if is_anonymous(stub.pid(), old, length) { Ok(()) } else { Err(Errno::FAULT) };
    }
    Err(Errno::PERM)
}

/// Whether a range is wholly private anonymous memory. A sibling may move a file there afterwards: then the
/// mapping grows within what stubs may see anyway (the public image, or a file of its own; see the crate's head).
fn is_anonymous(pid: i32, start: u64, length: u64) -> bool {
    let Some(end) = start.checked_add(length) else { return false };
    let Some(maps) = procfs::maps(pid) else { return false };
    let mut at = start;
    for mapping in maps.iter().filter(|m| m.end > start && m.start < end) {
        let private = mapping.permissions[3] == b'p' && mapping.inode == 0 && mapping.device == (0, 0);
        if mapping.start > at || !private {
            return false;
        }
        at = mapping.end;
    }
    length > 0 && at >= end
}
