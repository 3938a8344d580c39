use std::sync::Arc;

use bulkhead_platform::GuestMemory;

use crate::memory::{Memory, MemoryRef};

/// The memory of a stub.
pub struct PlatformMemory(GuestMemory);

impl PlatformMemory {
    /// In the form that system calls take.
    pub fn shared(memory: GuestMemory) -> MemoryRef {
        Arc::new(Self(memory))
    }
}

impl Memory for PlatformMemory {
    fn read_some(&self, address: u64, into: &mut [u8]) -> usize {
        self.0.read_some(address, into)
    }

    fn write_some(&self, address: u64, from: &[u8]) -> usize {
        self.0.write_some(address, from)
    }
}
