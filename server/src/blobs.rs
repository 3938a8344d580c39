//! The bytes of blobs, by digest. Which tenant has which is in the database; here lies each digest once.
//!
//! ```text
//! <data-dir>/blobs/
//!   staging/UUID         an upload under way; removed at start
//!   sha256/ab/HEX        complete, durable, and what its name says
//! ```

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bulkhead_types::Digest;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::ApiError;

/// Largest blob, in bytes.
pub const MAX_BLOB_BYTES: u64 = 4 << 30;
/// Most bytes of one message of a download.
pub const PART_BYTES: usize = 256 << 10;
/// Parts of an upload that may wait for the disk: bounds the memory of an upload to about 3 x 5 MiB.
const PARTS_UNDER_WAY: usize = 2;

/// Why bytes can't be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The upload is over its bound.
    #[error("at most {max} bytes are accepted")]
    TooLarge {
        /// The bound, in bytes.
        max: u64,
    },
    /// The bytes are not those that were promised.
    #[error("the bytes have digest {found}, not {expected}")]
    Mismatch {
        /// The promised digest.
        expected: Digest,
        /// The bytes' digest.
        found: Digest,
    },
    /// There is no blob of that digest.
    #[error("blob {digest} is missing")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// The directory can't be made or tidied.
    #[error("the directory {path} can't be used")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store of objects failed.
    #[error("the blob store failed")]
    Store(#[from] object_store::Error),
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::TooLarge { max } => Self::field("data", format!("at most {max} bytes are accepted")),
            BlobError::Mismatch { expected, found } => Self::DigestMismatch { expected, found },
            other => Self::internal(other),
        }
    }
}

/// The blobs of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobFiles {
    store: Arc<dyn ObjectStore>,
}

fn location(digest: &Digest) -> Path {
    let hex = digest.hex();
    Path::from_iter(["sha256", &hex[..2], &hex])
}

impl BlobFiles {
    /// Opens `blobs/` under a data directory, makes it if it is missing, and removes unfinished uploads.
    ///
    /// # Errors
    /// [`BlobError::Directory`], [`BlobError::Store`].
    pub fn open(data: &FilePath) -> Result<Self, BlobError> {
        let root = data.join("blobs");
        let staging = root.join("staging");
        let failed = |source| BlobError::Directory { path: root.clone(), source };
        if staging.exists() {
            std::fs::remove_dir_all(&staging).map_err(failed)?;
        }
        // Other users of the machine have no business here.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&staging).map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self { store: Arc::new(store) })
    }

    /// Starts an upload of at most `max` bytes.
    ///
    /// # Errors
    /// [`BlobError::Store`].
    pub async fn upload(&self, max: u64) -> Result<Upload, BlobError> {
        let staged = Path::from_iter(["staging", &Uuid::new_v4().to_string()]);
        let parts = self.store.put_multipart(&staged).await?;
        Ok(Upload {
            store: self.store.clone(),
            writer: Some(WriteMultipart::new(parts)),
            staged,
            hash: Sha256::new(),
            size: 0,
            max,
        })
    }

