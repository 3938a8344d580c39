//! The service's own keys and certificates, made at first use and kept in `keys/` of the data directory.

mod certificates;
mod files;

use std::path::PathBuf;

pub use certificates::{Authority, Credentials, SERVER_NAME, node_of_certificate};
pub use files::KeyDirectory;

/// Where the key that seals secret values lies in the key directory: 32 bytes.
const SECRETS_KEY_FILE: &str = "secrets.key";

/// Why a key or certificate can't be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error("{path} can't be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key that others could have read.
    #[error(
        "{path} can be read by others than its owner: make new keys, or run chmod 600 on it if you are sure"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A file that holds something else.
    #[error(
        "{path} is damaged; restore it, or remove it to have it made anew (tokens and certificates of it end)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no randomness.
    #[error("no random bytes can be had")]
    Random,
    /// A certificate can't be made.
    #[error("a certificate can't be made")]
    Certificate(#[source] rcgen::Error),
    /// A token can't be signed.
    #[error("the token can't be signed")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl KeyDirectory {
    /// The key that seals secret values in the database.
    ///
    /// # Errors
    /// [`IdentityError`] if it can't be read, made or used.
    pub fn secrets_key(&self) -> Result<[u8; 32], IdentityError> {
        let bytes = self.read_or_create(SECRETS_KEY_FILE, || {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).map_err(|_| IdentityError::Random)?;
            Ok(key.to_vec())
        })?;
        bytes.try_into().map_err(|_| IdentityError::Damaged { path: self.path(SECRETS_KEY_FILE) })
    }
}
