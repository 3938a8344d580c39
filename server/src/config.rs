use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bulkhead_scheduler::SchedulerConfig;
use bulkhead_store::{DatabaseUrls, PoolSizes};

use crate::auth::Expected;
use crate::edge::PlaceLimits;
use crate::serve::ServerError;

/// The public API's port when nothing is said.
pub const DEFAULT_PORT: u16 = 7443;
/// The workers' port when nothing is said.
pub const DEFAULT_WORKER_PORT: u16 = 7444;

/// A certificate for the public API, and its key: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those between it and a known authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How a server runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys, blobs, images and output that is not a blob yet.
    pub data_dir: PathBuf,
    /// The database.
    pub database: DatabaseUrls,
    /// Connections to the database.
    pub pools: PoolSizes,
    /// Where the public API is.
    pub listen: SocketAddr,
    /// TLS for the public API; without it only loopback addresses are accepted.
    pub tls: Option<TlsFiles>,
    /// Accept plain text on other addresses too: somebody else does TLS in front.
    pub insecure_plaintext: bool,
    /// Where workers connect, always over mutual TLS.
    pub worker_listen: SocketAddr,
    /// What tokens must say.
    pub tokens: Expected,
    /// Keys of another issuer of tokens, beside our own.
    pub jwks: Option<PathBuf>,
    /// The scheduler's times.
    pub scheduler: SchedulerConfig,
    /// Calls at once.
    pub places: PlaceLimits,
}

impl ServerConfig {
    /// The defaults: both listeners on loopback, plain text for the public one.
    pub fn new(data_dir: impl Into<PathBuf>, database: DatabaseUrls) -> Self {
        Self {
            data_dir: data_dir.into(),
            database,
            pools: PoolSizes::default(),
            listen: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            tls: None,
            insecure_plaintext: false,
            worker_listen: (Ipv4Addr::LOCALHOST, DEFAULT_WORKER_PORT).into(),
            tokens: Expected::default(),
            jwks: None,
            scheduler: SchedulerConfig::default(),
            places: PlaceLimits::default(),
        }
    }

    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    /// [`ServerError::Plaintext`].
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        if self.tls.is_none() && !self.insecure_plaintext && !self.listen.ip().is_loopback() {
            return Err(ServerError::Plaintext { listen: self.listen });
        }
        Ok(())
    }
}
