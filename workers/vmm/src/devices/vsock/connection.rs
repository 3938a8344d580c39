use std::collections::VecDeque;
use std::num::Wrapping;

use super::ConnectionState;
use super::packet::{Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// How much of the guest's data waits for the host at most, in bytes and for each connection.
pub const BUFFER_BYTES: usize = 64 << 10;

/// What is to be done after a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// The guest has broken the protocol: the connection is to be reset.
    Violation,
}

/// What the guest has not been told yet, in the order in which it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Owed {
    response: bool,
    credit: bool,
    shutdown: u32,
    reset: bool,
}

/// One stream each way. No I/O: the device moves the bytes.
#[derive(Debug)]
pub struct Connection {
    guest_port: u32,
    /// The guest's room, and what was sent into it.
    room: u32,
    consumed: Wrapping<u32>,
    sent: Wrapping<u32>,
    guest_receives: bool,
    /// The host's side will send no more.
    host_ended: bool,
    /// From the guest, for the host.
    inbound: VecDeque<u8>,
    forwarded: Wrapping<u32>,
    told: Wrapping<u32>,
    guest_sends: bool,
    /// Nobody on the host reads: what comes is dropped.
    discards: bool,
    owed: Owed,
    /// The guest has reset it: it is not to be answered.
    reset_by_guest: bool,
}

impl Connection {
    /// The guest asks for it.
    pub fn requested(request: &Header) -> Self {
        Self {
            guest_port: request.source_port,
            room: request.buffer_bytes,
            consumed: Wrapping(request.forwarded),
            sent: Wrapping(0),
            guest_receives: true,
            host_ended: false,
            inbound: VecDeque::new(),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            guest_sends: true,
            discards: false,
            owed: Owed { response: true, ..Owed::default() },
            reset_by_guest: false,
        }
    }

    /// The guest's port.
    pub fn guest_port(&self) -> u32 {
        self.guest_port
    }

    /// A packet of the guest for this connection; its data, if any, comes by [`Self::push`].
    pub fn receive(&mut self, header: &Header) -> Verdict {
        self.room = header.buffer_bytes;
        self.consumed = Wrapping(header.forwarded);
        match Operation::from_number(header.operation) {
            Some(Operation::Data) => {
                let fits = header.length as usize <= BUFFER_BYTES - self.inbound.len();
                if !self.guest_sends || !(fits || self.discards) {
                    return Verdict::Violation;
                }
            }
            Some(Operation::CreditRequest) => self.owed.credit = true,
            Some(Operation::CreditUpdate) => {}
            Some(Operation::Shutdown) => {
                self.guest_sends &= header.flags & SHUTDOWN_SEND == 0;
                self.guest_receives &= header.flags & SHUTDOWN_RECEIVE == 0;
                self.settle();
            }
            Some(Operation::Reset) => {
                (self.guest_sends, self.guest_receives, self.reset_by_guest) = (false, false, true);
                self.owed = Owed::default();
            }
            // A second request, an answer to nothing, or no operation at all.
            Some(Operation::Request | Operation::Response) | None => return Verdict::Violation,
        }
        Verdict::Fine
    }

    /// Data of a packet that [`Self::receive`] found fine.
    pub fn push(&mut self, data: &[u8]) {
        if self.discards {
            self.forward(data.len());
        } else {
            self.inbound.extend(data);
        }
    }

    /// What waits for the host.
    pub fn inbound(&mut self) -> &mut VecDeque<u8> {
        &mut self.inbound
    }

    /// Whether anything waits for the host.
    pub fn has_inbound(&self) -> bool {
        !self.inbound.is_empty()
    }

    /// The host has taken the first `count` bytes.
    pub fn taken(&mut self, count: usize) {
        self.inbound.drain(..count.min(self.inbound.len()));
        if self.inbound.is_empty() {
            // A burst's buffer is not kept.
            self.inbound.shrink_to(4096);
        }
        self.forward(count);
        self.settle();
    }

    /// Nobody on the host reads any more.
    pub fn host_stopped_reading(&mut self) {
        self.discards = true;
        let dropped = self.inbound.len();
        self.taken(dropped);
        self.owed.shutdown |= SHUTDOWN_RECEIVE;
    }

