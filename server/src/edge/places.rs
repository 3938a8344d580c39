//! How many calls are under way at once: one number for calls that work, one for those that mostly wait, one for
//! those that move bytes, and one for those that need no token, so that none of the four starves the others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use crate::auth::{Access, access};
use crate::error::ApiError;

/// Calls at once that need no token, and so may come from anybody: each may last for [`super::STRANGERS_TIME`].
const STRANGERS: usize = 32;

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Calls that work: each may hold a connection of the database for a moment.
    pub calls: usize,
    /// WaitJob and WatchJob: each costs some KiB while nothing happens.
    pub waits: usize,
    /// Uploads, downloads and imports: each has buffers of some MiB.
    pub transfers: usize,
}

impl Default for PlaceLimits {
    fn default() -> Self {
        Self { calls: 512, waits: 4096, transfers: 64 }
    }
}

/// The places.
#[derive(Debug)]
pub(crate) struct Places {
    calls: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Places {
    /// As many as `limits` says.
    pub(crate) fn new(limits: PlaceLimits) -> Self {
        let semaphore = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            calls: semaphore(limits.calls),
            waits: semaphore(limits.waits),
            transfers: semaphore(limits.transfers),
            strangers: semaphore(STRANGERS),
        }
    }

    /// A place for a call of this method. A health check needs none: strangers must not make the service look ill.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`].
    pub(super) fn take(&self, path: &str) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        let (places, what) = match path {
            "/bulkhead.v1.JobService/WaitJob" | "/bulkhead.v1.JobService/WatchJob" => {
                (&self.waits, "waiting and watching calls")
            }
            "/bulkhead.v1.BlobService/UploadBlob"
            | "/bulkhead.v1.BlobService/DownloadBlob"
            | "/bulkhead.v1.ImageService/ImportImage" => (&self.transfers, "uploads and downloads"),
            "/grpc.health.v1.Health/Check" => return Ok(None),
            path if access(path) == Access::Public => (&self.strangers, "calls without a token"),
            _ => (&self.calls, "calls at once"),
        };
        places.clone().try_acquire_owned().map(Some).map_err(|_| ApiError::Overloaded { what })
    }
}

/// The response holds its place until its body has ended or is dropped.
pub(super) fn hold(response: Response<Body>, place: Option<OwnedSemaphorePermit>) -> Response<Body> {
    match place {
        Some(place) => response.map(|body| Body::new(Held { body, _place: place })),
        None => response,
    }
}

struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_calls_leave_room_for_others() {
        let places = Places::new(PlaceLimits { calls: 1, waits: 1, transfers: 1 });
        let wait = places.take("/bulkhead.v1.JobService/WaitJob").expect("a place");
        assert!(matches!(places.take("/bulkhead.v1.JobService/WatchJob"), Err(ApiError::Overloaded { .. })));
        assert!(places.take("/bulkhead.v1.JobService/GetJob").is_ok());
        drop(wait);
        assert!(places.take("/bulkhead.v1.JobService/WatchJob").is_ok());
        assert!(places.take("/grpc.health.v1.Health/Check").expect("health").is_none());
    }

    #[test]
    fn strangers_leave_room_for_tenants() {
        let places = Places::new(PlaceLimits { calls: 1, waits: 1, transfers: 1 });
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let held: Vec<_> = std::iter::from_fn(|| places.take(reflection).ok()).take(1000).collect();
        assert_eq!(held.len(), STRANGERS);
        for path in ["/bulkhead.v1.VersionService/Get", "/grpc.health.v1.Health/Watch"] {
            assert!(matches!(places.take(path), Err(ApiError::Overloaded { .. })), "{path}");
        }
        assert!(places.take("/bulkhead.v1.JobService/GetJob").is_ok());
        assert!(places.take("/grpc.health.v1.Health/Check").is_ok());
    }
}
