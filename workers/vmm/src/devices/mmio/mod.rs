//! The virtio-mmio transport (virtio 1.2, section 4.2): registers, the state machine of a driver's start, and rings.
//!
//! ```text
//! reset ─► ACKNOWLEDGE ─► DRIVER ─► features ─► FEATURES_OK ─► queues ─► DRIVER_OK ─► served
//!   ▲                                                                       │ broken ring
//!   └──────────────────────────── status 0 ◄────────── NEEDS_RESET ◄────────┘
//! ```
//! A write that the state doesn't allow does nothing. The interrupt status lies outside of the device's lock, so that
//! acknowledging an interrupt never waits for a queue that is being served.

mod chain;
mod device;
mod interrupt;
mod registers;
mod rings;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vectors;

pub use chain::{Chain, ChainBytes, MOST_SEGMENTS};
pub use device::{DeviceState, Interest, Served, VirtioDevice};
pub use interrupt::Interrupt;
pub use registers::{MmioDevice, NOTIFY_OFFSET};
pub use rings::{Broken, Rings};
pub use state::{MmioState, QueueRegisters};
pub use vectors::Vectors;
