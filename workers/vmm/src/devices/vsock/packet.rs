/// Bytes of a packet's header (struct virtio_vsock_hdr).
pub const HEADER_BYTES: usize = 44;
/// The most data of one packet that the guest may send, in bytes; Linux's own bound.
pub const MOST_DATA_BYTES: usize = 64 << 10;
/// The only type of socket that there is.
pub(super) const STREAM: u16 = 1;
/// The sender of a SHUTDOWN will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// It will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Connect.
    Request = 1,
    /// Connected.
    Response = 2,
    /// Refused, or ended.
    Reset = 3,
    /// No more in one direction, or both.
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// There is room.
    CreditUpdate = 6,
    /// How much room is there?
    CreditRequest = 7,
}

impl Operation {
    const ALL: [Self; 7] = [
        Self::Request,
        Self::Response,
        Self::Reset,
        Self::Shutdown,
        Self::Data,
        Self::CreditUpdate,
        Self::CreditRequest,
    ];

    /// The operation with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| *operation as u16 == number)
    }
}

/// A packet's header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Sender's context.
    pub source_cid: u64,
    /// Receiver's context.
    pub destination_cid: u64,
    /// Sender's port.
    pub source_port: u32,
    /// Receiver's port.
    pub destination_port: u32,
    /// Bytes of data that follow.
    pub length: u32,
    /// Type of the socket.
    pub kind: u16,
    /// Number of the [`Operation`].
    pub operation: u16,
    /// Of a SHUTDOWN: which directions.
    pub flags: u32,
    /// The sender's whole buffer, in bytes.
    pub buffer_bytes: u32,
    /// How many bytes have left it since the start, modulo 2^32.
    pub forwarded: u32,
}

impl Header {
    /// From its bytes.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            source_cid: long(0),
            destination_cid: long(8),
            source_port: word(16),
            destination_port: word(20),
            length: word(24),
            kind: short(28),
            operation: short(30),
            flags: word(32),
            buffer_bytes: word(36),
            forwarded: word(40),
        }
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        let words =
            [(16, self.source_port), (20, self.destination_port), (24, self.length), (32, self.flags)];
        for (at, word) in words.into_iter().chain([(36, self.buffer_bytes), (40, self.forwarded)]) {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes
    }
}
