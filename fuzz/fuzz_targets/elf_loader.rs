//! A program's file, as an image or an upload may hold it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let _segments_or_refusal = bulkhead_sentry::loader::look_at(file);
});
