use bulkhead_proto::v1;
use futures::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::retry::{Patience, request_id};
use crate::{Client, ClientError};

/// Data of one message of an upload, in bytes.
const PART_BYTES: usize = 256 << 10;

/// Reads `source` as parts of an upload, after the header; a failure to read ends the stream and is told by `failed`.
pub(crate) fn parts<R, T>(
    header: T,
    source: R,
    wrap: fn(Vec<u8>) -> T,
    failed: std::sync::Arc<std::sync::Mutex<Option<std::io::Error>>>,
) -> impl Stream<Item = T> + Send + 'static
where
    R: AsyncRead + Send + Unpin + 'static,
    T: Send + 'static,
{
    let data = stream::unfold(source, move |mut source| {
        let failed = std::sync::Arc::clone(&failed);
        async move {
            let mut data = Vec::with_capacity(PART_BYTES);
            match (&mut source).take(PART_BYTES as u64).read_to_end(&mut data).await {
                Ok(0) => None,
                Ok(_) => Some((wrap(data), source)),
                Err(error) => {
                    *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    None
                }
            }
        }
    });
    stream::iter([header]).chain(data)
}

/// Blobs. Each call fails with what the service says ([`ClientError`]).
impl Client {
    /// Uploads a blob. Give the digest if it is known: then a source that fails half-way can't become a shorter blob,
    /// which otherwise is told only after the fact.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, DIGEST_MISMATCH; what reading `source` says.
    pub async fn upload_blob(
        &self,
        parent: &str,
        source: impl AsyncRead + Send + Unpin + 'static,
        expected_digest: Option<&str>,
    ) -> Result<v1::Blob, ClientError> {
        let header = v1::upload_blob_request::Header {
            parent: parent.to_owned(),
            expected_digest: expected_digest.unwrap_or_default().to_owned(),
            request_id: request_id(),
        };
        let failed = std::sync::Arc::default();
        let part = |part| v1::UploadBlobRequest { part: Some(part) };
        let requests = parts(
            part(v1::upload_blob_request::Part::Header(header)),
            source,
            |data| v1::UploadBlobRequest { part: Some(v1::upload_blob_request::Part::Data(data)) },
            std::sync::Arc::clone(&failed),
        );
        let answer = self.blobs().upload_blob(requests).await;
        source_error(&failed)?;
        Ok(answer?.into_inner())
    }

    /// Downloads a blob into `sink`; takes up where it was when the connection breaks. Returns its size in bytes.
    ///
    /// # Errors
    /// NOT_FOUND; what writing to `sink` says.
    pub async fn download_blob(
        &self,
        name: &str,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64, ClientError> {
        let mut offset: u64 = 0;
        let mut patience = Patience::new();
        loop {
            let request = v1::DownloadBlobRequest {
                name: name.to_owned(),
                offset: i64::try_from(offset).unwrap_or(i64::MAX),
            };
            let result = self.download_part(request, sink, &mut offset).await;
            match result {
                Ok(()) => break,
                Err(error) if error.is_unavailable() && patience.wait().await => {}
                Err(error) => return Err(error),
            }
        }
        sink.flush().await.map_err(|e| ClientError::local(format!("writing the blob: {e}")))?;
        Ok(offset)
    }

    async fn download_part(
        &self,
        request: v1::DownloadBlobRequest,
        sink: &mut (impl AsyncWrite + Unpin),
        offset: &mut u64,
    ) -> Result<(), ClientError> {
        let mut stream = self.blobs().download_blob(request).await?.into_inner();
        while let Some(part) = stream.message().await? {
            let written = sink.write_all(&part.data).await;
            written.map_err(|e| ClientError::local(format!("writing the blob: {e}")))?;
            *offset += part.data.len() as u64;
        }
        Ok(())
    }
}

/// The error of an upload's source, which explains the service's answer better than the answer itself.
#[expect(clippy::result_large_err, reason = "called once an upload")]
pub(crate) fn source_error(failed: &std::sync::Mutex<Option<std::io::Error>>) -> Result<(), ClientError> {
    match failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        Some(error) => Err(ClientError::local(format!("reading what is uploaded: {error}"))),
        None => Ok(()),
    }
}
