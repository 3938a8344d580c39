//! The socket device (virtio 1.2, section 5.10): streams between the agent and descriptors of the host.
//!
//! The host offers a few [`Port`]s, each with a descriptor to read from, one to write to, or both. The guest connects to a
//! port once; the device then moves bytes, a stream each way, and never connects by itself.
//!
//! ```text
//! guest                          device                              host
//!   REQUEST ───────────────────►  port free? ── no: RST
//!            ◄─────────── RESPONSE
//!   RW ────────────────────────►  inbound, at most BUFFER_BYTES ───►  to_host, as far as it takes
//!            ◄──── CREDIT_UPDATE  half of the buffer is free again
//!            ◄──────────────── RW  as far as guest's credit reaches ◄─ from_host (read straight into the guest's buffer)
//!            ◄──── SHUTDOWN send                                  ◄─── its end
//!            ◄─ SHUTDOWN receive                                  ◄─── its reader is gone
//!   SHUTDOWN send ─────────────►  when inbound is empty: closed ────►
//!   SHUTDOWN both ─────────────►  the same, then RST
//! ```
//! A guest that sends beyond its credit loses the connection. Answers to packets without a connection are kept up to
//! [`MOST_REPLIES`] and dropped beyond: a guest that floods loses answers, not the host memory.

mod connection;
mod device;
mod host;
mod packet;
mod state;
#[cfg(test)]
mod tests;

pub use connection::{BUFFER_BYTES, Connection, Verdict};
pub use device::{GUEST_CID, HOST_CID, MOST_REPLIES, Outputs, Port, Vsock};
pub use packet::{HEADER_BYTES, Header, MOST_DATA_BYTES, Operation};
pub use state::{ConnectionState, VsockState};
