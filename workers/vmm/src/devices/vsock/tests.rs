use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::packet::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use super::*;
use crate::devices::mmio::testing::{DATA, Driver, readable, writable};

const TO_GUEST: u32 = 0;
const FROM_GUEST: u32 = 1;
const PORT: u32 = 1024;
const GUEST_PORT: u32 = 5000;
const PACKET: u64 = DATA;
const RECEIVED: u64 = DATA + 0x2_0000;
const BUFFER: u32 = 4096;

/// A guest by hand, with one port that is connected to `ours`.
struct Guest {
    driver: Driver,
    ours: UnixStream,
    seen: usize,
    offered: usize,
    room: u32,
    forwarded: u32,
}

impl Guest {
    fn new() -> Self {
        let (device, ours) = UnixStream::pair().expect("a pair");
        device.set_nonblocking(true).expect("non-blocking");
        ours.set_nonblocking(true).expect("non-blocking");
        let writer = OwnedFd::from(device.try_clone().expect("a second descriptor"));
        let port = Port { number: PORT, from_host: Some(device.into()), to_host: Some(writer) };
        let driver = Driver::started(Box::new(Vsock::new(vec![port])));
        Self { driver, ours, seen: 0, offered: 0, room: 1 << 20, forwarded: 0 }
    }

    fn connected() -> Self {
        let mut guest = Self::new();
        guest.send(Operation::Request, 0, b"");
        assert_eq!(guest.receive().map(|(header, _)| header.operation), Some(Operation::Response as u16));
        guest
    }

    fn header(&self, operation: Operation, flags: u32, length: usize) -> Header {
        Header {
            source_cid: GUEST_CID,
            destination_cid: HOST_CID,
            source_port: GUEST_PORT,
            destination_port: PORT,
            length: length as u32,
            kind: STREAM,
            operation: operation as u16,
            flags,
            buffer_bytes: self.room,
            forwarded: self.forwarded,
        }
    }

    fn send(&mut self, operation: Operation, flags: u32, data: &[u8]) {
        self.send_raw(self.header(operation, flags, data.len()), data);
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.driver.put(PACKET, &header.to_bytes());
        self.driver.put(PACKET + HEADER_BYTES as u64, data);
        let buffers = [
            readable(PACKET, HEADER_BYTES as u32),
            readable(PACKET + HEADER_BYTES as u64, data.len() as u32),
        ];
        self.driver.chain(FROM_GUEST, if data.is_empty() { &buffers[..1] } else { &buffers });
        self.driver.device.serve();
        self.driver.device.reap(&|_| false);
    }

    /// Offers a buffer; what the device has to say.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        // One buffer at a time, so that no packet lands on another.
        if self.offered == self.seen {
            self.offered += 1;
            self.driver.chain(
                TO_GUEST,
                &[writable(RECEIVED, HEADER_BYTES as u32), writable(RECEIVED + 0x1000, BUFFER)],
            );
            self.driver.device.serve();
            self.driver.device.reap(&|_| false);
        }
        let used = self.driver.used(TO_GUEST);
        let (_, bytes) = *used.get(self.seen)?;
        self.seen += 1;
        let header = self.driver.bytes(RECEIVED, HEADER_BYTES).try_into().expect("a header");
        let header = Header::from_bytes(&header);
        assert_eq!(bytes as usize, HEADER_BYTES + header.length as usize);
        assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, GUEST_CID));
        let data = self.driver.bytes(RECEIVED + 0x1000, header.length as usize);
        self.forwarded = self.forwarded.wrapping_add(header.length);
        Some((header, data))
    }

    fn operation(&mut self) -> Option<(Operation, u32)> {
        let (header, _) = self.receive()?;
        Some((Operation::from_number(header.operation).expect("an operation"), header.flags))
    }

    fn read(&mut self) -> Vec<u8> {
        let mut all = vec![0; 1 << 20];
        let count = self.ours.read(&mut all).unwrap_or(0);
        all.truncate(count);
        all
    }

    /// Whether the device has closed its side.
    fn is_closed(&mut self) -> bool {
        matches!(self.ours.read(&mut [0; 1]), Ok(0))
    }
}

#[test]
fn headers_are_what_they_were() {
    let header = Header {
        source_cid: 0x0102_0304_0506_0708,
        destination_cid: 9,
        source_port: 10,
        destination_port: 11,
        length: 12,
        kind: 13,
        operation: 14,
        flags: 15,
        buffer_bytes: 16,
        forwarded: 17,
    };
    assert_eq!(Header::from_bytes(&header.to_bytes()), header);
}

