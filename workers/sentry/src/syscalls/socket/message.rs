//! Sending and receiving.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::address::{self, AF_UNIX, find, unix_address, unix_name};
use super::{Socket, broken, control, may_not_wait, myself, socket_of};
use crate::call::{Args, Fail, Restart, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::net::unix::{BUFFER, Endpoint, Outgoing, Peer, Received, Take, Type};
use crate::syscalls::Entry;
use crate::syscalls::file::{GuestBuffers, until_ready, wait_for, with_buffer};
use crate::vfs::OpenFile;
use crate::wait::Events;

pub(super) const TABLE: &[Entry] =
    &[
        Entry::partial(44, "sendto", sendto, "MSG_OOB: EOPNOTSUPP; the internet's families: ENETUNREACH")
            .by(&["noted:sockets", "sockets:datagrams", "sockets:packets"]),
        Entry::partial(45, "recvfrom", recvfrom, "MSG_OOB: EOPNOTSUPP")
            .by(&["noted:sockets", "sockets:datagrams"]),
        Entry::partial(46, "sendmsg", sendmsg, "MSG_OOB: EOPNOTSUPP; the internet's families: ENETUNREACH")
            .by(&["noted:sockets", "sockets:control_messages"]),
        Entry::partial(47, "recvmsg", recvmsg, "MSG_OOB and MSG_ERRQUEUE: EOPNOTSUPP").by(&[
            "noted:sockets",
            "sockets:control_messages",
            "sockets:packets",
        ]),
        Entry::partial(299, "recvmmsg", recvmmsg, "as recvmsg").by(&["sockets:batches"]),
        Entry::partial(307, "sendmmsg", sendmmsg, "as sendmsg").by(&["noted:sockets", "sockets:batches"]),
    ];

const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_CTRUNC: u32 = 0x8;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_ERRQUEUE: u32 = 0x2000;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// Messages of one sendmmsg or recvmmsg.
const MAX_BATCH: u32 = 1024;
/// Bytes of a stream that are sent or received at a time.
const CHUNK: usize = 64 << 10;

/// `struct msghdr`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MessageHeader {
    name: u64,
    name_length: u32,
    pad: u32,
    buffers: u64,
    buffer_count: u64,
    control: u64,
    control_length: u64,
    flags: u32,
    pad_end: u32,
}

/// Bytes of a `struct mmsghdr`: a header and a length.
const BATCH_ENTRY: u64 = 64;

/// A message to be sent, still in guest memory.
struct ToSend {
    buffers: GuestBuffers,
    target: Option<Arc<Endpoint>>,
    sent: control::Sent,
    flags: u32,
}

fn sendto(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::one(args.u64(1), args.u64(2))?;
    let target = target_of(cx, &file, args.u64(4), args.uint(5))?;
    let message = ToSend { buffers, target, sent: control::Sent::default(), flags: args.uint(3) };
    send(cx, &file, message)
}

fn sendmsg(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    send_header(cx, &file, args.u64(1), args.uint(2))
}

fn send_header(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, address: u64, flags: u32) -> SysResult {
    let header: MessageHeader = cx.memory.read_value(address)?;
    let buffers = GuestBuffers::vector(cx, header.buffers, header.buffer_count)
        .map_err(|errno| if header.buffer_count > 1024 { Errno::EMSGSIZE } else { errno })?;
    let target = target_of(cx, file, header.name, header.name_length)?;
    let sent = control::read(cx, header.control, header.control_length)?;
    send(cx, file, ToSend { buffers, target, sent, flags })
}

fn target_of(cx: &Ctx<'_>, file: &OpenFile, name: u64, length: u32) -> Result<Option<Arc<Endpoint>>, Errno> {
    match socket_of(file)? {
        Socket::Inet(socket) if socket.kind == 1 => return Err(Errno::EPIPE),
        Socket::Inet(_) => return Err(if name == 0 { Errno::EDESTADDRREQ } else { Errno::ENETUNREACH }),
        Socket::Unix(socket) if name != 0 && length != 0 => {
            if socket.kind != Type::Datagram {
                // Streams don't look at it if they are connected.
                return if socket.peer_name().is_ok() { Err(Errno::EISCONN) } else { Err(Errno::EOPNOTSUPP) };
            }
        }
        Socket::Unix(_) => return Ok(None),
    }
    let (family, bytes) = address::read(cx, name, length)?;
    if family != AF_UNIX {
        return Err(Errno::EINVAL);
    }
    let target = find(cx, &unix_name(&bytes)?)?;
    if target.kind == Type::Datagram { Ok(Some(target)) } else { Err(Errno::EPROTOTYPE) }
}

