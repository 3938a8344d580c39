use std::sync::{Arc, Mutex, PoisonError};

use super::cmos::Cmos;
use super::mmio::MmioDevice;
use super::serial::SerialPort;
use super::{MMIO_BYTES, MMIO_START};
use crate::statistics::{ExitKind, Statistics};

const SERIAL: std::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;
const CMOS: std::ops::RangeInclusive<u16> = 0x70..=0x71;
const PIT: std::ops::RangeInclusive<u16> = 0x40..=0x43;
/// The keyboard controller's command port, through which a PC is reset.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// What follows from an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The guest goes on.
    Done,
    /// The guest asked for a reset.
    Reset,
}

/// The way from an exit to the device.
#[derive(Debug)]
pub struct Bus {
    serial: Mutex<SerialPort>,
    cmos: Mutex<Cmos>,
    devices: Vec<Arc<MmioDevice>>,
    statistics: Arc<Statistics>,
}

impl Bus {
    /// Puts the devices into place; a virtio device's number is its index.
    pub fn new(serial: SerialPort, devices: Vec<Arc<MmioDevice>>, statistics: Arc<Statistics>) -> Self {
        Self { serial: Mutex::new(serial), cmos: Mutex::default(), devices, statistics }
    }

    /// The guest reads a port, `data.len()` bytes at once or repeatedly: KVM does not say which, and each byte is a read
    /// of its own.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        if SERIAL.contains(&port) {
            self.statistics.count(ExitKind::Serial);
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            data.fill_with(|| serial.read((port - SERIAL.start()) as u8));
        } else if CMOS.contains(&port) {
            self.statistics.count(ExitKind::Clock);
            let cmos = self.cmos.lock().unwrap_or_else(PoisonError::into_inner);
            data.fill_with(|| if port == *CMOS.end() { cmos.read() } else { 0xff });
        } else if PIT.contains(&port) {
            // Any other constant makes the kernel poll its counter 100,000 times.
            self.statistics.count(ExitKind::Clock);
            data.fill(0);
        } else if port == KEYBOARD {
            // Ready for a command: otherwise a reboot polls it 65,536 times.
            self.statistics.count(ExitKind::OtherPort);
            data.fill(0);
        } else {
            self.statistics.count(ExitKind::OtherPort);
            data.fill(0xff);
        }
    }

    /// The guest writes a port.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Access {
        if SERIAL.contains(&port) {
            self.statistics.count(ExitKind::Serial);
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            for byte in data {
                serial.write((port - SERIAL.start()) as u8, *byte);
            }
        } else if CMOS.contains(&port) {
            self.statistics.count(ExitKind::Clock);
            let mut cmos = self.cmos.lock().unwrap_or_else(PoisonError::into_inner);
            if let (true, Some(index)) = (port == *CMOS.start(), data.last()) {
                cmos.select(*index);
            }
        } else if PIT.contains(&port) {
            self.statistics.count(ExitKind::Clock);
        } else {
            self.statistics.count(ExitKind::OtherPort);
            if port == KEYBOARD && data.contains(&KEYBOARD_RESET) {
                return Access::Reset;
            }
        }
        Access::Done
    }

    /// The guest reads a device's registers; nothing is there: all bits set, as on a PC.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => {
                self.statistics.count(device.exit_kind());
                device.read(offset, data);
            }
            None => {
                self.statistics.count(ExitKind::OtherMmio);
                data.fill(0xff);
            }
        }
    }

    /// The guest writes a device's registers.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        match self.find(address) {
            Some((device, offset)) => {
                self.statistics.count(device.exit_kind());
                device.write(offset, data);
            }
            None => self.statistics.count(ExitKind::OtherMmio),
        }
    }

    fn find(&self, address: u64) -> Option<(&MmioDevice, u64)> {
        let offset = address.checked_sub(MMIO_START)?;
        let device = self.devices.get(usize::try_from(offset / MMIO_BYTES).ok()?)?;
        Some((device, offset % MMIO_BYTES))
    }
}
