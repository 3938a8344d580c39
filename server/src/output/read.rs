use bulkhead_store::Store;
use bulkhead_types::TenantId;
use bytes::Bytes;

use super::{IN_DATABASE, OutputSpool, SpooledStream};
use crate::blobs::{BlobError, BlobFiles};
use crate::error::ApiError;

/// Reads output, wherever it is.
#[derive(Clone)]
pub(crate) struct OutputReader {
    store: Store,
    blobs: BlobFiles,
    spool: OutputSpool,
}

impl OutputReader {
    pub(crate) fn new(store: Store, blobs: BlobFiles, spool: OutputSpool) -> Self {
        Self { store, blobs, spool }
    }

    /// Up to `length` bytes of what is durable from `offset` on; empty at the end.
    ///
    /// # Errors
    /// The store's, or [`ApiError::Internal`] if durable bytes are missing.
    pub(crate) async fn read(
        &self,
        tenant: &TenantId,
        of: SpooledStream,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, ApiError> {
        // A stream becomes a blob between two looks at most once.
        for _ in 0..2 {
            let slice = self.store.output_read(tenant, of.job, of.attempt, of.stream, offset, length).await?;
            if offset < IN_DATABASE || offset >= slice.stored_bytes {
                return Ok(slice.bytes.into());
            }
            let left = usize::try_from(slice.stored_bytes - offset).unwrap_or(usize::MAX);
            let length = length.min(left);
            match slice.digest {
                Some(digest) => match self.blobs.read_part(digest, offset, length).await {
                    Err(BlobError::Missing { .. }) => {}
                    other => return Ok(other?),
                },
                None => {
                    if let Some(bytes) =
                        self.spool.read(of, offset, length).await.map_err(ApiError::internal)?
                        && !bytes.is_empty()
                    {
                        return Ok(bytes);
                    }
                }
            }
        }
        let what = format!("output of job {}, attempt {} is missing at {offset}", of.job, of.attempt);
        Err(ApiError::internal(what))
    }
}
