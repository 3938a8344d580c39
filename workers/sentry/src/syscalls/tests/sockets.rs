//! AF_UNIX from registers to answers; the internet's sockets.

use super::guest::Guest;
use crate::errno::Errno;
use crate::vfs::flags::*;

const UNIX: u64 = 1;
const STREAM: u64 = 1;
const DGRAM: u64 = 2;
const SEQPACKET: u64 = 5;
const DONTWAIT: u64 = 0x40;
const NOSIGNAL: u64 = 0x4000;

fn address(guest: &Guest, name: &[u8]) -> (u64, u64) {
    let bytes = [&1u16.to_le_bytes()[..], name].concat();
    (guest.put(&bytes), bytes.len() as u64)
}

fn send(guest: &Guest, fd: u64, bytes: &[u8]) -> Result<u64, Errno> {
    guest.call("sendto", &[fd, guest.put(bytes), bytes.len() as u64, DONTWAIT | NOSIGNAL, 0, 0])
}

fn receive(guest: &Guest, fd: u64, most: usize) -> Result<Vec<u8>, Errno> {
    let room = guest.room(most);
    let count = guest.call("recvfrom", &[fd, room, most as u64, DONTWAIT, 0, 0])?;
    Ok(guest.get(room, count as usize))
}

#[test]
fn streams_join_bytes_and_messages_keep_apart() {
    let guest = Guest::new();
    let (a, b) = guest.pair("socketpair", &[UNIX, STREAM, 0]);
    send(&guest, a, b"one").unwrap();
    send(&guest, a, b"two").unwrap();
    assert_eq!(receive(&guest, b, 100).unwrap(), b"onetwo");
    let (c, d) = guest.pair("socketpair", &[UNIX, SEQPACKET, 0]);
    send(&guest, c, b"one").unwrap();
    send(&guest, c, b"two").unwrap();
    assert_eq!(receive(&guest, d, 2).unwrap(), b"on");
    assert_eq!(receive(&guest, d, 100).unwrap(), b"two");
    // The end of a stream, and a stream whose other end is gone.
    guest.call("shutdown", &[a, 1]).unwrap();
    assert_eq!(receive(&guest, b, 100).unwrap(), b"");
    assert_eq!(send(&guest, a, b"x"), Err(Errno::EPIPE));
    send(&guest, b, b"still").unwrap();
    assert_eq!(receive(&guest, a, 100).unwrap(), b"still");
    guest.call("close", &[a]).unwrap();
    assert_eq!(send(&guest, b, b"x"), Err(Errno::EPIPE));
    assert_eq!(receive(&guest, 99, 1), Err(Errno::EBADF));
    let file = guest.open("/f", O_CREAT | O_RDWR);
    assert_eq!(receive(&guest, file, 1), Err(Errno::ENOTSOCK));
}

#[test]
fn a_full_stream_makes_its_writer_wait() {
    let guest = Guest::new();
    let (a, b) = guest.pair("socketpair", &[UNIX, STREAM, 0]);
    let data: Vec<u8> = (0..400_000u32).map(|n| (n / 3) as u8).collect();
    let source = guest.put(&data);
    let mut writing = Some(guest.wait("write", &[a, source, data.len() as u64]));
    let room = guest.room(100_000);
    let mut seen = Vec::new();
    while seen.len() < data.len() {
        let count = guest.call("recvfrom", &[b, room, 100_000, 0, 0, 0]).unwrap();
        seen.extend(guest.get(room, count as usize));
        if let Some(waiting) = writing.take() {
            match guest.resume(waiting) {
                Ok(Ok(count)) => assert_eq!(count, data.len() as u64),
                Ok(Err(again)) => writing = Some(again),
                Err(errno) => panic!("{errno}"),
            }
        }
    }
    assert!(seen == data && writing.is_none());
}

