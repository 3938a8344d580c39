use serde::{Deserialize, Serialize};

/// What a snapshot keeps: the connections, which go on in the clone over descriptors of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// Open connections.
    pub connections: Vec<ConnectionState>,
    /// Ports that were connected once and are closed.
    pub closed_ports: Vec<u32>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionState {
    /// The host's port.
    pub port: u32,
    /// The guest's port.
    pub guest_port: u32,
    /// The guest's buffer, in bytes.
    pub room: u32,
    /// What has left the guest's buffer.
    pub consumed: u32,
    /// What was sent to the guest.
    pub sent: u32,
    /// The guest still receives.
    pub guest_receives: bool,
    /// The host has sent all.
    pub host_ended: bool,
    /// Bytes for the host.
    pub inbound: Vec<u8>,
    /// Bytes that went to the host.
    pub forwarded: u32,
    /// As many of them the guest knows of.
    pub told: u32,
    /// The guest still sends.
    pub guest_sends: bool,
    /// Nobody on the host reads.
    pub discards: bool,
    /// The guest has no answer to its request yet.
    pub owes_response: bool,
    /// It is to be told how much room there is.
    pub owes_credit: bool,
    /// Directions that it is to be told the end of.
    pub owes_shutdown: u32,
    /// It is to be told that the connection has ended.
    pub owes_reset: bool,
    /// The guest has ended it.
    pub reset_by_guest: bool,
}