fn send(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, message: ToSend) -> SysResult {
    let Socket::Unix(socket) = socket_of(file)? else { return Err(Errno::ENETUNREACH.into()) };
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let timeout = socket.send_timeout.load(Ordering::Relaxed);
    let dont_wait = may_not_wait(cx, file, message.flags & MSG_DONTWAIT != 0, timeout);
    let quiet = message.flags & MSG_NOSIGNAL != 0;
    let peer = message.sent.peer.unwrap_or_else(|| myself(cx));
    let result = if socket.kind == Type::Stream {
        until_ready(cx, file, Events::OUT, dont_wait, |cx| send_stream(cx, socket, &message, peer, dont_wait))
    } else {
        send_message(cx, file, socket, &message, peer, dont_wait)
    };
    match result {
        Ok(count) => {
            cx.count_written(count as u64);
            Ok(count as u64)
        }
        Err(fail) => {
            let fail = broken(cx, fail, quiet);
            let progress = cx.call.progress;
            if fail == Fail::Errno(Errno::EPIPE) && progress > 0 { Ok(progress) } else { Err(fail) }
        }
    }
}

fn send_stream(
    cx: &mut Ctx<'_>,
    socket: &Endpoint,
    message: &ToSend,
    peer: Peer,
    dont_wait: bool,
) -> Result<usize, Fail> {
    let total = message.buffers.len();
    loop {
        let done = cx.call.progress as usize;
        if done >= total {
            return Ok(done);
        }
        let step = with_buffer((total - done).min(CHUNK), |bytes| {
            let got = message.buffers.get(&cx.memory, done, bytes);
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            // Files go with the first byte.
            let files = if done == 0 { message.sent.files.clone() } else { Vec::new() };
            socket.send(Outgoing { data: &bytes[..got], peer, files, target: None })
        });
        match step {
            Ok(count) => cx.call.progress += count as u64,
            Err(Errno::EAGAIN) if done > 0 && dont_wait => return Ok(done),
            Err(Errno::EFAULT) if done > 0 => return Ok(done),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn send_message(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    socket: &Arc<Endpoint>,
    message: &ToSend,
    peer: Peer,
    dont_wait: bool,
) -> Result<usize, Fail> {
    let total = message.buffers.len();
    if total > BUFFER {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut data = vec![0; total];
    if message.buffers.get(&cx.memory, 0, &mut data) < total {
        return Err(Errno::EFAULT.into());
    }
    let attempt = |_: &mut Ctx<'_>| {
        let (files, target) = (message.sent.files.clone(), message.target.clone());
        socket.send(Outgoing { data: &data, peer, files, target })
    };
    match &message.target {
        Some(target) if !dont_wait => wait_for(cx, target.room_queue(), Restart::Sys, attempt),
        _ => until_ready(cx, file, Events::OUT, dont_wait, |cx| Ok(attempt(cx)?)),
    }
}

fn recvfrom(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::one(args.u64(1), args.u64(2))?;
    let flags = args.uint(3);
    let received = receive(cx, &file, &buffers, flags, false)?;
    if args.u64(4) != 0 {
        write_sender(cx, &file, &received, args.u64(4), args.u64(5))?;
    }
    Ok(answer_length(&received, flags))
}

/// Writes the sender's name. A connection has none: the length is 0.
fn write_sender(
    cx: &Ctx<'_>,
    file: &OpenFile,
    received: &Received,
    name: u64,
    length: u64,
) -> Result<(), Errno> {
    let Socket::Unix(socket) = socket_of(file)? else { return Ok(()) };
    let named = socket.kind == Type::Datagram && !received.from.is_empty();
    let bytes = if named { unix_address(&received.from) } else { Vec::new() };
    address::write(cx, &bytes, name, length)
}

fn answer_length(received: &Received, flags: u32) -> u64 {
    (if flags & MSG_TRUNC != 0 { received.length } else { received.count }) as u64
}

fn receive(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    flags: u32,
    files: bool,
) -> Result<Received, Fail> {
    if flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        let errno = if flags & MSG_ERRQUEUE != 0 { Errno::EAGAIN } else { Errno::EOPNOTSUPP };
        return Err(errno.into());
    }
    let socket = match socket_of(file)? {
        Socket::Unix(socket) => socket,
        Socket::Inet(socket) if socket.kind == 1 => return Err(Errno::ENOTCONN.into()),
        Socket::Inet(_) => {
            let dont_wait = flags & MSG_DONTWAIT != 0 || file.is_nonblocking();
            return until_ready(cx, file, Events::IN, dont_wait, |_| Err(Errno::EAGAIN.into()));
        }
    };
    let timeout = socket.receive_timeout.load(Ordering::Relaxed);
    let dont_wait = may_not_wait(cx, file, flags & MSG_DONTWAIT != 0, timeout);
    let take = Take { peek: flags & MSG_PEEK != 0, files };
    let wait_all = flags & (MSG_WAITALL | MSG_PEEK) == MSG_WAITALL && socket.kind == Type::Stream;
    let received = until_ready(cx, file, Events::IN, dont_wait, |cx| {
        receive_now(cx, socket, buffers, take, wait_all && !dont_wait)
    })?;
    cx.count_read(received.count as u64);
    Ok(received)
}

fn receive_now(
    cx: &mut Ctx<'_>,
    socket: &Endpoint,
    buffers: &GuestBuffers,
    take: Take,
    wait_all: bool,
) -> Result<Received, Fail> {
    let stream = socket.kind == Type::Stream;
    let mut all = Received { count: cx.call.progress as usize, ..Received::default() };
    loop {
        let left = buffers.len() - all.count;
        if stream && left == 0 {
            break;
        }
        let most = if stream { left.min(CHUNK) } else { left.min(BUFFER) };
        let step = receive_chunk(cx, socket, buffers, take, all.count, most);
        match step {
            Ok((received, stored)) => {
                let end = received.count == 0 || stored < received.count;
                all.count += stored;
                if stored < received.count && stored == 0 && all.count == 0 {
                    return Err(Errno::EFAULT.into());
                }
                let more = stream && !take.peek && !end && received.files.is_empty();
                all.peer = received.peer.or(all.peer);
                all.from = received.from;
                all.files.extend(received.files);
                if !stream {
                    all.length = received.length;
                    return Ok(all);
                }
                if wait_all {
                    cx.call.progress = all.count as u64;
                }
                if !more || received.count < most && !wait_all {
                    break;
                }
            }
            Err(Errno::EAGAIN) if all.count > 0 && !wait_all => break,
            Err(errno @ Errno::EAGAIN) => return Err(errno.into()),
            Err(_) if all.count > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    all.length = all.count;
    Ok(all)
}

/// Receives once, into guest memory; answers what came and how much of it could be stored.
fn receive_chunk(
    cx: &Ctx<'_>,
    socket: &Endpoint,
    buffers: &GuestBuffers,
    take: Take,
    skip: usize,
    most: usize,
) -> Result<(Received, usize), Errno> {
    let mut large;
    if most > CHUNK {
        large = vec![0; most];
        let received = socket.receive(&mut large, take)?;
        let stored = buffers.put(&cx.memory, skip, &large[..received.count]);
        return Ok((received, stored));
    }
    with_buffer(most, |bytes| {
        let received = socket.receive(bytes, take)?;
        let stored = buffers.put(&cx.memory, skip, &bytes[..received.count]);
        Ok((received, stored))
    })
}

fn recvmsg(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    receive_header(cx, &file, args.u64(1), args.uint(2))
}

fn receive_header(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, address: u64, flags: u32) -> SysResult {
    let mut header: MessageHeader = cx.memory.read_value(address)?;
    let buffers = GuestBuffers::vector(cx, header.buffers, header.buffer_count)?;
    let mut received = receive(cx, file, &buffers, flags, true)?;
    let mut out_flags = flags & MSG_CMSG_CLOEXEC;
    if received.count < received.length {
        out_flags |= MSG_TRUNC;
    }
    let Socket::Unix(socket) = socket_of(file)? else { return Err(Errno::ENOTCONN.into()) };
    if header.name != 0 {
        let named = socket.kind == Type::Datagram && !received.from.is_empty();
        let bytes = if named { unix_address(&received.from) } else { Vec::new() };
        let room = (header.name_length as usize).min(bytes.len());
        cx.memory.write(header.name, &bytes[..room])?;
        header.name_length = bytes.len() as u32;
    }
    let peer = if socket.passes_credentials() { Some(received.peer.unwrap_or_default()) } else { None };
    let room = if header.control == 0 { 0 } else { header.control_length.min(1 << 20) as usize };
    let close_on_exec = flags & MSG_CMSG_CLOEXEC != 0;
    let files = std::mem::take(&mut received.files);
    let (control, cut) = control::build(cx, room, peer, files, close_on_exec);
    if cut {
        out_flags |= MSG_CTRUNC;
    }
    if !control.is_empty() {
        cx.memory.write(header.control, &control)?;
    }
    header.control_length = control.len() as u64;
    header.flags = out_flags;
    cx.memory.write_value(address, &header)?;
    Ok(answer_length(&received, flags))
}

fn sendmmsg(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    socket_of(&file)?;
    let count = args.uint(2).min(MAX_BATCH);
    for n in 0..u64::from(count) {
        let entry = args.u64(1).wrapping_add(n * BATCH_ENTRY);
        // Only the first may wait: what has been sent must not be sent again.
        let flags = if n == 0 { args.uint(3) } else { args.uint(3) | MSG_DONTWAIT };
        match send_header(cx, &file, entry, flags) {
            Ok(sent) => {
                cx.call.progress = 0;
                cx.memory.write_value(entry.wrapping_add(56), &(sent as u32))?;
            }
            Err(_) if n > 0 => return Ok(n),
            Err(fail) => return Err(fail),
        }
    }
    Ok(count.into())
}

fn recvmmsg(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const MSG_WAITFORONE: u32 = 0x1_0000;
    let file = cx.files().get_io(args.int(0))?;
    socket_of(&file)?;
    let count = args.uint(2).min(MAX_BATCH);
    if args.u64(4) != 0 {
        let [seconds, nanoseconds]: [i64; 2] = cx.memory.read_value(args.u64(4))?;
        if seconds < 0 || !(0..1_000_000_000).contains(&nanoseconds) {
            return Err(Errno::EINVAL.into());
        }
        cx.call.wait_at_most(Duration::new(seconds as u64, nanoseconds as u32));
    }
    let wait_for_one = args.uint(3) & MSG_WAITFORONE != 0;
    let flags = args.uint(3) & !MSG_WAITFORONE;
    // What has been received before the call waited for the rest.
    let before =
        cx.call.held.take().and_then(|held| held.downcast::<Batch>().ok()).map_or(0, |batch| batch.0);
    cx.call.progress = 0;
    for n in before..u64::from(count) {
        let entry = args.u64(1).wrapping_add(n * BATCH_ENTRY);
        let flags = if n > 0 && wait_for_one { flags | MSG_DONTWAIT } else { flags };
        match receive_header(cx, &file, entry, flags) {
            Ok(received) => cx.memory.write_value(entry.wrapping_add(56), &(received as u32))?,
            Err(fail @ Fail::Park(_)) if n > 0 => {
                // A signal ends the call with what is there.
                cx.call.progress = n;
                cx.call.held = Some(Arc::new(Batch(n)));
                return Err(fail);
            }
            Err(_) if n > 0 => return Ok(n),
            Err(fail) => return Err(fail),
        }
        if args.u64(4) != 0 && cx.call.timed_out() {
            return Ok(n + 1);
        }
    }
    Ok(count.into())
}

/// How many messages recvmmsg has received.
struct Batch(u64);
