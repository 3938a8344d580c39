//! Everything that the guest can touch outside of its memory.
//!
//! A register access comes on the thread of the processor that made it ([`Bus`]); queues are served on the devices' own
//! thread, woken by an ioeventfd. Interrupts go out by irqfds. One folder for each device: `mod.rs` (what it is, to the
//! guest), `device.rs` (what it does), `state.rs` (what a snapshot keeps), `tests.rs`.

pub mod block;
mod bus;
pub mod cmos;
pub mod mmio;
pub mod rng;
pub mod serial;
pub mod vsock;

pub use bus::{Access, Bus};

/// Where the first device's registers lie; no memory slot is behind them.
pub const MMIO_START: u64 = 0xd000_0000;
/// Bytes of registers of one device.
pub const MMIO_BYTES: u64 = 0x1000;
/// Interrupt lines for virtio devices, edge-triggered; the serial port has 4, the clock 8.
const LINES: [u32; 9] = [5, 6, 7, 9, 10, 11, 12, 14, 15];
/// The most virtio devices of a machine.
pub const MOST_DEVICES: usize = LINES.len();

/// Where a virtio device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioPlace {
    /// Guest address of its registers.
    pub address: u64,
    /// Its interrupt line.
    pub interrupt: u32,
}

impl MmioPlace {
    /// The place of the device with this number, if there are as many.
    pub fn of(number: usize) -> Option<Self> {
        let interrupt = *LINES.get(number)?;
        Some(Self { address: MMIO_START + number as u64 * MMIO_BYTES, interrupt })
    }
}
