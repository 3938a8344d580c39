//! Register accesses of a guest, in every order and width.
#![no_main]

use bulkhead_vmm::fuzz::{Kind, registers};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    for kind in Kind::ALL {
        registers(kind, script);
    }
});
