use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_store::cluster::PrivateCluster;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Between the end of PostgreSQL and its next start, and between tries.
const RESTART_AFTER: Duration = Duration::from_millis(300);

/// The private PostgreSQL, which is to run always.
pub(super) struct Cluster {
    data_dir: PathBuf,
    cluster: PrivateCluster,
}

impl Cluster {
    /// Starts it, or adopts the one that a killed service left.
    pub(super) async fn start(data_dir: &Path) -> Result<Self, Failure> {
        let cluster = PrivateCluster::start(data_dir).await;
        let cluster = cluster.map_err(|e| Failure::of("the private PostgreSQL can't be started", &e))?;
        Ok(Self { data_dir: data_dir.to_owned(), cluster })
    }

    /// Its main process.
    pub(super) fn pid(&self) -> u32 {
        self.cluster.pid()
    }

    /// Keeps it running until `stop`; then stops it.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.cluster.ended() => tracing::warn!("PostgreSQL ended"),
                () = stop.cancelled() => break,
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(RESTART_AFTER) => {}
                    () = stop.cancelled() => return,
                }
                match PrivateCluster::start(&self.data_dir).await {
                    Ok(cluster) => {
                        tracing::info!(pid = cluster.pid(), "PostgreSQL started again");
                        self.cluster = cluster;
                        break;
                    }
                    Err(error) => {
                        let error = bulkhead_telemetry::Chain(&error);
                        tracing::error!(%error, "PostgreSQL can't be started again");
                    }
                }
            }
        }
        if let Err(error) = self.cluster.stop().await {
            tracing::error!(error = %bulkhead_telemetry::Chain(&error), "PostgreSQL did not stop");
        }
    }
}
