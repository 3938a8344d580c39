//! A kernel image, and the instructions that an emulating KVM lacks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bulkhead_vmm::fuzz::kernel(bytes);
    bulkhead_vmm::fuzz::instruction(bytes);
});
