use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_image::{FileDigest, ImageMeta};
use bulkhead_proto::worker::{self, AttemptId, FetchBlobRequest, FetchImageRequest};
use bulkhead_sandbox::ImageFiles;
use bulkhead_types::Digest;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use tonic::{Code, Status};

use super::Problem;
use crate::attach::Client;
use crate::attempt::Attempt;
use crate::cache::{Cache, CacheError, Held, Key, Owner, Part};

/// Between two tries while the server is away.
const RETRY_AFTER: Duration = Duration::from_millis(300);
/// Tries while the server is there but fails; while it is away there is no end but the lease's.
const TRIES: u32 = 10;

/// The files of an image, held in the cache as long as this lives.
pub(super) struct HeldImage {
    public: Arc<Held>,
    private: Option<Arc<Held>>,
}

impl HeldImage {
    pub(super) fn files(&self) -> ImageFiles {
        ImageFiles {
            public: self.public.path().to_owned(),
            private: self.private.as_ref().map(|held| held.path().to_owned()),
        }
    }
}

/// The blobs of a job, held in the cache as long as this lives.
pub(super) struct Blobs {
    held: HashMap<Digest, Arc<Held>>,
}

impl Blobs {
    pub(super) fn open(&self, digest: &Digest) -> io::Result<File> {
        let held = self.held.get(digest).ok_or_else(|| io::Error::other("a blob was not fetched"))?;
        File::open(held.path())
    }
}

/// Brings what an attempt needs.
pub(super) struct Fetcher<'a> {
    pub(super) cache: &'a Cache,
    pub(super) client: Client,
    pub(super) attempt: &'a Attempt,
}

impl Fetcher<'_> {
    pub(super) async fn image(
        &self,
        digest: &Digest,
        owner: Owner,
        meta: &ImageMeta,
    ) -> Result<HeldImage, Problem> {
        let public = self.image_file(digest, &owner, &meta.public, false).await?;
        let private = match &meta.private {
            Some(private) => Some(self.image_file(digest, &owner, private, true).await?),
            None => None,
        };
        Ok(HeldImage { public, private })
    }

    async fn image_file(
        &self,
        image: &Digest,
        owner: &Owner,
        file: &FileDigest,
        private: bool,
    ) -> Result<Arc<Held>, Problem> {
        let request = FetchImageRequest { id: Some(self.id()), digest: image.to_string(), private };
        let client = self.client.clone();
        let fetch = move || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { Ok(bytes_of(client.fetch_image(request).await.map_err(Box::new)?)) }.boxed()
        };
        self.get("the image", &Key { owner: owner.clone(), digest: file.digest }, fetch).await
    }

    pub(super) async fn blobs(&self, digests: Vec<Digest>) -> Result<Blobs, Problem> {
        let mut held = HashMap::new();
        for digest in digests {
            let request = FetchBlobRequest { id: Some(self.id()), digest: digest.to_string() };
            let client = self.client.clone();
            let fetch = move || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { Ok(bytes_of(client.fetch_blob(request).await.map_err(Box::new)?)) }.boxed()
            };
            let key = Key { owner: Owner::Tenant(self.attempt.name.tenant.clone()), digest };
            held.insert(digest, self.get("an input blob", &key, fetch).await?);
        }
        Ok(Blobs { held })
    }

    fn id(&self) -> AttemptId {
        (&self.attempt.name).into()
    }

    /// Tries again while the server is away: the end of the lease ends that.
    async fn get(&self, what: &str, key: &Key, fetch: impl Fn() -> Fetch) -> Result<Arc<Held>, Problem> {
        let mut tries = 0;
        loop {
            match self.cache.get(key, fetch()).await {
                Ok(held) => return Ok(held),
                Err(CacheError::Fetch(status)) if is_transient(status.code()) && tries < TRIES => {
                    tries += u32::from(status.code() != Code::Unavailable);
                    tracing::debug!(attempt = %self.attempt.name, %status, what, "fetching again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Err(CacheError::Fetch(status)) if status.code() == Code::NotFound => {
                    return Err(Problem::Job(format!("{what} {} is gone", key.digest)));
                }
                Err(error) => {
                    return Err(Problem::Node(format!(
                        "{what} could not be brought: {}",
                        super::chain(&error)
                    )));
                }
            }
        }
    }
}

/// Whether the same call may succeed later.
pub(crate) fn is_transient(code: Code) -> bool {
    // Unknown and Internal are what a connection that breaks in mid-stream looks like.
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
    )
}

/// One try at a call of the server; nothing happens until it is awaited.
type Fetch = BoxFuture<'static, Result<BoxStream<'static, Part>, Box<Status>>>;

fn bytes_of(answer: tonic::Response<tonic::Streaming<worker::Bytes>>) -> BoxStream<'static, Part> {
    answer.into_inner().map(|part| part.map(|part| Bytes::from(part.data)).map_err(Box::new)).boxed()
}
