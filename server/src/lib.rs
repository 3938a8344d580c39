//! The gRPC front end: authentication, quota, the public API and the workers' stream.
//!
//! ```text
//! clients ══ TLS, JWT ══► edge ─► api ─────┐
//!                                          ├──► store (PostgreSQL), blobs, images, output
//! nodes ═══ mutual TLS ══► worker ─► scheduler's intake
//! ```
//! [`Server`] opens all of it, listens, and runs until it is told to stop. Errors become a gRPC status in one place
//! ([`ApiError`]); which scope a method needs is one table (`auth::methods`); names, sizes and limits of requests
//! are checked in one place (`convert`).
//!
//! Another tenant's resource is NOT_FOUND wherever it is named, also as a parent: PERMISSION_DENIED would tell that
//! it exists.

mod api;
pub mod auth;
pub mod blobs;
mod config;
mod convert;
mod edge;
mod error;
pub mod identity;
mod maintenance;
mod output;
mod serve;
mod worker;

pub use config::{DEFAULT_PORT, DEFAULT_WORKER_PORT, ServerConfig, TlsFiles};
pub use edge::{EdgeLayer, PlaceLimits};
pub use error::ApiError;
pub use serve::{Server, ServerError, issue_token, run};
