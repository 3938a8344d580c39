//! Rings, chains and packets of a guest.
#![no_main]

use bulkhead_vmm::fuzz::{Kind, queues};

libfuzzer_sys::fuzz_target!(|memory: &[u8]| {
    for kind in Kind::ALL {
        queues(kind, memory);
    }
});
