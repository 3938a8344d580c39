//! Socket options.

use std::sync::atomic::{AtomicI64, Ordering};

use super::{Socket, socket_of};
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::net::unix::Endpoint;
use crate::syscalls::Entry;

pub(super) const TABLE: &[Entry] = &[
    Entry::partial(
        54,
        "setsockopt",
        setsockopt,
        "options of the internet's families are accepted and kept from effect",
    )
    .by(&["noted:sockets", "sockets:control_messages", "sockets:options"]),
    Entry::partial(55, "getsockopt", getsockopt, "SOL_SOCKET's common options; others ENOPROTOOPT")
        .by(&["noted:sockets", "sockets:options"]),
];

const SOL_SOCKET: i32 = 1;
const SO_DEBUG: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_DONTROUTE: i32 = 5;
const SO_BROADCAST: i32 = 6;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_KEEPALIVE: i32 = 9;
const SO_OOBINLINE: i32 = 10;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
const SO_REUSEPORT: i32 = 15;
const SO_PASSCRED: i32 = 16;
const SO_PEERCRED: i32 = 17;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_PEERNAME: i32 = 28;
const SO_TIMESTAMP: i32 = 29;
const SO_ACCEPTCONN: i32 = 30;
const SO_PEERSEC: i32 = 31;
const SO_PASSSEC: i32 = 34;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;

fn setsockopt(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let socket = socket_of(&file)?;
    let (level, option, address, length) = (args.int(1), args.int(2), args.u64(3), args.int(4));
    if length < 0 {
        return Err(Errno::EINVAL.into());
    }
    if level != SOL_SOCKET {
        return match socket {
            // TCP_NODELAY, IPV6_V6ONLY and so on: nothing to have an effect on.
            Socket::Inet(_) => Ok(0),
            Socket::Unix(_) => Err(Errno::EOPNOTSUPP.into()),
        };
    }
    if matches!(option, SO_RCVTIMEO | SO_SNDTIMEO) {
        return set_timeout(cx, &socket, option, address, length);
    }
    if option == SO_LINGER {
        if length < 8 {
            return Err(Errno::EINVAL.into());
        }
        let setting: i64 = cx.memory.read_value(address)?;
        if let Socket::Unix(socket) = socket {
            socket.linger.store(setting, Ordering::Relaxed);
        }
        return Ok(0);
    }
    if length < 4 {
        return Err(Errno::EINVAL.into());
    }
    let value: i32 = cx.memory.read_value(address)?;
    match (option, socket) {
        (SO_PASSCRED, Socket::Unix(socket)) => {
            socket.pass_credentials.store(value != 0, Ordering::Relaxed);
        }
        (SO_SNDBUF | SO_RCVBUF, Socket::Unix(socket)) => {
            // Doubled and bounded, as Linux does; the inbox's real bound is fixed.
            let size = (value.clamp(0, 212_992) as u32 * 2).max(2304);
            socket.buffer_sizes[usize::from(option == SO_RCVBUF)].store(size, Ordering::Relaxed);
        }
        (
            SO_REUSEADDR | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE | SO_OOBINLINE | SO_REUSEPORT,
            Socket::Unix(socket),
        ) => {
            let bit = 1u32 << option;
            if value != 0 {
                socket.switches.fetch_or(bit, Ordering::Relaxed);
            } else {
                socket.switches.fetch_and(!bit, Ordering::Relaxed);
            }
        }
        (
            SO_DEBUG | SO_REUSEADDR | SO_DONTROUTE | SO_BROADCAST | SO_SNDBUF | SO_RCVBUF | SO_KEEPALIVE
            | SO_OOBINLINE | SO_PRIORITY | SO_LINGER | SO_REUSEPORT | SO_PASSCRED | SO_RCVLOWAT
            | SO_TIMESTAMP | SO_PASSSEC,
            _,
        ) => {}
        _ => return Err(Errno::ENOPROTOOPT.into()),
    }
    Ok(0)
}

