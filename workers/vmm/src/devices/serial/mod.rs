//! The serial port: the guest's console, of which the last [`LOG_BYTES`] are kept. Nothing is ever typed into it.

mod console;
mod device;
mod state;
#[cfg(test)]
mod tests;

pub use console::{Console, LOG_BYTES};
pub use device::{SERIAL_LINE, SerialPort};
pub use state::SerialPortState;
