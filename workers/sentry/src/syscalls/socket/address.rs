//! Socket addresses in guest memory.

use std::sync::Arc;

use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::net::unix::Endpoint;
use crate::syscalls::file::caller;
use crate::vfs::permission::{MAY_WRITE, check};
use crate::vfs::{Body, WalkFlags};

/// AF_UNIX.
pub(super) const AF_UNIX: u16 = 1;
/// AF_UNSPEC.
pub(super) const AF_UNSPEC: u16 = 0;
/// Bytes of the longest `sockaddr` (sockaddr_storage).
const MAX: usize = 128;
/// Bytes of `sockaddr_un`.
const SOCKADDR_UN: usize = 110;

/// Reads a `sockaddr`: its family and all its bytes.
pub(super) fn read(cx: &Ctx<'_>, address: u64, length: u32) -> Result<(u16, Vec<u8>), Errno> {
    let length = length as usize;
    if length > MAX {
        return Err(Errno::EINVAL);
    }
    if length < 2 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; length];
    cx.memory.read(address, &mut bytes)?;
    Ok((u16::from_le_bytes([bytes[0], bytes[1]]), bytes))
}

/// The name in a `sockaddr_un`: a path without its NUL, or an abstract name with its leading one.
pub(super) fn unix_name(bytes: &[u8]) -> Result<Vec<u8>, Errno> {
    if bytes.len() > SOCKADDR_UN || bytes.len() < 2 {
        return Err(Errno::EINVAL);
    }
    let name = &bytes[2..];
    if name.first() == Some(&0) {
        return Ok(name.to_vec());
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(name[..end].to_vec())
}

/// A `sockaddr_un` of a name.
pub(super) fn unix_address(name: &[u8]) -> Vec<u8> {
    let mut bytes = AF_UNIX.to_le_bytes().to_vec();
    bytes.extend_from_slice(name);
    if name.first().is_some_and(|byte| *byte != 0) {
        bytes.push(0);
    }
    bytes
}

/// Writes a `sockaddr` and its length, cut to the room that the guest has.
pub(super) fn write(cx: &Ctx<'_>, bytes: &[u8], address: u64, length_address: u64) -> Result<(), Errno> {
    let room: i32 = cx.memory.read_value(length_address)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    cx.memory.write(address, &bytes[..bytes.len().min(room)])?;
    cx.memory.write_value(length_address, &(bytes.len() as u32))
}

/// The socket that has a name.
pub(super) fn find(cx: &Ctx<'_>, name: &[u8]) -> Result<Arc<Endpoint>, Errno> {
    if let Some(abstract_name) = name.strip_prefix(b"\0") {
        return cx.kernel.vfs().socket_names().find(abstract_name);
    }
    if name.is_empty() {
        return Err(Errno::ECONNREFUSED);
    }
    let caller = caller(cx);
    let dentry = cx.kernel.vfs().lookup(&caller, &caller.cwd, name, WalkFlags::FOLLOW)?;
    check(dentry.inode(), &caller.credentials, MAY_WRITE)?;
    match &dentry.inode().body {
        Body::Socket(bound) => {
            bound.lock().as_ref().and_then(std::sync::Weak::upgrade).ok_or(Errno::ECONNREFUSED)
        }
        _ => Err(Errno::ECONNREFUSED),
    }
}
