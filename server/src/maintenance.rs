//! What is done beside the calls: health, and content that nobody has any more.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bulkhead_image::Owner;
use bulkhead_proto::v1::blob_service_server::BlobServiceServer;
use bulkhead_proto::v1::image_service_server::ImageServiceServer;
use bulkhead_proto::v1::job_service_server::JobServiceServer;
use bulkhead_telemetry::Chain;
use bulkhead_types::{Digest, ImageName};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::{Blobs, Images, Jobs, Service, new_image};
use crate::serve::ServerError;

/// How often the database is asked whether it is there.
const CHECK: Duration = Duration::from_secs(2);
/// How often the local store is looked at for new images of the operator.
const LOOK: Duration = Duration::from_secs(5);
/// How often content is tidied up.
const TIDY: Duration = Duration::from_secs(300);
/// How long a blob that no job names is kept for its tenant.
const KEEP_UNUSED: Duration = Duration::from_secs(24 * 3600);
/// Blobs that are forgotten at once.
const PRUNE_BATCH: u32 = 500;

/// The operator's images of the local store that are shared: `bulkhead image` puts them there, also while the
/// service runs.
pub(crate) struct SharedImages(BTreeSet<(ImageName, Digest)>);

impl SharedImages {
    /// Shares those that are there now.
    ///
    /// # Errors
    /// [`ServerError`] if the store or the database can't be used.
    pub(crate) async fn new(service: &Arc<Service>) -> Result<Self, ServerError> {
        let mut shared = Self(BTreeSet::new());
        shared.look(service).await?;
        Ok(shared)
    }

    /// Shares what has come since the last look. What an operator has unshared since then stays so.
    async fn look(&mut self, service: &Arc<Service>) -> Result<(), ServerError> {
        let images = service.images.clone();
        let listed = tokio::task::spawn_blocking(move || images.list_of(&Owner::Operator)).await;
        let ended =
            |error: tokio::task::JoinError| ServerError::File { path: "images".into(), source: error.into() };
        let listed = listed.map_err(ended)??;
        let mut found = BTreeSet::new();
        for image in &listed {
            for name in &image.names {
                let this = (name.clone(), image.digest);
                if !self.0.contains(&this) {
                    service.store.fleet().image_share(&new_image(name.clone(), image)).await?;
                    tracing::info!(%name, digest = %image.digest, "an image is shared with all tenants");
                }
                found.insert(this);
            }
        }
        self.0 = found;
        Ok(())
    }
}

/// Until the service stops: tells health, shares images, and tidies up.
pub(crate) async fn tend(service: Arc<Service>, health: HealthReporter, mut shared: SharedImages) {
    let mut checks = tokio::time::interval(CHECK);
    let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
    let mut tidying = tokio::time::interval_at(tokio::time::Instant::now() + TIDY, TIDY);
    loop {
        tokio::select! {
            _ = checks.tick() => {
                let serves = service.store.fleet().ping().await.is_ok();
                tell(&health, serves).await;
            }
            _ = looks.tick() => {
                if let Err(error) = shared.look(&service).await {
                    tracing::warn!(error = %Chain(&error), "new images of the local store could not be shared");
                }
            }
            _ = tidying.tick() => {
                if tidy(&service).await {
                    // Between two batches the others have their turn: uploads, and the checks above.
                    tidying.reset_immediately();
                }
            }
            () = service.shutdown.cancelled() => break,
        }
    }
    tell(&health, false).await;
}

async fn tell(health: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    let jobs = <JobServiceServer<Jobs> as tonic::server::NamedService>::NAME;
    let blobs = <BlobServiceServer<Blobs> as tonic::server::NamedService>::NAME;
    let images = <ImageServiceServer<Images> as tonic::server::NamedService>::NAME;
    for name in [jobs, blobs, images] {
        health.set_service_status(name, status).await;
    }
}

/// Forgets a batch of blobs, or, once there are none, images. Says whether there may be more blobs.
async fn tidy(service: &Service) -> bool {
    // Content that comes in goes before: what is left over can wait.
    let Ok(_content) = service.content.try_write() else { return false };
    match remove_blobs(service).await {
        Ok(true) => return true,
        Ok(false) => {
            if let Err(error) = remove_images(service).await {
                tracing::warn!(error = %Chain(&error), "images could not be tidied up");
            }
        }
        Err(error) => tracing::warn!(error = %Chain(&error), "blobs could not be tidied up"),
    }
    false
}

/// Removes a batch of blobs that nobody has any more; says whether there were any.
async fn remove_blobs(service: &Service) -> Result<bool, ServerError> {
    let mut gone = service.store.fleet().blobs_prune(KEEP_UNUSED, PRUNE_BATCH).await?;
    let refused = std::mem::take(&mut *service.refused.lock().unwrap_or_else(PoisonError::into_inner));
    for digest in refused {
        if !service.store.fleet().blob_is_held(digest).await? {
            gone.push(digest);
        }
    }
    for digest in &gone {
        if let Err(error) = service.blobs.delete(*digest).await {
            tracing::warn!(%digest, error = %Chain(&error), "a blob could not be removed");
        }
    }
    Ok(!gone.is_empty())
}

/// Removes images that no name means and no job needs. Those of the operator only once they have no name in the
/// local store either: `bulkhead image` works on it without us.
async fn remove_images(service: &Service) -> Result<(), ServerError> {
    let needed = service.store.fleet().image_digests().await?;
    let images = service.images.clone();
    let work = move || -> Result<(), bulkhead_image::StoreError> {
        for image in images.list()? {
            let named_here = image.owner == Owner::Operator && !image.names.is_empty();
            if !named_here && !needed.contains(&image.digest) {
                images.delete(&image.owner, image.digest)?;
                tracing::info!(owner = %image.owner, digest = %image.digest, "an image is removed");
            }
        }
        Ok(())
    };
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| ServerError::File { path: "images".into(), source: error.into() })??)
}
