use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::epoll::EventSet;

use super::host::HostFd;
use super::packet::{HEADER_BYTES, Header, MOST_DATA_BYTES, Operation, STREAM};
use super::{Connection, Verdict, VsockState};
use crate::devices::mmio::{Broken, Chain, DeviceState, Interest, Rings, Served, VirtioDevice};
use crate::statistics::ExitKind;

/// The guest's context.
pub const GUEST_CID: u64 = 3;
/// The host's.
pub const HOST_CID: u64 = 2;
/// Resets that wait for room in the guest's ring, for packets that belong to no connection.
pub const MOST_REPLIES: usize = 64;
const QUEUES: [u16; 3] = [128, 128, 16];
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;

/// A port of the host that the guest may connect to, once.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub number: u32,
    /// Where the guest's input comes from.
    pub from_host: Option<OwnedFd>,
    /// Where its output goes.
    pub to_host: Option<OwnedFd>,
}

/// Tells others when outputs have been written completely.
#[derive(Debug, Clone, Default)]
pub struct Outputs(Arc<(Mutex<Vec<u32>>, Condvar)>);

impl Outputs {
    fn set(&self, open: Vec<u32>) {
        let (ports, changed) = &*self.0;
        *ports.lock().unwrap_or_else(PoisonError::into_inner) = open;
        changed.notify_all();
    }

    /// Blocks until all that the guest has sent to these ports is written to the host and it has closed those that it was
    /// connected to, or the machine has ended.
    pub fn wait_closed(&self, wanted: &[u32]) {
        let (ports, changed) = &*self.0;
        let open = ports.lock().unwrap_or_else(PoisonError::into_inner);
        let any_open = |open: &mut Vec<u32>| wanted.iter().any(|port| open.contains(port));
        drop(changed.wait_while(open, any_open).unwrap_or_else(PoisonError::into_inner));
    }
}

#[derive(Debug)]
struct Slot {
    number: u32,
    reader: Option<HostFd>,
    writer: Option<HostFd>,
    connection: Option<Connection>,
    /// Connected once; never again.
    used: bool,
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    slots: Vec<Slot>,
    replies: VecDeque<Header>,
    /// Descriptors that are no longer needed, until nothing waits for them.
    retired: Vec<OwnedFd>,
    outputs: Outputs,
    /// The guest has no buffer for what the host has.
    starved: bool,
    /// Whose turn it is to send to the guest.
    turn: usize,
}

impl Vsock {
    /// A device that offers these ports.
    pub fn new(ports: Vec<Port>) -> Self {
        let slots = ports.into_iter().map(|port| Slot {
            number: port.number,
            reader: port.from_host.map(HostFd::new),
            writer: port.to_host.map(HostFd::new),
            connection: None,
            used: false,
        });
        let device = Self {
            slots: slots.collect(),
            replies: VecDeque::new(),
            retired: Vec::new(),
            outputs: Outputs::default(),
            starved: false,
            turn: 0,
        };
        device.publish();
        device
    }

