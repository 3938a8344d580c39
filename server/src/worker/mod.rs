//! The workers' side: one ordered stream per node, and the transfers that its leases allow.
//!
//! ```text
//! node ══ Attach ══► session ─ heartbeats, registration ─► scheduler's intake
//!                      │ ▲ leases, cancels, acks
//!                      ▼ │
//!                    a task per attempt: start, output (spool, then database, then ack), end (seal, then ack)
//! node ── FetchBlob, FetchImage, StoreBlob ──► transfer: what the attempt's lease allows
//! ```
//! A node is whoever its certificate names. Everything that it says of an attempt counts only while the database
//! gives that attempt to it.

mod attempt;
mod keys;
mod session;
mod transfer;

use std::pin::Pin;

use bulkhead_proto::worker::worker_service_server::WorkerService;
use bulkhead_proto::worker::{
    Bytes as BytesMessage, FetchBlobRequest, FetchImageRequest, FromWorker, StoreBlobRequest,
    StoreBlobResponse, ToWorker,
};
use bulkhead_types::NodeId;
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::Shared;
use crate::error::ApiError;
use crate::identity::node_of_certificate;

/// Largest message of a node, in bytes: an outcome names up to 1,024 files of up to 4 KiB, as JSON.
pub(crate) const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Serves workers.
pub(crate) struct Workers(pub(crate) Shared);

type ToWorkerStream = Pin<Box<dyn Stream<Item = Result<ToWorker, Status>> + Send>>;
type BytesStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Workers {
    type AttachStream = ToWorkerStream;

    async fn attach(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<ToWorkerStream>, Status> {
        let node = node(&request)?;
        let outbound = session::start(self.0.clone(), node, request.into_inner());
        Ok(Response::new(Box::pin(outbound)))
    }

    type FetchBlobStream = BytesStream;

    async fn fetch_blob(&self, request: Request<FetchBlobRequest>) -> Result<Response<BytesStream>, Status> {
        let node = node(&request)?;
        let bytes = transfer::fetch_blob(&self.0, &node, request.into_inner()).await?;
        Ok(Response::new(Box::pin(bytes)))
    }

    async fn store_blob(
        &self,
        request: Request<Streaming<StoreBlobRequest>>,
    ) -> Result<Response<StoreBlobResponse>, Status> {
        let node = node(&request)?;
        transfer::store_blob(&self.0, &node, &mut request.into_inner()).await?;
        Ok(Response::new(StoreBlobResponse {}))
    }

    type FetchImageStream = BytesStream;

    async fn fetch_image(
        &self,
        request: Request<FetchImageRequest>,
    ) -> Result<Response<BytesStream>, Status> {
        let node = node(&request)?;
        let bytes = transfer::fetch_image(&self.0, &node, request.into_inner()).await?;
        Ok(Response::new(Box::pin(bytes)))
    }
}

/// Who calls, by its certificate, which TLS has verified.
fn node<T>(request: &Request<T>) -> Result<NodeId, ApiError> {
    let certificates = request.peer_certs();
    let leaf = certificates.as_ref().and_then(|chain| chain.first());
    leaf.and_then(|leaf| node_of_certificate(leaf)).ok_or(ApiError::NodeUnknown)
}
