use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of the disk that images and blobs may take when the operator says nothing.
const DEFAULT_CACHE_BYTES: u64 = 20 << 30;
/// How long a draining worker lets its attempts run when the operator says nothing.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// How a worker behaves. What it connects to is an `Endpoint`, so that certificates are its maker's business.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Where the spool, the cache and scratch files live; made by the caller, mode 0700.
    pub data_dir: PathBuf,
    /// Disk budget of the cache of images and blobs, in bytes.
    pub cache_budget_bytes: u64,
    /// Memory that the host keeps, in bytes; none means a tenth, at least 512 MiB.
    pub memory_reserve_bytes: Option<u64>,
    /// After this time of draining, what still runs is ended by its grace period.
    pub drain_timeout: Duration,
}

impl WorkerConfig {
    /// The defaults: a cache of 20 GiB, a tenth of the memory kept, 30 s of draining.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            cache_budget_bytes: DEFAULT_CACHE_BYTES,
            memory_reserve_bytes: None,
            drain_timeout: DEFAULT_DRAIN,
        }
    }
}

/// Why a worker can't start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The host did not do something.
    #[error("{what} failed")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// /proc/meminfo lacks a line.
    #[error("/proc/meminfo does not tell {0}")]
    NoMeminfo(&'static str),
    /// Nothing is left for jobs.
    #[error(
        "the host's reserve of {reserve} bytes leaves nothing of its {total} bytes of memory; make it smaller"
    )]
    Reserve {
        /// What is kept, in bytes.
        reserve: u64,
        /// What there is, in bytes.
        total: u64,
    },
}