#[test]
fn names_in_the_tree_and_abstract_ones() {
    let guest = Guest::new();
    for name in [&b"/tmp/socket"[..], b"\0abstract"] {
        let listener = guest.call("socket", &[UNIX, STREAM, 0]).unwrap();
        let (at, length) = address(&guest, name);
        let client = guest.call("socket", &[UNIX, STREAM, 0]).unwrap();
        let nobody = guest.call("connect", &[client, at, length]).unwrap_err();
        assert!(matches!(nobody, Errno::ENOENT | Errno::ECONNREFUSED), "{nobody}");
        guest.call("bind", &[listener, at, length]).unwrap();
        assert_eq!(guest.call("connect", &[client, at, length]), Err(Errno::ECONNREFUSED));
        guest.call("listen", &[listener, 1]).unwrap();
        let second = guest.call("socket", &[UNIX, STREAM, 0]).unwrap();
        assert_eq!(guest.call("bind", &[second, at, length]), Err(Errno::EADDRINUSE));
        let accepting = guest.wait("accept", &[listener, 0, 0]);
        guest.call("connect", &[client, at, length]).unwrap();
        send(&guest, client, b"early").unwrap();
        let server = guest.finish(accepting);
        assert_eq!(receive(&guest, server, 100).unwrap(), b"early");
        let wrong = guest.call("socket", &[UNIX, DGRAM, 0]).unwrap();
        assert_eq!(guest.call("connect", &[wrong, at, length]), Err(Errno::EPROTOTYPE));
        // SO_PEERCRED is the other side.
        let (value, size) = (guest.room(12), guest.put(&12u32.to_le_bytes()));
        guest.call("getsockopt", &[server, 1, 17, value, size]).unwrap();
        assert_eq!(guest.get(value, 4), 1u32.to_le_bytes());
        guest.call("close", &[listener]).unwrap();
        assert_eq!(guest.call("connect", &[second, at, length]), Err(Errno::ECONNREFUSED));
    }
}

#[test]
fn datagrams_find_their_way() {
    let guest = Guest::new();
    let server = guest.call("socket", &[UNIX, DGRAM, 0]).unwrap();
    let (at, length) = address(&guest, b"\0server");
    guest.call("bind", &[server, at, length]).unwrap();
    let client = guest.call("socket", &[UNIX, DGRAM, 0]).unwrap();
    assert_eq!(send(&guest, client, b"where"), Err(Errno::ENOTCONN));
    let (own, own_length) = address(&guest, b"\0client");
    guest.call("bind", &[client, own, own_length]).unwrap();
    guest.call("sendto", &[client, guest.put(b"hello"), 5, 0, at, length]).unwrap();
    let (room, from, size) = (guest.room(100), guest.room(110), guest.put(&110u32.to_le_bytes()));
    assert_eq!(guest.call("recvfrom", &[server, room, 100, 0, from, size]), Ok(5));
    assert_eq!(guest.get(from + 2, 7), b"\0client");
    assert_eq!(guest.get(size, 4), 9u32.to_le_bytes());
}

/// `struct msghdr` with one buffer and control data.
fn header(guest: &Guest, buffer: (u64, u64), control: (u64, u64)) -> u64 {
    let vector = guest.put(&[buffer.0.to_le_bytes(), buffer.1.to_le_bytes()].concat());
    let words = [0, 0, vector, 1, control.0, control.1, 0];
    guest.put(&words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect::<Vec<u8>>())
}

