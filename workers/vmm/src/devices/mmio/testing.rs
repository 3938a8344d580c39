//! A driver by hand, on plain memory: no KVM, no kernel.

use std::cell::Cell;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Interrupt, MmioDevice, MmioState, VirtioDevice};
use crate::memory::Memory;

pub(crate) const MEMORY_BYTES: usize = 1 << 20;
/// Buffers for data begin here.
pub(crate) const DATA: u64 = 0x8_0000;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const STARTED: u32 = 1 | 2 | 8 | 4;

/// A buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) at: u64,
    pub(crate) bytes: u32,
    pub(crate) writable: bool,
}

pub(crate) fn readable(at: u64, bytes: u32) -> Buffer {
    Buffer { at, bytes, writable: false }
}

pub(crate) fn writable(at: u64, bytes: u32) -> Buffer {
    Buffer { at, bytes, writable: true }
}

pub(crate) struct Driver {
    pub(crate) memory: Memory,
    pub(crate) device: MmioDevice,
    line: EventFd,
    size: u16,
    free: Cell<u16>,
}

impl Driver {
    pub(crate) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory");
        let event = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let line = event();
        let interrupt = Interrupt::new(line.try_clone().expect("a second descriptor"));
        let device = MmioDevice::new(device, memory.clone(), interrupt, event());
        Self { memory, device, line, size: 16, free: Cell::new(0) }
    }

    /// The same, started with all queues in use.
    pub(crate) fn started(device: Box<dyn VirtioDevice>) -> Self {
        let driver = Self::new(device);
        driver.negotiate(VERSION_1);
        for queue in 0..3 {
            driver.configure(queue);
        }
        driver.write(0x70, STARTED);
        assert_eq!(driver.read(0x70), STARTED);
        driver
    }

    /// A device over the same memory, as it was saved.
    pub(crate) fn restored(&self, device: Box<dyn VirtioDevice>, state: MmioState) -> Option<MmioDevice> {
        let event = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        MmioDevice::restore(device, self.memory.clone(), Interrupt::new(event()), event(), state)
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.device.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn negotiate(&self, features: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        for half in 0..2 {
            self.write(0x24, half);
            self.write(0x20, (features >> (32 * half)) as u32);
        }
        self.write(0x70, 11);
    }

    /// Where a queue's parts lie: descriptors, available, used.
    pub(crate) fn places(queue: u32) -> [u64; 3] {
        let base = 0x1_0000 * (u64::from(queue) + 1);
        [base, base + 0x2000, base + 0x4000]
    }

    pub(crate) fn configure(&self, queue: u32) {
        self.configure_with(queue, u32::from(self.size), Self::places(queue));
    }

    pub(crate) fn configure_with(&self, queue: u32, size: u32, places: [u64; 3]) {
        self.write(0x30, queue);
        self.write(0x38, size);
        for (offset, place) in [0x80, 0x90, 0xa0].into_iter().zip(places) {
            self.write(offset, place as u32);
            self.write(offset + 4, (place >> 32) as u32);
        }
        self.write(0x44, 1);
    }

    pub(crate) fn descriptor(&self, queue: u32, index: u16, buffer: Buffer, flags: u16, next: u16) {
        let at = Self::places(queue)[0] + 16 * u64::from(index);
        let flags = flags | if buffer.writable { WRITE } else { 0 };
        self.memory.write_obj(buffer.at, GuestAddress(at)).expect("descriptor");
        self.memory.write_obj(buffer.bytes, GuestAddress(at + 8)).expect("descriptor");
        self.memory.write_obj(flags, GuestAddress(at + 12)).expect("descriptor");
        self.memory.write_obj(next, GuestAddress(at + 14)).expect("descriptor");
    }

    /// Makes a chain available that starts with this descriptor.
    pub(crate) fn offer(&self, queue: u32, head: u16) {
        let available = Self::places(queue)[1];
        let index: u16 = self.memory.read_obj(GuestAddress(available + 2)).expect("index");
        let slot = available + 4 + 2 * u64::from(index % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).expect("slot");
        self.memory.write_obj(index.wrapping_add(1), GuestAddress(available + 2)).expect("index");
    }

    /// Offers these buffers as one chain, with descriptors that no other chain of this test uses at the same time.
    pub(crate) fn chain(&self, queue: u32, buffers: &[Buffer]) -> u16 {
        let head = self.free.get();
        for (step, buffer) in (0u16..).zip(buffers) {
            let index = (head + step) % self.size;
            let last = usize::from(step) + 1 == buffers.len();
            self.descriptor(queue, index, *buffer, if last { 0 } else { NEXT }, (index + 1) % self.size);
        }
        self.free.set((head + buffers.len() as u16) % self.size);
        self.offer(queue, head);
        head
    }

    /// What was used so far: chain and bytes written.
    pub(crate) fn used(&self, queue: u32) -> Vec<(u32, u32)> {
        let used = Self::places(queue)[2];
        let count: u16 = self.memory.read_obj(GuestAddress(used + 2)).expect("index");
        let entry = |index: u16| {
            let at = used + 4 + 8 * u64::from(index % self.size);
            let read = |at| self.memory.read_obj(GuestAddress(at)).expect("entry");
            (read(at), read(at + 4))
        };
        (0..count).map(entry).collect()
    }

    pub(crate) fn bytes(&self, at: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).expect("memory");
        bytes
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).expect("memory");
    }

    /// Whether the interrupt was raised since the last call.
    pub(crate) fn interrupted(&self) -> bool {
        self.line.read().is_ok()
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.read(0x70) & 0x40 != 0
    }
}
