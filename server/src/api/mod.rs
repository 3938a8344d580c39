//! The public API's methods. Each checks its names and its caller, converts, and calls what does the work.

mod blob;
mod create;
mod image;
mod job;
mod node;
mod tenant;
mod version;
mod watch;

use std::sync::Arc;

use aws_lc_rs::hmac;
use bulkhead_scheduler::Intake;
use bulkhead_store::{RequestKey, Store};
use tokio_util::sync::CancellationToken;
use tonic::Request;

pub(crate) use blob::{Blobs, keep};
pub(crate) use image::{Images, new_image};
pub(crate) use job::Jobs;
pub(crate) use node::Nodes;
pub(crate) use tenant::Tenants;
pub(crate) use version::Versions;

use crate::auth::{Caller, TokenError};
use crate::blobs::BlobFiles;
use crate::convert;
use crate::error::ApiError;
use crate::output::{OutputReader, OutputSpool};

/// What the methods work with.
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) intake: Intake,
    pub(crate) blobs: BlobFiles,
    pub(crate) images: bulkhead_image::Store,
    pub(crate) spool: OutputSpool,
    /// For unnamed files: archives that are on their way in.
    pub(crate) scratch: std::path::PathBuf,
    pub(crate) output: OutputReader,
    pub(crate) bodies: BodyKey,
    /// Held for reading while content is written and noted, for writing while content that nobody has is removed.
    pub(crate) content: tokio::sync::RwLock<()>,
    /// Blobs whose bytes came and were then refused: they go if nobody has them. Locked for one push or take.
    pub(crate) refused: std::sync::Mutex<Vec<bulkhead_types::Digest>>,
    /// Turns of imports to convert an archive; who has none waits until its call's deadline.
    pub(crate) conversions: Arc<tokio::sync::Semaphore>,
    /// Cancelled when the service stops: streams end then, and clients come back.
    pub(crate) shutdown: CancellationToken,
}

/// Archives that are converted at once: each has a process that may use a core and the memory of
/// [`bulkhead_image::ConvertLimits`].
pub(crate) const CONVERSIONS: usize = 2;

/// The services share what they work with.
pub(crate) type Shared = Arc<Service>;

/// Who sent the request: the edge has put it there.
fn caller<T>(request: &Request<T>) -> Result<&Caller, ApiError> {
    request.extensions().get::<Caller>().ok_or(ApiError::Token(TokenError::Missing))
}

/// Hashes requests, so that a repeated one is told from another one with the same id. Keyed, since requests hold
/// secret values, and the hash is stored.
pub(crate) struct BodyKey(hmac::Key);

impl BodyKey {
    /// Derives the key from the one that seals secret values.
    pub(crate) fn new(secrets_key: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secrets_key);
        let derived = hmac::sign(&root, b"bulkhead request bodies");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// The key of a request with an id; none without.
    ///
    /// # Errors
    /// [`ApiError::Field`] if the id is no UUID.
    pub(crate) fn request(
        &self,
        method: &'static str,
        request_id: &str,
        body: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<RequestKey>, ApiError> {
        let Some(id) = convert::request_id(request_id)? else { return Ok(None) };
        let tag = hmac::sign(&self.0, &body());
        let mut body_sha256 = [0; 32];
        body_sha256.copy_from_slice(tag.as_ref());
        Ok(Some(RequestKey { method, request_id: id.to_string(), body_sha256 }))
    }
}
