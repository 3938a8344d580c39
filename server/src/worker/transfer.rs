//! Blobs and images for a node, and outputs from it: only what the lease that it presents allows.

use bulkhead_proto::worker::store_blob_request::Part;
use bulkhead_proto::worker::{
    AttemptId, Bytes as BytesMessage, FetchBlobRequest, FetchImageRequest, StoreBlobRequest,
};
use bulkhead_store::JobRecord;
use bulkhead_types::{Content, Digest, ImageRef, JobSpec, NodeId, TenantId};
use futures::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tonic::{Status, Streaming};

use super::keys::attempt_key;
use crate::api::{Shared, keep};
use crate::blobs::{MAX_BLOB_BYTES, PART_BYTES};
use crate::error::ApiError;

fn digest(field: &str, text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error: bulkhead_types::ParseDigestError| ApiError::field(field, error.to_string()))
}

/// The owner of the attempt that the node presents, if it is the node's.
async fn tenant_of(service: &Shared, node: &NodeId, id: Option<&AttemptId>) -> Result<TenantId, ApiError> {
    Ok(service.store.fleet().attempt_tenant(node, attempt_key(id)?).await?)
}

async fn job_of(service: &Shared, node: &NodeId, id: Option<&AttemptId>) -> Result<JobRecord, ApiError> {
    let tenant = tenant_of(service, node, id).await?;
    Ok(service.store.job_get(&tenant, attempt_key(id)?.job).await?)
}

/// A blob that the job's description names.
pub(super) async fn fetch_blob(
    service: &Shared,
    node: &NodeId,
    request: FetchBlobRequest,
) -> Result<impl Stream<Item = Result<BytesMessage, Status>> + Send + use<>, ApiError> {
    let job = job_of(service, node, request.id.as_ref()).await?;
    let digest = digest("digest", &request.digest)?;
    if !names_blob(&job.spec, digest) {
        return Err(ApiError::not_found("blob", digest));
    }
    let blob = service.store.blob_get(&job.tenant, digest).await?;
    let parts = service.blobs.read(digest, 0, blob.size_bytes).await?;
    Ok(parts.map(|part| match part {
        Ok(data) => Ok(BytesMessage { data: data.into() }),
        Err(error) => Err(ApiError::from(error).into()),
    }))
}

fn names_blob(spec: &JobSpec, digest: Digest) -> bool {
    let contents = spec.stdin.iter().chain(spec.input_files.iter().map(|file| &file.content));
    let mut blobs = contents.filter_map(|content| match content {
        Content::Blob(blob) => Some(*blob),
        Content::Inline(_) => None,
    });
    blobs.any(|blob| blob == digest) || spec.input_archives.iter().any(|archive| archive.blob == digest)
}

/// One of the two files of the job's image.
pub(super) async fn fetch_image(
    service: &Shared,
    node: &NodeId,
    request: FetchImageRequest,
) -> Result<impl Stream<Item = Result<BytesMessage, Status>> + Send + use<>, ApiError> {
    let job = job_of(service, node, request.id.as_ref()).await?;
    let digest = digest("digest", &request.digest)?;
    if job.image_digest != digest {
        return Err(ApiError::not_found("image", digest));
    }
    let images = service.images.clone();
    let private = request.private;
    let open = move || {
        let image = images.find(&job.tenant, &ImageRef::Digest(digest)).map_err(ApiError::internal)?;
        let image = image.ok_or_else(|| ApiError::not_found("image", digest))?;
        let path = if private { image.private_path() } else { Some(image.public_path()) };
        let path = path.ok_or_else(|| ApiError::not_found("private file of image", digest))?;
        std::fs::File::open(path).map_err(ApiError::internal)
    };
    let file = tokio::task::spawn_blocking(open).await.map_err(ApiError::internal)??;
    Ok(file_parts(tokio::fs::File::from_std(file)))
}

fn file_parts(mut file: tokio::fs::File) -> impl Stream<Item = Result<BytesMessage, Status>> + Send {
    file.set_max_buf_size(PART_BYTES);
    async_stream::try_stream! {
        loop {
            let mut data = vec![0; PART_BYTES];
            let count = file.read(&mut data).await.map_err(ApiError::internal)?;
            if count == 0 {
                break;
            }
            data.truncate(count);
            yield BytesMessage { data };
        }
    }
}

/// An output of the node's attempt becomes a blob of the job's owner.
pub(super) async fn store_blob(
    service: &Shared,
    node: &NodeId,
    parts: &mut Streaming<StoreBlobRequest>,
) -> Result<(), Status> {
    let header = match parts.message().await?.and_then(|first| first.part) {
        Some(Part::Header(header)) => header,
        _ => return Err(ApiError::field("header", "the first message must be the header").into()),
    };
    let tenant = tenant_of(service, node, header.id.as_ref()).await?;
    let expected = digest("header.digest", &header.digest)?;
    let size = u64::try_from(header.size_bytes).ok().filter(|size| *size <= MAX_BLOB_BYTES);
    let size = size.ok_or_else(|| {
        ApiError::field("header.size_bytes", format!("must be between 0 and {MAX_BLOB_BYTES}"))
    })?;
    let storage = service.store.storage(&tenant).await.map_err(ApiError::from)?;
    if size > storage.room() && service.store.blob_get(&tenant, expected).await.is_err() {
        let (tenant, limit) = (tenant.to_string(), storage.max_bytes);
        return Err(ApiError::StorageQuota { tenant, limit }.into());
    }
    let mut upload = service.blobs.upload(size).await.map_err(ApiError::from)?;
    while let Some(message) = parts.message().await? {
        match message.part {
            Some(Part::Data(data)) => upload.write(data.into()).await.map_err(ApiError::from)?,
            Some(Part::Header(_)) => {
                return Err(ApiError::field("header", "only the first message may be a header").into());
            }
            None => {}
        }
    }
    let put = async |digest, size| service.store.fleet().blob_put(&tenant, digest, size, false).await;
    keep(service, upload, Some(expected), put).await?;
    Ok(())
}
