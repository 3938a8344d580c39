//! The socket calls.

mod address;
mod connect;
mod control;
mod create;
mod message;
mod options;

use std::sync::Arc;
use std::time::Duration;

use super::Entry;
use crate::call::{Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Resource};
use crate::net::inet::InetSocket;
use crate::net::unix::{Endpoint, Peer, SocketFile};
use crate::vfs::flags::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::vfs::{Body, Dentry, Inode, Kind, Meta, OpenFile};

/// The lists of this folder's families.
pub(super) const FAMILIES: &[&[Entry]] = &[connect::TABLE, create::TABLE, message::TABLE, options::TABLE];

/// A socket, of whichever family.
enum Socket<'a> {
    Unix(&'a Arc<Endpoint>),
    Inet(&'a InetSocket),
}

/// The socket that an open file is.
fn socket_of(file: &OpenFile) -> Result<Socket<'_>, Errno> {
    if let Some(socket) = file.object::<SocketFile>() {
        return Ok(Socket::Unix(&socket.0));
    }
    file.object::<InetSocket>().map(Socket::Inet).ok_or(Errno::ENOTSOCK)
}

/// Who calls, as the other side sees it.
fn myself(cx: &Ctx<'_>) -> Peer {
    let credentials = cx.credentials();
    Peer { pid: cx.pid(), uid: credentials.euid, gid: credentials.egid }
}

/// An open file of a socket.
fn open_socket(cx: &Ctx<'_>, flags: u32, object: Box<dyn crate::vfs::File>) -> Arc<OpenFile> {
    let fs = cx.kernel.vfs().anonymous();
    let number = fs.next_number();
    let credentials = cx.credentials();
    let meta = Meta::new(0o777, credentials.fsuid, credentials.fsgid);
    let inode = Inode::new(fs, number, Kind::Socket, meta, Body::Anonymous);
    let dentry = Dentry::anonymous(&format!("socket:[{number}]"), inode);
    OpenFile::new(dentry, O_RDWR | flags & O_NONBLOCK, object)
}

fn install(cx: &Ctx<'_>, file: Arc<OpenFile>, flags: u32) -> SysResult {
    let limit = cx.limit(Resource::OpenFiles);
    Ok(cx.files().install(file, flags & O_CLOEXEC != 0, limit)? as u64)
}

/// Applies SO_RCVTIMEO or SO_SNDTIMEO, in microseconds; answers whether the call may not wait (any longer).
fn may_not_wait(cx: &mut Ctx<'_>, file: &OpenFile, dont_wait: bool, timeout: i64) -> bool {
    if dont_wait || file.is_nonblocking() {
        return true;
    }
    if timeout > 0 {
        cx.call.wait_at_most(Duration::from_micros(timeout as u64));
    }
    cx.call.timed_out()
}

/// SIGPIPE for a failed send, unless MSG_NOSIGNAL says no.
fn broken(cx: &Ctx<'_>, fail: Fail, quiet: bool) -> Fail {
    if fail == Fail::Errno(Errno::EPIPE) && !quiet {
        cx.send_signal(crate::kernel::Signal::PIPE);
    }
    fail
}
