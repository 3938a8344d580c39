use std::io;

use vm_superio::serial::{Error, NoEvents};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::{Console, SerialPortState};

/// The interrupt line of the first serial port.
pub const SERIAL_LINE: u32 = 4;

/// Raises the port's interrupt.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A 16550 that only sends.
#[derive(Debug)]
pub struct SerialPort {
    port: Serial<Line, NoEvents, Console>,
}

impl SerialPort {
    /// A port after reset; `interrupt` is to be wired to [`SERIAL_LINE`].
    pub fn new(interrupt: EventFd, console: Console) -> Self {
        Self { port: Serial::new(Line(interrupt), console) }
    }

    /// A port as it was saved.
    ///
    /// # Errors
    /// When the state holds more bytes than the FIFO, or the interrupt can't be raised.
    pub fn restore(state: SerialPortState, interrupt: EventFd, console: Console) -> io::Result<Self> {
        let port = Serial::from_state(&state.into(), Line(interrupt), NoEvents, console);
        port.map(|port| Self { port }).map_err(|error| match error {
            Error::Trigger(error) | Error::IOError(error) => error,
            Error::FullFifo => io::ErrorKind::InvalidData.into(),
        })
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> SerialPortState {
        self.port.state().into()
    }

    /// The guest reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.port.read(register)
    }

    /// The guest writes a register. The console takes everything, and an interrupt that can't be raised because so many
    /// are pending is one that the guest will get.
    pub fn write(&mut self, register: u8, value: u8) {
        let _pending = self.port.write(register, value);
    }
}
