use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_image::ImageMeta;
use bulkhead_proto::worker::{self, AttemptId, FetchBlobRequest, FetchImageRequest};
use bulkhead_sandbox::ImageFiles;
use bulkhead_types::Digest;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tonic::{Code, Status};

use super::Problem;
use crate::attach::Client;
use crate::attempt::Attempt;
use crate::cache::{Cache, CacheError, Held, Key, Owner};

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
    pub(super) async fn image(&self, digest: &Digest, owner: Owner, meta: &ImageMeta) -> Result<HeldImage, Problem> {
        let file = async |file: &bulkhead_image::FileDigest, private| {
            let request =
                FetchImageRequest { id: Some(self.id()), digest: digest.to_string(), private };
            let fetch = async || {
                let stream = self.client.clone().fetch_image(request.clone()).await.map_err(Box::new)?;
                Ok(bytes_of(stream.into_inner()))
            };
            self.get("the image", &Key { owner: owner.clone(), digest: file.digest }, fetch).await
        };
        let public = file(&meta.public, false).await?;
        let private = match &meta.private {
            Some(private) => Some(file(private, true).await?),
            None => None,
        };
        Ok(HeldImage { public, private })
    }

    pub(super) async fn blobs(&self, digests: Vec<Digest>) -> Result<Blobs, Problem> {
        let mut held = HashMap::new();
        for digest in digests {
            let request = FetchBlobRequest { id: Some(self.id()), digest: digest.to_string() };
            let fetch = async || {
                let stream = self.client.clone().fetch_blob(request.clone()).await.map_err(Box::new)?;
                Ok(bytes_of(stream.into_inner()))
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
    async fn get<S, F>(&self, what: &str, key: &Key, fetch: F) -> Result<Arc<Held>, Problem>
    where
        F: AsyncFn() -> Result<S, Box<Status>>,
        S: Stream<Item = Result<Bytes, Box<Status>>> + Unpin,
    {
        let mut tries = 0;
        loop {
            match self.cache.get(key, async || fetch().await).await {
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
                    return Err(Problem::Node(format!("{what} could not be brought: {}", super::chain(&error))));
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
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted
    )
}

fn bytes_of(
    stream: tonic::Streaming<worker::Bytes>,
) -> impl Stream<Item = Result<Bytes, Box<Status>>> + Unpin {
    stream.map(|part| part.map(|part| Bytes::from(part.data)).map_err(Box::new))
}