    /// A device whose guest goes on with its connections, over other descriptors. A connection to a port that is not
    /// offered gets a reset.
    pub fn restore(state: VsockState, ports: Vec<Port>) -> Self {
        let mut device = Self::new(ports);
        for saved in state.connections {
            let (port, guest_port) = (saved.port, saved.guest_port);
            let slot = device.slots.iter_mut().find(|slot| slot.number == port);
            match (slot, Connection::restore(saved)) {
                (Some(slot), Some(connection)) => {
                    (slot.connection, slot.used) = (Some(connection), true);
                }
                _ => device.reply_reset(guest_port, port),
            }
        }
        for slot in &mut device.slots {
            slot.used |= state.closed_ports.contains(&slot.number);
        }
        device.publish();
        device
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> VsockState {
        let open = self.slots.iter().filter_map(|slot| Some(slot.connection.as_ref()?.state(slot.number)));
        let closed = self.slots.iter().filter(|slot| slot.used && slot.connection.is_none());
        VsockState { connections: open.collect(), closed_ports: closed.map(|slot| slot.number).collect() }
    }

    /// A view of which outputs are still open.
    pub fn outputs(&self) -> Outputs {
        self.outputs.clone()
    }

    fn publish(&self) {
        let open = self.slots.iter().filter(|slot| slot.connection.is_some() && slot.writer.is_some());
        self.outputs.set(open.map(|slot| slot.number).collect());
    }

    fn reply_reset(&mut self, guest_port: u32, host_port: u32) {
        if self.replies.len() < MOST_REPLIES {
            let reset = Operation::Reset as u16;
            self.replies.push_back(header(host_port, guest_port, reset, 0));
        }
    }

    /// A packet of the guest.
    fn receive(&mut self, rings: &Rings<'_>, chain: &mut Chain) -> Result<(), Broken> {
        let mut bytes = [0; HEADER_BYTES];
        if chain.readable.read(rings.memory(), &mut bytes)? != HEADER_BYTES {
            return Err(Broken::Request);
        }
        let packet = Header::from_bytes(&bytes);
        let length = packet.length as usize;
        if length > MOST_DATA_BYTES || packet.length as u64 > chain.readable.left() {
            return Err(Broken::Request);
        }
        let ours =
            packet.source_cid == GUEST_CID && packet.destination_cid == HOST_CID && packet.kind == STREAM;
        let slot = self.slots.iter_mut().find(|slot| ours && slot.number == packet.destination_port);
        let is_request = packet.operation == Operation::Request as u16;
        let Some(slot) = slot.filter(|slot| match &slot.connection {
            Some(connection) => connection.guest_port() == packet.source_port,
            None => is_request && !slot.used,
        }) else {
            // A reset is never answered by one.
            if packet.operation != Operation::Reset as u16 {
                self.reply_reset(packet.source_port, packet.destination_port);
            }
            return Ok(());
        };
        let Some(connection) = &mut slot.connection else {
            (slot.connection, slot.used) = (Some(Connection::requested(&packet)), true);
            self.publish();
            return Ok(());
        };
        let is_data = packet.operation == Operation::Data as u16;
        if connection.receive(&packet) == Verdict::Violation {
            return self.violation(&packet);
        }
        if is_data {
            // Copied once, in pieces that need no buffer of the packet's size.
            let mut left = length;
            let mut piece = [0; 4096];
            while left > 0 {
                let wanted = left.min(piece.len());
                let got = chain.readable.read(rings.memory(), &mut piece[..wanted])?;
                connection.push(&piece[..got]);
                left -= got;
            }
        }
        self.settle(packet.destination_port);
        Ok(())
    }

    fn violation(&mut self, packet: &Header) -> Result<(), Broken> {
        self.end(packet.destination_port);
        self.reply_reset(packet.source_port, packet.destination_port);
        Ok(())
    }

    /// Forgets a connection and everything that belonged to it.
    fn end(&mut self, port: u32) {
        for slot in self.slots.iter_mut().filter(|slot| slot.number == port) {
            slot.connection = None;
            self.retired
                .extend([slot.reader.take(), slot.writer.take()].into_iter().flatten().map(HostFd::into_fd));
        }
        self.publish();
    }

    /// Writes what waits for the host, as far as it takes it, and closes what is needed no more.
    fn settle(&mut self, port: u32) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == port) else { return };
        let Some(connection) = &mut slot.connection else { return };
        while connection.has_inbound() {
            let Some(writer) = &slot.writer else {
                connection.host_stopped_reading();
                break;
            };
            match writer.write(connection.inbound().as_slices().0) {
                Ok(count) if count > 0 => connection.taken(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => connection.host_stopped_reading(),
            }
        }
        let mut closed = None;
        if connection.has_sent_all() {
            closed = slot.writer.take();
            if let (Some(writer), Some(_)) = (&closed, &slot.reader) {
                writer.end_writing();
            }
        }
        let published = closed.is_some();
        if connection.wants_no_input() {
            self.retired.extend(slot.reader.take().map(HostFd::into_fd));
        }
        self.retired.extend(closed.map(HostFd::into_fd));
        if connection.is_over() {
            self.end(port);
        } else if published {
            self.publish();
        }
    }

    /// Whether there is anything that a buffer of the guest's is needed for: the slot, or a reply.
    fn next_sender(&self) -> Option<Sender> {
        if !self.replies.is_empty() {
            return Some(Sender::Reply);
        }
        let count = self.slots.len();
        let mut order = (0..count).map(|step| (self.turn + step) % count);
        order.find_map(|index| {
            let slot = &self.slots[index];
            let connection = slot.connection.as_ref()?;
            if connection.owes() {
                return Some(Sender::Control(index));
            }
            let data = connection.credit() > 0 && slot.reader.as_ref().is_some_and(HostFd::is_readable);
            data.then_some(Sender::Data(index))
        })
    }

