//! The scratch disk: everything that the job writes to files lies on it, and its size is the job's disk limit.
//!
//! The VMM hands over a disk of zeroes; the agent makes an ext4 file system on it ([`format`]) and tells at the end how
//! much of it was used, and whether it was ever full ([`Usage`]).

mod format;
mod usage;

pub use format::{FormatError, device_bytes, format};
pub(crate) use usage::Usage;