#[test]
fn bytes_go_both_ways() {
    let mut guest = Guest::connected();
    guest.send(Operation::Data, 0, b"from the guest");
    assert_eq!(guest.read(), b"from the guest");
    guest.ours.write_all(b"from the host").expect("sent");
    let (header, data) = guest.receive().expect("a packet");
    assert_eq!((header.operation, &data[..]), (Operation::Data as u16, &b"from the host"[..]));
    assert_eq!(header.forwarded, 14);
}

#[test]
fn a_port_is_connected_once_and_others_not_at_all() {
    let mut guest = Guest::new();
    let mut other = guest.header(Operation::Request, 0, 0);
    other.destination_port = 4711;
    guest.send_raw(other, b"");
    let (header, _) = guest.receive().expect("an answer");
    assert_eq!((header.operation, header.source_port), (Operation::Reset as u16, 4711));
    guest.send(Operation::Request, 0, b"");
    assert_eq!(guest.operation(), Some((Operation::Response, 0)));
    let mut second = guest.header(Operation::Request, 0, 0);
    second.source_port += 1;
    guest.send_raw(second, b"");
    let (header, _) = guest.receive().expect("an answer");
    assert_eq!((header.operation, header.destination_port), (Operation::Reset as u16, GUEST_PORT + 1));
    guest.send(Operation::Data, 0, b"still there");
    assert_eq!(guest.read(), b"still there");
    guest.send(Operation::Shutdown, SHUTDOWN_SEND | SHUTDOWN_RECEIVE, b"");
    assert_eq!(guest.operation(), Some((Operation::Reset, 0)));
    guest.send(Operation::Request, 0, b"");
    assert_eq!(guest.operation(), Some((Operation::Reset, 0)));
}

#[test]
fn resets_are_never_answered_and_wrong_types_and_contexts_are() {
    let mut guest = Guest::new();
    guest.send(Operation::Reset, 0, b"");
    assert_eq!(guest.receive(), None);
    type Change = fn(&mut Header);
    let changes: [Change; 3] =
        [|header| header.kind = 2, |header| header.source_cid = 9, |header| header.destination_cid = 1];
    for change in changes {
        let mut header = guest.header(Operation::Request, 0, 0);
        change(&mut header);
        guest.send_raw(header, b"");
        assert_eq!(guest.operation(), Some((Operation::Reset, 0)));
    }
}

#[test]
fn the_guest_s_end_comes_after_its_last_byte() {
    let mut guest = Guest::connected();
    guest.send(Operation::Data, 0, b"last");
    guest.send(Operation::Shutdown, SHUTDOWN_SEND, b"");
    assert_eq!(guest.read(), b"last");
    assert!(guest.is_closed(), "the end of what the guest sends, though it still receives");
    guest.ours.write_all(b"answer").expect("sent");
    assert_eq!(guest.receive().expect("a packet").1, b"answer");
    guest.send(Operation::Data, 0, b"more");
    assert_eq!(guest.operation(), Some((Operation::Reset, 0)), "data after the end");
    assert!(guest.is_closed());
}

#[test]
fn the_host_s_end_is_told_after_its_last_byte() {
    let mut guest = Guest::connected();
    guest.ours.write_all(b"last").expect("sent");
    guest.ours.shutdown(std::net::Shutdown::Write).expect("an end");
    assert_eq!(guest.receive().expect("a packet").1, b"last");
    assert_eq!(guest.operation(), Some((Operation::Shutdown, SHUTDOWN_SEND)));
    assert_eq!(guest.receive(), None);
    guest.send(Operation::Data, 0, b"the guest still sends");
    assert_eq!(guest.read(), b"the guest still sends");
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut guest = Guest::new();
    guest.room = 10;
    guest.send(Operation::Request, 0, b"");
    assert_eq!(guest.operation(), Some((Operation::Response, 0)));
    guest.ours.write_all(&[1; 25]).expect("sent");
    assert_eq!(guest.receive().expect("a packet").1.len(), 10);
    assert_eq!(guest.receive(), None);
    // The buffer that waits is filled as soon as the guest tells of room, whatever it claims to have consumed.
    guest.send(Operation::CreditUpdate, 0, b"");
    assert_eq!(guest.receive().expect("a packet").1.len(), 10);
    guest.forwarded = 4_000_000_000;
    guest.room = u32::MAX;
    guest.send(Operation::CreditUpdate, 0, b"");
    assert_eq!(guest.receive().map(|(_, data)| data.len()), Some(5));
    guest.forwarded = 1 << 31;
    guest.room = 5;
    guest.send(Operation::CreditUpdate, 0, b"");
    guest.ours.write_all(&[1; 25]).expect("sent");
    assert_eq!(guest.receive(), None);
}

