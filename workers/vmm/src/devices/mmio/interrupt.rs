use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

const USED_BUFFER: u32 = 1;
const CONFIGURATION: u32 = 2;

/// A device's interrupt: the reasons that the guest reads, and the line.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    line: EventFd,
}

impl Interrupt {
    /// `line` is to be wired to the device's interrupt, as an edge.
    pub fn new(line: EventFd) -> Self {
        Self { status: AtomicU32::new(0), line }
    }

    /// A queue has used buffers.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// The device's status or configuration has changed.
    pub fn configuration(&self) {
        self.raise(CONFIGURATION);
    }

    /// Pending reasons, bits 0 and 1.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The guest has seen these.
    pub fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::SeqCst);
    }

    /// As it was saved.
    pub fn set_status(&self, status: u32) {
        self.status.store(status & (USED_BUFFER | CONFIGURATION), Ordering::SeqCst);
    }

    fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::SeqCst);
        // Fails only when the counter is full, and then an edge is pending anyway.
        let _pending = self.line.write(1);
    }
}
