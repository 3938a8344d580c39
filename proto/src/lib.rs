//! The protocols, public (`proto/bulkhead/v1`) and internal (`proto/bulkhead/worker/v1`), and the code generated
//! from them.
//!
//! The generated code is checked in, so that nobody needs a compiler of protocols to build; the test `drift`
//! fails when it does not match the .proto files, and rewrites it when `UPDATE_GENERATED` is set.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::doc_lazy_continuation,
    clippy::doc_overindented_list_items,
    clippy::default_trait_access,
    reason = "generated code; the .proto files are its documentation"
)]

pub mod codec;

/// The public API.
pub mod v1 {
    include!("gen/bulkhead.v1.rs");
}

/// Between workers and their server.
pub mod worker {
    include!("gen/bulkhead.worker.v1.rs");
}

/// The public API's descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