#[test]
fn what_the_host_does_not_take_is_bounded() {
    let mut guest = Guest::connected();
    let mut sent = 0;
    let reset = loop {
        guest.send(Operation::Data, 0, &[3; 4096]);
        sent += 4096;
        assert!(sent < 4 << 20, "the device takes without end");
        match guest.operation() {
            Some((Operation::Reset, _)) => break true,
            Some((Operation::CreditUpdate, _)) | None => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(reset && sent > BUFFER_BYTES);
    assert_eq!(guest.driver.device.broken(), None);
}

#[test]
fn credit_comes_back_as_the_host_takes() {
    let mut guest = Guest::connected();
    let mut told = 0;
    for round in 1..=64u32 {
        guest.send(Operation::Data, 0, &[1; 4096]);
        assert_eq!(guest.read().len(), 4096);
        if let Some((header, _)) = guest.receive() {
            assert_eq!(header.operation, Operation::CreditUpdate as u16);
            assert_eq!((header.forwarded, header.buffer_bytes), (round * 4096, BUFFER_BYTES as u32));
            told += 1;
        }
    }
    assert_eq!(told, 64 * 4096 / (BUFFER_BYTES / 2));
    guest.send(Operation::CreditRequest, 0, b"");
    assert_eq!(guest.operation(), Some((Operation::CreditUpdate, 0)));
}

#[test]
fn a_flood_of_strangers_costs_a_bounded_number_of_answers() {
    let mut guest = Guest::new();
    for port in 0..5000 {
        let mut header = guest.header(Operation::Request, 0, 0);
        header.destination_port = 9999;
        header.source_port = port;
        guest.send_raw(header, b"");
    }
    let mut answers = 0;
    while guest.receive().is_some() {
        answers += 1;
    }
    assert_eq!(answers, MOST_REPLIES);
    guest.send(Operation::Request, 0, b"");
    assert_eq!(guest.operation(), Some((Operation::Response, 0)));
}

#[test]
fn packets_that_lie_about_their_length_break_the_device() {
    for length in [5, 65, 65_537, u32::MAX] {
        let mut guest = Guest::connected();
        let mut header = guest.header(Operation::Data, 0, 4);
        header.length = length;
        guest.send_raw(header, b"four");
        assert!(guest.driver.needs_reset(), "{length}");
    }
}

#[test]
fn a_reset_of_the_device_closes_its_streams() {
    let mut guest = Guest::connected();
    guest.driver.write(0x70, 0);
    guest.driver.device.serve();
    guest.driver.device.reap(&|_| false);
    assert!(guest.is_closed());
}

#[test]
fn connections_go_on_in_a_restored_device() {
    let pipe = || UnixStream::pair().expect("a pair");
    let (device, _ours) = pipe();
    let port = |stream: UnixStream| Port { number: PORT, from_host: None, to_host: Some(stream.into()) };
    let mut saved = Vsock::new(vec![port(device)]).state();
    assert_eq!(saved, VsockState::default());
    let request = Header { source_port: 7, buffer_bytes: 100, ..Header::default() };
    let mut connection = Connection::requested(&request);
    connection.push(b"waiting");
    saved.connections.push(connection.state(PORT));
    saved.connections.push(connection.state(4711));
    let (device, _ours) = pipe();
    let restored = Vsock::restore(saved.clone(), vec![port(device)]).state();
    assert_eq!(restored.connections, saved.connections[..1]);
    saved.connections[0].inbound = vec![0; BUFFER_BYTES + 1];
    let (device, _ours) = pipe();
    assert!(Vsock::restore(saved, vec![port(device)]).state().connections.is_empty());
}

proptest! {
    #[test]
    fn any_packets_are_survived_within_bounds(
        packets in proptest::collection::vec(
            (0u16..9, 0u32..5, prop_oneof![Just(PORT), any::<u32>()], prop_oneof![any::<u32>(), 0u32..200_000],
             any::<u32>(), 0usize..3000, any::<bool>()),
            0..60,
        ),
    ) {
        let mut guest = Guest::new();
        for (operation, flags, port, room, forwarded, length, host) in packets {
            let mut header = guest.header(Operation::Data, flags, length);
            (header.operation, header.destination_port) = (operation, port);
            (header.buffer_bytes, header.forwarded) = (room, forwarded);
            guest.send_raw(header, &vec![1; length]);
            if host { let _full = guest.ours.write(&[2; 100]); }
            let _any = guest.receive();
            prop_assert!(!guest.driver.needs_reset());
        }
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), split in 1usize..60, room in 0u32..200,
    ) {
        let driver = Guest::new().driver;
        driver.put(PACKET, &bytes);
        let split = split.min(bytes.len()) as u32;
        let rest = bytes.len() as u32 - split;
        driver.chain(FROM_GUEST, &[readable(PACKET, split), readable(PACKET + u64::from(split), rest)]);
        driver.chain(TO_GUEST, &[writable(RECEIVED, room)]);
        driver.device.serve();
    }
}
