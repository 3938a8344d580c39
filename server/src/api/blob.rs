use std::pin::Pin;
use std::sync::PoisonError;

use bulkhead_proto::v1::blob_service_server::BlobService;
use bulkhead_proto::v1::upload_blob_request::{Header, Part};
use bulkhead_proto::v1::{Blob, DownloadBlobRequest, DownloadBlobResponse, UploadBlobRequest};
use bulkhead_store::{BlobRecord, StoreError};
use bulkhead_types::{Digest, TenantId};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Service, Shared, caller};
use crate::auth::Caller;
use crate::blobs::{BlobError, MAX_BLOB_BYTES, Upload};
use crate::convert;
use crate::error::ApiError;

/// Serves blobs.
pub(crate) struct Blobs(pub(crate) Shared);

type DownloadStream = Pin<Box<dyn Stream<Item = Result<DownloadBlobResponse, Status>> + Send>>;

#[tonic::async_trait]
impl BlobService for Blobs {
    async fn upload_blob(
        &self,
        request: Request<Streaming<UploadBlobRequest>>,
    ) -> Result<Response<Blob>, Status> {
        let caller = caller(&request)?.clone();
        let mut parts = request.into_inner();
        let header = match parts.message().await?.and_then(|first| first.part) {
            Some(Part::Header(header)) => header,
            _ => return Err(ApiError::field("header", "the first message must be the header").into()),
        };
        let (tenant, expected) = check_header(&caller, &header)?;
        let blob = self.upload(&tenant, expected, &mut parts).await?;
        Ok(Response::new(blob))
    }

    type DownloadBlobStream = DownloadStream;

    async fn download_blob(
        &self,
        request: Request<DownloadBlobRequest>,
    ) -> Result<Response<Self::DownloadBlobStream>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let (tenant, digest) = convert::blob_name(&request.name)?;
        caller.works_for(&tenant, "blob", &request.name)?;
        let blob = self.0.store.blob_get(&tenant, digest).await.map_err(ApiError::from)?;
        let offset = u64::try_from(request.offset).ok().filter(|offset| *offset <= blob.size_bytes);
        let offset = offset.ok_or_else(|| {
            ApiError::field("offset", format!("must be between 0 and the blob's size of {}", blob.size_bytes))
        })?;
        let parts = self.0.blobs.read(digest, offset, blob.size_bytes).await.map_err(ApiError::from)?;
        let messages = parts.map(|part| match part {
            Ok(data) => Ok(DownloadBlobResponse { data: data.into() }),
            Err(error) => Err(Status::from(ApiError::from(error))),
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

fn check_header(caller: &Caller, header: &Header) -> Result<(TenantId, Option<Digest>), ApiError> {
    let tenant = convert::parent(&header.parent).map_err(in_header)?;
    caller.works_for(&tenant, "tenant", &header.parent)?;
    convert::request_id(&header.request_id).map_err(in_header)?;
    let expected = match header.expected_digest.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error: bulkhead_types::ParseDigestError| {
            ApiError::field("header.expected_digest", error.to_string())
        })?),
    };
    Ok((tenant, expected))
}

fn in_header(error: ApiError) -> ApiError {
    match error {
        ApiError::Field { field, problem } => ApiError::Field { field: format!("header.{field}"), problem },
        other => other,
    }
}

impl Blobs {
    async fn upload(
        &self,
        tenant: &TenantId,
        expected: Option<Digest>,
        parts: &mut Streaming<UploadBlobRequest>,
    ) -> Result<Blob, Status> {
        let storage = self.0.store.storage(tenant).await.map_err(ApiError::from)?;
        let known = match expected {
            Some(digest) => self.0.store.blob_get(tenant, digest).await.is_ok(),
            None => false,
        };
        // What it has already costs nothing; of anything else no more is taken than it may keep.
        let most = if known { MAX_BLOB_BYTES } else { MAX_BLOB_BYTES.min(storage.room()) };
        let too_large = |error| match error {
            BlobError::TooLarge { .. } if most < MAX_BLOB_BYTES => {
                ApiError::StorageQuota { tenant: tenant.to_string(), limit: storage.max_bytes }
            }
            error => error.into(),
        };
        let mut upload = self.0.blobs.upload(most).await.map_err(ApiError::from)?;
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Data(data)) => upload.write(data.into()).await.map_err(too_large)?,
                Some(Part::Header(_)) => {
                    return Err(ApiError::field("header", "only the first message may be a header").into());
                }
                None => {}
            }
        }
        let put = async |digest, size| self.0.store.blob_put(tenant, digest, size).await;
        let record = keep(&self.0, upload, expected, put).await?;
        Ok(Blob {
            name: format!("tenants/{tenant}/blobs/{}", record.digest.hex()),
            digest: record.digest.to_string(),
            size_bytes: convert::int64(record.size_bytes),
        })
    }
}

/// Completes an upload and notes whose it is with `put`; bytes that the quota refuses then go with the next tidying.
pub(crate) async fn keep(
    service: &Service,
    upload: Upload,
    expected: Option<Digest>,
    put: impl AsyncFnOnce(Digest, u64) -> Result<BlobRecord, StoreError>,
) -> Result<BlobRecord, ApiError> {
    // Nothing may remove the bytes between their appearance and the row that keeps them.
    let _content = service.content.read().await;
    let (digest, size) = upload.finish(expected).await?;
    let kept = put(digest, size).await;
    if let Err(StoreError::StorageQuota { .. }) = &kept {
        // Not here: who waits to be alone with the content holds up everybody who comes after.
        service.refused.lock().unwrap_or_else(PoisonError::into_inner).push(digest);
    }
    Ok(kept?)
}
