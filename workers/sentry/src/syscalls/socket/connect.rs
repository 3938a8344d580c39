//! bind, listen, connect, accept, shutdown and names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::address::{self, AF_UNIX, AF_UNSPEC, find, unix_address, unix_name};
use super::{Socket, install, may_not_wait, myself, open_socket, socket_of};
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::net::unix::{Endpoint, SocketFile, Type};
use crate::syscalls::Entry;
use crate::syscalls::file::{caller, until_ready};
use crate::vfs::Body;
use crate::vfs::flags::{O_CLOEXEC, O_NONBLOCK};
use crate::wait::Events;

pub(super) const TABLE: &[Entry] = &[
    Entry::partial(42, "connect", connect, "the internet's families: ENETUNREACH").by(&[
        "noted:sockets",
        "sockets:abstract_names",
        "sockets:datagrams",
        "sockets:streams",
        "sockets:the_internet",
    ]),
    Entry::full(43, "accept", accept).by(&["sockets:streams"]),
    Entry::full(48, "shutdown", shutdown).by(&["sockets:streams"]),
    Entry::full(49, "bind", bind).by(&[
        "sockets:abstract_names",
        "sockets:datagrams",
        "sockets:streams",
        "sockets:the_internet",
    ]),
    Entry::full(50, "listen", listen).by(&["sockets:streams"]),
    Entry::full(51, "getsockname", getsockname).by(&["sockets:abstract_names", "sockets:streams"]),
    Entry::full(52, "getpeername", getpeername).by(&["sockets:streams"]),
    Entry::full(288, "accept4", accept4).by(&["sockets:streams"]),
];

fn bind(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let socket = socket_of(&file)?;
    let (family, bytes) = address::read(cx, args.u64(1), args.uint(2))?;
    match socket {
        Socket::Inet(socket) => socket.bind(&bytes)?,
        Socket::Unix(_) if family != AF_UNIX => return Err(Errno::EINVAL.into()),
        Socket::Unix(socket) => bind_unix(cx, socket, &unix_name(&bytes)?)?,
    }
    Ok(0)
}

fn bind_unix(cx: &Ctx<'_>, socket: &Arc<Endpoint>, name: &[u8]) -> Result<(), Errno> {
    const S_IFSOCK: u32 = 0o140_000;
    if socket.is_bound() {
        // That the name is taken is found first.
        let caller = caller(cx);
        let is_path = name.first().is_some_and(|first| *first != 0);
        let flags = crate::vfs::WalkFlags { follow: false, ..Default::default() };
        let taken = is_path && cx.kernel.vfs().lookup(&caller, &caller.cwd, name, flags).is_ok();
        return Err(if taken { Errno::EADDRINUSE } else { Errno::EINVAL });
    }
    let names = cx.kernel.vfs().socket_names();
    if name.is_empty() {
        let any = names.bind_any(socket)?;
        return socket.set_name([b"\0", &any[..]].concat());
    }
    if let Some(abstract_name) = name.strip_prefix(b"\0") {
        names.bind(abstract_name, socket)?;
        return socket.set_name(name.to_vec());
    }
    let caller = caller(cx);
    let dentry = cx
        .kernel
        .vfs()
        .mknod(&caller, &caller.cwd, name, S_IFSOCK | 0o777)
        .map_err(|errno| if errno == Errno::EEXIST { Errno::EADDRINUSE } else { errno })?;
    if let Body::Socket(bound) = &dentry.inode().body {
        *bound.lock() = Some(Arc::downgrade(socket));
    }
    socket.set_name(name.to_vec())
}

fn listen(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    match socket_of(&file)? {
        Socket::Unix(socket) => socket.listen(args.int(1))?,
        Socket::Inet(socket) => socket.listen()?,
    }
    Ok(0)
}

fn connect(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let socket = match socket_of(&file)? {
        Socket::Inet(_) => {
            let (family, _) = address::read(cx, args.u64(1), args.uint(2))?;
            if family == AF_UNSPEC {
                return Ok(0);
            }
            return Err(Errno::ENETUNREACH.into());
        }
        Socket::Unix(socket) => socket.clone(),
    };
    let (family, bytes) = address::read(cx, args.u64(1), args.uint(2))?;
    if family == AF_UNSPEC && socket.kind == Type::Datagram {
        socket.disconnect();
        return Ok(0);
    }
    if family != AF_UNIX {
        return Err(Errno::EINVAL.into());
    }
    let target = find(cx, &unix_name(&bytes)?)?;
    let dont_wait = may_not_wait(cx, &file, false, socket.send_timeout.load(Ordering::Relaxed));
    let who = myself(cx);
    match socket.connect(&target, who) {
        Err(Errno::EAGAIN) if !dont_wait => {}
        result => return result.map(|()| 0).map_err(Fail::from),
    }
    crate::syscalls::file::wait_for(cx, target.room_queue(), crate::call::Restart::Sys, |_| {
        socket.connect(&target, who)
    })?;
    Ok(0)
}

fn accept(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    accept_with(cx, args, 0)
}

fn accept4(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    accept_with(cx, args, flags)
}

fn accept_with(cx: &mut Ctx<'_>, args: &Args, flags: u32) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let listener = match socket_of(&file)? {
        Socket::Unix(listener) => listener.clone(),
        Socket::Inet(socket) if socket.kind != 1 => return Err(Errno::EOPNOTSUPP.into()),
        Socket::Inet(socket) if !socket.is_listening() => return Err(Errno::EINVAL.into()),
        Socket::Inet(_) => {
            // Nobody can come.
            let dont_wait = file.is_nonblocking();
            return until_ready(cx, &file, Events::IN, dont_wait, |_| Err(Errno::EAGAIN.into()));
        }
    };
    let timeout = listener.receive_timeout.load(Ordering::Relaxed);
    let dont_wait = may_not_wait(cx, &file, false, timeout);
    let accepted = until_ready(cx, &file, Events::IN, dont_wait, |_| Ok(listener.accept()?))?;
    let name = accepted.peer_name().unwrap_or_default();
    let accepted = open_socket(cx, flags, Box::new(SocketFile(accepted)));
    if args.u64(1) != 0 {
        address::write(cx, &unix_address(&name), args.u64(1), args.u64(2))?;
    }
    install(cx, accepted, flags)
}

fn shutdown(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let how = args.uint(1);
    if how > 2 {
        return Err(Errno::EINVAL.into());
    }
    match socket_of(&file)? {
        Socket::Unix(socket) => socket.shutdown(how != 1, how != 0)?,
        Socket::Inet(_) => return Err(Errno::ENOTCONN.into()),
    }
    Ok(0)
}

fn getsockname(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let name = match socket_of(&file)? {
        Socket::Unix(socket) => unix_address(&socket.name()),
        Socket::Inet(socket) => socket.address(),
    };
    address::write(cx, &name, args.u64(1), args.u64(2))?;
    Ok(0)
}

fn getpeername(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    match socket_of(&file)? {
        Socket::Unix(socket) => {
            address::write(cx, &unix_address(&socket.peer_name()?), args.u64(1), args.u64(2))?;
            Ok(0)
        }
        Socket::Inet(_) => Err(Errno::ENOTCONN.into()),
    }
}