fn set_timeout(cx: &Ctx<'_>, socket: &Socket<'_>, option: i32, address: u64, length: i32) -> SysResult {
    if length < 16 {
        return Err(Errno::EINVAL.into());
    }
    let [seconds, micros]: [i64; 2] = cx.memory.read_value(address)?;
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM.into());
    }
    let total = seconds.max(0).saturating_mul(1_000_000).saturating_add(micros);
    if let Socket::Unix(socket) = socket {
        timeout_of(socket, option).store(total, Ordering::Relaxed);
    }
    Ok(0)
}

fn timeout_of(socket: &Endpoint, option: i32) -> &AtomicI64 {
    if option == SO_RCVTIMEO { &socket.receive_timeout } else { &socket.send_timeout }
}

fn getsockopt(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let socket = socket_of(&file)?;
    let (level, option, address, length_address) = (args.int(1), args.int(2), args.u64(3), args.u64(4));
    let room: i32 = cx.memory.read_value(length_address)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    if level != SOL_SOCKET {
        return match socket {
            Socket::Inet(_) => put(cx, &0i32.to_le_bytes(), room, address, length_address),
            Socket::Unix(_) => Err(Errno::EOPNOTSUPP.into()),
        };
    }
    let value = match socket {
        Socket::Unix(socket) => unix_option(socket, option)?,
        Socket::Inet(socket) => {
            let number = match option {
                SO_TYPE => socket.kind,
                SO_PROTOCOL => socket.protocol,
                SO_DOMAIN => socket.family.into(),
                SO_ACCEPTCONN => socket.is_listening().into(),
                SO_SNDBUF | SO_RCVBUF => 212_992,
                _ => common(option)?,
            };
            number.to_le_bytes().to_vec()
        }
    };
    put(cx, &value, room, address, length_address)
}

fn put(cx: &Ctx<'_>, value: &[u8], room: usize, address: u64, length_address: u64) -> SysResult {
    let count = value.len().min(room);
    cx.memory.write(address, &value[..count])?;
    cx.memory.write_value(length_address, &(count as u32))?;
    Ok(0)
}

fn common(option: i32) -> Result<u32, Errno> {
    match option {
        SO_ERROR | SO_DEBUG | SO_REUSEADDR | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE | SO_OOBINLINE
        | SO_PRIORITY | SO_REUSEPORT | SO_TIMESTAMP | SO_PASSSEC | SO_PASSCRED => Ok(0),
        SO_RCVLOWAT | SO_SNDLOWAT => Ok(1),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn unix_option(socket: &Endpoint, option: i32) -> Result<Vec<u8>, Errno> {
    let number = match option {
        SO_TYPE => socket.kind as u32,
        SO_ERROR => socket.take_error().map_or(0, |errno| errno.raw() as u32),
        SO_DOMAIN => 1,
        SO_PROTOCOL => 0,
        SO_PASSCRED => socket.passes_credentials().into(),
        SO_ACCEPTCONN => socket.is_listening().into(),
        SO_SNDBUF => socket.buffer_sizes[0].load(Ordering::Relaxed),
        SO_RCVBUF => socket.buffer_sizes[1].load(Ordering::Relaxed),
        SO_PEERCRED => {
            let peer = socket.peer();
            // Nobody yet: process 0, and the ids of nobody.
            let (uid, gid) = if peer.pid == 0 { (u32::MAX, u32::MAX) } else { (peer.uid, peer.gid) };
            return Ok([peer.pid.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat());
        }
        SO_LINGER => return Ok(socket.linger.load(Ordering::Relaxed).to_le_bytes().to_vec()),
        SO_REUSEADDR | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE | SO_OOBINLINE | SO_REUSEPORT => {
            u32::from(socket.switches.load(Ordering::Relaxed) & 1 << option != 0)
        }
        SO_RCVTIMEO | SO_SNDTIMEO => {
            let micros = timeout_of(socket, option).load(Ordering::Relaxed);
            return Ok([(micros / 1_000_000).to_le_bytes(), (micros % 1_000_000).to_le_bytes()].concat());
        }
        SO_PEERNAME => return Ok(super::address::unix_address(&socket.peer_name()?)),
        SO_PEERSEC => return Err(Errno::ENOPROTOOPT),
        _ => common(option)?,
    };
    Ok(number.to_le_bytes().to_vec())
}
