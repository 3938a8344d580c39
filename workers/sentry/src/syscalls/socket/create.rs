//! socket and socketpair.

use super::address::AF_UNIX;
use super::{install, myself, open_socket};
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::net::inet::InetSocket;
use crate::net::unix::{Endpoint, SocketFile, Type};
use crate::syscalls::Entry;
use crate::syscalls::file::install_pair;
use crate::vfs::flags::{O_CLOEXEC, O_NONBLOCK};

pub(super) const TABLE: &[Entry] = &[
    Entry::partial(41, "socket", socket, "AF_UNIX; AF_INET and AF_INET6 reach nothing; others EAFNOSUPPORT")
        .by(&["noted:sockets", "sockets:making", "sockets:the_internet"]),
    Entry::full(53, "socketpair", socketpair).by(&["sockets:making", "sockets:packets"]),
];

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_SEQPACKET: u32 = 5;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: i32 = 16;
const AF_PACKET: i32 = 17;

fn unix_type(kind: u32, protocol: u32) -> Result<Type, Errno> {
    if protocol > 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind {
        SOCK_STREAM => Ok(Type::Stream),
        // A raw one is a datagram one, as on Linux.
        SOCK_DGRAM | SOCK_RAW => Ok(Type::Datagram),
        SOCK_SEQPACKET => Ok(Type::Packet),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

fn split(args: &Args) -> Result<(u32, u32), Errno> {
    let kind = args.uint(1);
    let flags = kind & (O_CLOEXEC | O_NONBLOCK);
    if kind & !(0xf | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((kind & 0xf, flags))
}

fn socket(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (kind, flags) = split(args)?;
    let protocol = args.uint(2);
    let family = args.int(0);
    if family == i32::from(AF_UNIX) {
        let endpoint = Endpoint::new(unix_type(kind, protocol)?, myself(cx));
        let file = open_socket(cx, flags, Box::new(SocketFile(endpoint)));
        return install(cx, file, flags);
    }
    match u16::try_from(family) {
        Ok(family @ (AF_INET | AF_INET6)) => {
            let protocol = match (kind, protocol) {
                (SOCK_STREAM, 0 | 6) => 6,
                (SOCK_DGRAM, 0 | 17) => 17,
                // Unprivileged pings, and raw sockets.
                (SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT.into()),
                (SOCK_RAW, _) => return Err(Errno::EPERM.into()),
                (SOCK_STREAM, _) => return Err(Errno::EPROTONOSUPPORT.into()),
                _ => return Err(Errno::ESOCKTNOSUPPORT.into()),
            };
            let file = open_socket(cx, flags, Box::new(InetSocket::new(family, kind, protocol)));
            install(cx, file, flags)
        }
        _ if family == AF_PACKET => Err(Errno::EPERM.into()),
        _ if family == AF_NETLINK => Err(Errno::EAFNOSUPPORT.into()),
        _ => Err(Errno::EAFNOSUPPORT.into()),
    }
}

fn socketpair(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (kind, flags) = split(args)?;
    if args.int(0) != i32::from(AF_UNIX) {
        let known = matches!(args.int(0), 2 | 10);
        return Err(if known { Errno::EOPNOTSUPP } else { Errno::EAFNOSUPPORT }.into());
    }
    let (a, b) = Endpoint::pair(unix_type(kind, args.uint(2))?, myself(cx));
    let a = open_socket(cx, flags, Box::new(SocketFile(a)));
    let b = open_socket(cx, flags, Box::new(SocketFile(b)));
    install_pair(cx, (a, b), flags & O_CLOEXEC != 0, args.u64(3))
}