    /// The host will send no more.
    pub fn host_ended(&mut self) {
        if !self.host_ended {
            self.host_ended = true;
            self.owed.shutdown |= SHUTDOWN_SEND;
        }
    }

    fn forward(&mut self, count: usize) {
        self.forwarded += Wrapping(count as u32);
        if (self.forwarded - self.told).0 as usize >= BUFFER_BYTES / 2 {
            self.owed.credit = true;
        }
    }

    /// A guest that neither sends nor receives gets a reset, when all that it sent has arrived.
    fn settle(&mut self) {
        if !self.guest_sends && !self.guest_receives && self.inbound.is_empty() && !self.reset_by_guest {
            self.owed = Owed { reset: true, response: self.owed.response, ..Owed::default() };
        }
    }

    /// Bytes that the guest has room for and the host may still send.
    pub fn credit(&self) -> usize {
        if self.owed.response || !self.guest_receives || self.host_ended || self.owed.reset {
            return 0;
        }
        // A guest that claims to have consumed more than was sent gets nothing.
        self.room.saturating_sub((self.sent - self.consumed).0) as usize
    }

    /// Whether the host's descriptor that is read from is needed no more.
    pub fn wants_no_input(&self) -> bool {
        !self.guest_receives || self.host_ended
    }

    /// Whether all that the guest will ever send was forwarded.
    pub fn has_sent_all(&self) -> bool {
        self.discards || (!self.guest_sends && self.inbound.is_empty())
    }

    /// Whether it is over and can be forgotten.
    pub fn is_over(&self) -> bool {
        self.reset_by_guest && self.inbound.is_empty()
    }

    /// Whether the guest is to be told something.
    pub fn owes(&self) -> bool {
        self.owed != Owed::default()
    }

    /// The next thing to tell; true with the last one of the connection.
    pub fn next_control(&mut self) -> Option<(Operation, u32, bool)> {
        let owed = &mut self.owed;
        if std::mem::take(&mut owed.response) {
            return Some((Operation::Response, 0, false));
        }
        if std::mem::take(&mut owed.reset) {
            return Some((Operation::Reset, 0, true));
        }
        let shutdown = std::mem::take(&mut owed.shutdown);
        if shutdown != 0 {
            return Some((Operation::Shutdown, shutdown, false));
        }
        std::mem::take(&mut owed.credit).then_some((Operation::CreditUpdate, 0, false))
    }

    /// Counts data on its way to the guest.
    pub fn sent(&mut self, count: usize) {
        self.sent += Wrapping(count as u32);
    }

    /// Our buffer and what has left it, for a packet's header; the guest knows it then.
    pub fn tell_room(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (BUFFER_BYTES as u32, self.forwarded.0)
    }

    /// What a snapshot keeps.
    pub fn state(&self, port: u32) -> ConnectionState {
        ConnectionState {
            port,
            guest_port: self.guest_port,
            room: self.room,
            consumed: self.consumed.0,
            sent: self.sent.0,
            guest_receives: self.guest_receives,
            host_ended: self.host_ended,
            inbound: self.inbound.iter().copied().collect(),
            forwarded: self.forwarded.0,
            told: self.told.0,
            guest_sends: self.guest_sends,
            discards: self.discards,
            owes_response: self.owed.response,
            owes_credit: self.owed.credit,
            owes_shutdown: self.owed.shutdown,
            owes_reset: self.owed.reset,
            reset_by_guest: self.reset_by_guest,
        }
    }

    /// As it was saved; nothing when the state says more than a buffer holds.
    pub fn restore(state: ConnectionState) -> Option<Self> {
        (state.inbound.len() <= BUFFER_BYTES).then(|| Self {
            guest_port: state.guest_port,
            room: state.room,
            consumed: Wrapping(state.consumed),
            sent: Wrapping(state.sent),
            guest_receives: state.guest_receives,
            host_ended: state.host_ended,
            inbound: state.inbound.into(),
            forwarded: Wrapping(state.forwarded),
            told: Wrapping(state.told),
            guest_sends: state.guest_sends,
            discards: state.discards,
            owed: Owed {
                response: state.owes_response,
                credit: state.owes_credit,
                shutdown: state.owes_shutdown & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE),
                reset: state.owes_reset,
            },
            reset_by_guest: state.reset_by_guest,
        })
    }
}
