//! The entropy device (virtio 1.2, section 5.4): random bytes of the host's.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::{MOST_BYTES, Rng};
pub use state::RngState;
