//! The block device (virtio 1.2, section 5.2): a read-only image, or the scratch disk.
//!
//! Data goes between file and guest memory by one system call a request, without a buffer of ours. The scratch file is
//! sparse and ends with the machine, so that a flush has nothing to do, and discarded blocks go back to the host.

mod device;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use device::{Block, BlockError, DiskKind};
pub use request::SECTOR_BYTES;
pub use state::BlockState;