    /// Fills one buffer of the guest's; returns its bytes, or nothing when there was nothing to send after all.
    fn send(&mut self, sender: Sender, rings: &Rings<'_>, chain: &mut Chain) -> Result<Option<u64>, Broken> {
        let memory = rings.memory();
        let mut body = chain.writable.split_off(HEADER_BYTES as u64);
        if chain.writable.left() < HEADER_BYTES as u64 {
            return Err(Broken::Request);
        }
        let index = match sender {
            Sender::Reply => {
                let Some(reply) = self.replies.pop_front() else { return Ok(None) };
                chain.writable.write(memory, &reply.to_bytes())?;
                return Ok(Some(HEADER_BYTES as u64));
            }
            Sender::Control(index) | Sender::Data(index) => index,
        };
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else { return Ok(None) };
        let mut count = 0;
        if let (Sender::Data(_), Some(reader)) = (sender, &slot.reader) {
            let mut vectors = body.take_vectors(memory, connection.credit().min(MOST_DATA_BYTES))?;
            if vectors.left() == 0 {
                return Err(Broken::Request);
            }
            match vectors.read(reader.fd()) {
                Ok(got) if got > 0 => count = got,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(None);
                }
                // Its end; what can't be read has ended too.
                _ => connection.host_ended(),
            }
        }
        let (operation, flags, last) = if count > 0 {
            connection.sent(count);
            (Operation::Data, 0, false)
        } else {
            let Some(control) = connection.next_control() else { return Ok(None) };
            control
        };
        let mut packet = header(slot.number, connection.guest_port(), operation as u16, flags);
        packet.length = count as u32;
        (packet.buffer_bytes, packet.forwarded) = connection.tell_room();
        chain.writable.write(memory, &packet.to_bytes())?;
        let number = slot.number;
        self.turn = index + 1;
        if last {
            self.end(number);
        } else {
            self.settle(number);
        }
        Ok(Some((HEADER_BYTES + count) as u64))
    }

    fn serve_to_guest(&mut self, rings: &mut Rings<'_>) -> Result<Served, Broken> {
        self.starved = false;
        for _ in 0..QUEUES[TO_GUEST] {
            let Some(sender) = self.next_sender() else {
                // Buffers that are left need no notification.
                return Ok(if rings.has_next(TO_GUEST)? { Served::Waiting } else { Served::All });
            };
            let Some(mut chain) = rings.next(TO_GUEST)? else {
                self.starved = true;
                return Ok(Served::All);
            };
            match self.send(sender, rings, &mut chain)? {
                Some(bytes) => rings.complete(TO_GUEST, &chain, bytes)?,
                None => rings.give_back(TO_GUEST),
            }
        }
        Ok(Served::Later)
    }

    fn serve_from_guest(&mut self, rings: &mut Rings<'_>) -> Result<Served, Broken> {
        for _ in 0..QUEUES[FROM_GUEST] {
            let Some(mut chain) = rings.next(FROM_GUEST)? else { return Ok(Served::All) };
            self.receive(rings, &mut chain)?;
            rings.complete(FROM_GUEST, &chain, 0)?;
        }
        Ok(Served::Later)
    }
}

impl VirtioDevice for Vsock {
    fn save(&self) -> DeviceState {
        DeviceState::Vsock(self.state())
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUES
    }

    fn exit_kind(&self) -> ExitKind {
        ExitKind::Vsock
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let cid = GUEST_CID.to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| cid.get(at)).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        let ports: Vec<u32> =
            self.slots.iter().filter(|slot| slot.connection.is_some()).map(|slot| slot.number).collect();
        for port in ports {
            self.end(port);
        }
        self.replies.clear();
        self.starved = false;
    }

    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<Served, Broken> {
        match queue {
            TO_GUEST => self.serve_to_guest(rings),
            // The other queue is served next, and answers.
            FROM_GUEST => self.serve_from_guest(rings),
            // Events: none is ever sent to a machine that was not restored.
            _ => Ok(Served::Waiting),
        }
    }

    fn host_ready(&mut self, fd: RawFd, _rings: &mut Rings<'_>) -> Result<(), Broken> {
        let number = |host: &Option<HostFd>| host.as_ref().map(HostFd::number);
        let port = self.slots.iter().find(|slot| number(&slot.writer) == Some(fd)).map(|slot| slot.number);
        if let Some(port) = port {
            self.settle(port);
        }
        Ok(())
    }

    fn interests(&self) -> Vec<Interest> {
        let mut interests = Vec::new();
        for slot in &self.slots {
            let Some(connection) = &slot.connection else { continue };
            let waits = |host: &&HostFd| !host.is_always_ready();
            if let Some(reader) = slot.reader.as_ref().filter(waits)
                && connection.credit() > 0
                && !self.starved
            {
                interests.push(Interest { fd: reader.number(), events: EventSet::IN });
            }
            if let Some(writer) = slot.writer.as_ref().filter(waits)
                && connection.has_inbound()
            {
                interests.push(Interest { fd: writer.number(), events: EventSet::OUT });
            }
        }
        interests
    }

    fn always_ready(&mut self, fd: RawFd) {
        for host in self.slots.iter_mut().flat_map(|slot| [&mut slot.reader, &mut slot.writer]).flatten() {
            if host.number() == fd {
                host.set_always_ready();
            }
        }
    }

    fn reap(&mut self, watched: &dyn Fn(RawFd) -> bool) {
        self.retired.retain(|fd| watched(fd.as_raw_fd()));
    }

    fn shut_down(&mut self) {
        for slot in &mut self.slots {
            slot.connection = None;
            slot.used = true;
            self.retired
                .extend([slot.reader.take(), slot.writer.take()].into_iter().flatten().map(HostFd::into_fd));
        }
        self.publish();
        self.retired.clear();
    }
}

#[derive(Debug, Clone, Copy)]
enum Sender {
    Reply,
    Control(usize),
    Data(usize),
}

fn header(host_port: u32, guest_port: u32, operation: u16, flags: u32) -> Header {
    Header {
        source_cid: HOST_CID,
        destination_cid: GUEST_CID,
        source_port: host_port,
        destination_port: guest_port,
        kind: STREAM,
        operation,
        flags,
        ..Header::default()
    }
}