    /// The bytes from `offset` on, in parts of at most [`PART_BYTES`]; `size` is the blob's.
    ///
    /// # Errors
    /// [`BlobError::Missing`] now, [`BlobError::Store`] also later.
    pub async fn read(
        &self,
        digest: Digest,
        offset: u64,
        size: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, BlobError>> + Send + use<>, BlobError> {
        let parts = if offset >= size {
            futures::stream::empty().boxed()
        } else {
            let options = GetOptions { range: Some(GetRange::Offset(offset)), ..Default::default() };
            let found = self.store.get_opts(&location(&digest), options).await.map_err(missing(digest))?;
            found.into_stream().map_err(BlobError::Store).boxed()
        };
        Ok(gather(parts))
    }

    /// Up to `length` bytes from `offset`: fewer at the blob's end.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Store`].
    pub async fn read_part(&self, digest: Digest, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        let range = offset..offset.saturating_add(length as u64);
        self.store.get_range(&location(&digest), range).await.map_err(missing(digest))
    }

    /// Whether the bytes are there.
    ///
    /// # Errors
    /// [`BlobError::Store`].
    pub async fn exists(&self, digest: Digest) -> Result<bool, BlobError> {
        match self.store.head(&location(&digest)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes bytes that no tenant has any more.
    ///
    /// # Errors
    /// [`BlobError::Store`].
    pub async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        match self.store.delete(&location(&digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn missing(digest: Digest) -> impl FnOnce(object_store::Error) -> BlobError {
    move |error| match error {
        object_store::Error::NotFound { .. } => BlobError::Missing { digest },
        other => BlobError::Store(other),
    }
}

/// Makes parts of [`PART_BYTES`] out of the small ones that a store yields.
fn gather(
    mut parts: impl Stream<Item = Result<Bytes, BlobError>> + Send + Unpin,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send {
    async_stream::try_stream! {
        let mut gathered = BytesMut::new();
        while let Some(part) = parts.next().await {
            let mut part = part?;
            while !part.is_empty() {
                let room = PART_BYTES - gathered.len();
                gathered.extend_from_slice(&part.split_to(room.min(part.len())));
                if gathered.len() == PART_BYTES {
                    yield gathered.split().freeze();
                }
            }
        }
        if !gathered.is_empty() {
            yield gathered.freeze();
        }
    }
}

/// An upload under way. Dropped before its end it leaves nothing.
pub struct Upload {
    store: Arc<dyn ObjectStore>,
    writer: Option<WriteMultipart>,
    staged: Path,
    hash: Sha256,
    size: u64,
    max: u64,
}

impl Upload {
    /// Takes bytes; waits while the disk is behind.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], [`BlobError::Store`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.max {
            return Err(BlobError::TooLarge { max: self.max });
        }
        self.hash.update(&bytes);
        if let Some(writer) = &mut self.writer {
            writer.wait_for_capacity(PARTS_UNDER_WAY).await?;
            writer.put(bytes);
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob appear, complete and durable, under its digest. Answers with digest and size.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] if the digest is not the expected one, [`BlobError::Store`].
    pub async fn finish(mut self, expected: Option<Digest>) -> Result<(Digest, u64), BlobError> {
        let found = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(BlobError::Mismatch { expected, found });
        }
        if let Some(writer) = self.writer.take() {
            writer.finish().await?;
            self.store.rename(&self.staged, &location(&found)).await?;
        }
        Ok((found, self.size))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = writer.abort().await {
                    tracing::warn!(%error, "an unfinished upload could not be removed; it goes at the next start");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(blobs: &BlobFiles, bytes: &[u8]) -> (Digest, u64) {
        let mut upload = blobs.upload(MAX_BLOB_BYTES).await.expect("upload");
        for part in bytes.chunks(100_000) {
            upload.write(Bytes::copy_from_slice(part)).await.expect("written");
        }
        upload.finish(None).await.expect("finished")
    }

    async fn read(blobs: &BlobFiles, digest: Digest, offset: u64, size: u64) -> Vec<u8> {
        let parts = blobs.read(digest, offset, size).await.expect("read");
        let parts: Vec<Bytes> = parts.try_collect().await.expect("parts");
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES && !part.is_empty()));
        parts.concat()
    }

    #[tokio::test]
    async fn bytes_come_back_from_any_offset() {
        let data = tempfile::tempdir().expect("directory");
        let blobs = BlobFiles::open(data.path()).expect("open");
        // Over the size of one part of a multipart upload (5 MiB).
        let bytes: Vec<u8> = (0..6_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (digest, size) = store(&blobs, &bytes).await;
        assert_eq!(digest, Digest::from_bytes(Sha256::digest(&bytes).into()));
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(read(&blobs, digest, 0, size).await, bytes);
        assert_eq!(read(&blobs, digest, 5_999_999, size).await, bytes[5_999_999..]);
        assert_eq!(read(&blobs, digest, size, size).await, b"");
        assert_eq!(blobs.read_part(digest, 10, 5).await.expect("part"), bytes[10..15]);
        let (empty, _) = store(&blobs, b"").await;
        assert_eq!(read(&blobs, empty, 0, 0).await, b"");
        assert!(blobs.exists(digest).await.expect("head"));
        blobs.delete(digest).await.expect("deleted");
        blobs.delete(digest).await.expect("deleted again");
        assert!(matches!(blobs.read(digest, 0, size).await.err(), Some(BlobError::Missing { .. })));
    }

    #[tokio::test]
    async fn what_is_refused_leaves_nothing() {
        let data = tempfile::tempdir().expect("directory");
        let blobs = BlobFiles::open(data.path()).expect("open");
        let mut upload = blobs.upload(10).await.expect("upload");
        upload.write(Bytes::from_static(b"1234567890")).await.expect("fits");
        let over = upload.write(Bytes::from_static(b"1")).await;
        assert!(matches!(over, Err(BlobError::TooLarge { max: 10 })));
        drop(upload);
        let mut upload = blobs.upload(10).await.expect("upload");
        upload.write(Bytes::from_static(b"abc")).await.expect("fits");
        let wrong = upload.finish(Some(Digest::from_bytes([0; 32]))).await;
        assert!(matches!(wrong, Err(BlobError::Mismatch { .. })));
        let left = || {
            let staging = std::fs::read_dir(data.path().join("blobs/staging")).expect("staging").count();
            staging + usize::from(data.path().join("blobs/sha256").exists())
        };
        for _ in 0..200 {
            if left() == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(left(), 0);
        // What a killed server left goes at the next start.
        std::fs::write(data.path().join("blobs/staging/x"), b"half").expect("written");
        BlobFiles::open(data.path()).expect("open");
        assert_eq!(left(), 0);
    }
}