#[test]
fn files_travel_in_messages() {
    let guest = Guest::new();
    let (a, b) = guest.pair("socketpair", &[UNIX, STREAM, 0]);
    let (r, w) = guest.pair("pipe2", &[0]);
    let rights = |fds: &[u64]| {
        let mut bytes = Vec::new();
        bytes.extend((16 + 4 * fds.len() as u64).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        fds.iter().for_each(|fd| bytes.extend((*fd as u32).to_le_bytes()));
        (guest.put(&bytes), bytes.len() as u64)
    };
    assert_eq!(
        guest.call("sendmsg", &[a, header(&guest, (guest.put(b"x"), 1), rights(&[99])), 0]),
        Err(Errno::EBADF)
    );
    guest.call("sendmsg", &[a, header(&guest, (guest.put(b"with"), 4), rights(&[w])), 0]).unwrap();
    send(&guest, a, b"without").unwrap();
    guest.call("close", &[w]).unwrap();
    let (room, control) = (guest.room(64), guest.room(64));
    let message = header(&guest, (room, 64), (control, 64));
    // A read stops behind the bytes that brought files.
    assert_eq!(guest.call("recvmsg", &[b, message, 0x4000_0000]), Ok(4));
    let raw = guest.get(control, 20);
    assert_eq!(u64::from_le_bytes(raw[..8].try_into().unwrap()), 20);
    let received = u64::from(u32::from_le_bytes(raw[16..].try_into().unwrap()));
    assert_eq!(guest.call("fcntl", &[received, 1]), Ok(1));
    guest.write(received, b"through").unwrap();
    assert_eq!(guest.read(r, 100).unwrap(), b"through");
    assert_eq!(receive(&guest, b, 100).unwrap(), b"without");
    // Files that nobody fetches are closed with the socket: the pipe has no writer any more.
    guest.call("sendmsg", &[a, header(&guest, (guest.put(b"x"), 1), rights(&[received])), 0]).unwrap();
    guest.call("close", &[received]).unwrap();
    guest.call("close", &[b]).unwrap();
    assert_eq!(guest.read(r, 100).unwrap(), b"");
    // Too little room for control data cuts it off, and says so.
    let (a, b) = guest.pair("socketpair", &[UNIX, DGRAM, 0]);
    guest.call("sendmsg", &[a, header(&guest, (guest.put(b"x"), 1), rights(&[r])), 0]).unwrap();
    let message = header(&guest, (room, 64), (control, 8));
    assert_eq!(guest.call("recvmsg", &[b, message, 0]), Ok(1));
    const CTRUNC: u8 = 8;
    assert_eq!(guest.get(message + 48, 1), [CTRUNC]);
}

#[test]
fn the_internet_is_unreachable_at_once() {
    let guest = Guest::new();
    for (family, size) in [(2u16, 16), (10, 28)] {
        let mut to = vec![0; size];
        to[..2].copy_from_slice(&family.to_le_bytes());
        to[2..4].copy_from_slice(&80u16.to_be_bytes());
        let at = guest.put(&to);
        let stream = guest.call("socket", &[family.into(), STREAM, 0]).unwrap();
        assert_eq!(guest.call("connect", &[stream, at, size as u64]), Err(Errno::ENETUNREACH));
        guest.call("bind", &[stream, at, size as u64]).unwrap();
        guest.call("listen", &[stream, 5]).unwrap();
        let datagram = guest.call("socket", &[family.into(), DGRAM, 0]).unwrap();
        let sent = guest.call("sendto", &[datagram, guest.put(b"x"), 1, 0, at, size as u64]);
        assert_eq!(sent, Err(Errno::ENETUNREACH));
    }
    assert_eq!(guest.call("socket", &[16, 3, 0]), Err(Errno::EAFNOSUPPORT));
    assert_eq!(guest.call("socket", &[2, 3, 1]), Err(Errno::EPERM));
}

#[test]
fn sockets_in_sockets_are_closed_however_deep() {
    use crate::net::unix::{Endpoint, Outgoing, Peer, SocketFile, Type};
    let guest = Guest::new();
    let open = |socket| guest.kernel.vfs().anonymous_file("socket", 2, Box::new(SocketFile(socket)));
    let (innermost, watched) = Endpoint::pair(Type::Stream, Peer::default());
    let mut file = open(innermost);
    for _ in 0..50_000 {
        let (from, to) = Endpoint::pair(Type::Datagram, Peer::default());
        let outgoing = Outgoing { data: b"x", peer: Peer::default(), files: vec![file], target: None };
        assert_eq!(from.send(outgoing), Ok(1));
        file = open(to);
    }
    assert_eq!(watched.read(&mut [0; 1]), Err(Errno::EAGAIN));
    drop(file);
    assert_eq!(watched.read(&mut [0; 1]), Ok(0));
}
