use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_types::Digest;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Cache, CacheError, Held, Key};

/// Where files are until they are complete; emptied at start.
pub(super) const INCOMING: &str = "incoming";

/// A file that is being brought. Dropped before it is complete, it takes itself away and gives its room back.
pub(super) struct Filling<'a> {
    cache: &'a Cache,
    path: PathBuf,
    file: File,
    hash: Sha256,
    written: u64,
    complete: bool,
}

impl<'a> Filling<'a> {
    pub(super) fn begin(cache: &'a Cache) -> Result<Self, CacheError> {
        let path = cache.root.join(INCOMING).join(Uuid::new_v4().to_string());
        let file = File::create_new(&path)?;
        Ok(Self { cache, path, file, hash: Sha256::new(), written: 0, complete: false })
    }

    pub(super) fn write(&mut self, part: &[u8]) -> Result<(), CacheError> {
        self.cache.state().reserve(part.len() as u64)?;
        self.written += part.len() as u64;
        self.file.write_all(part)?;
        self.hash.update(part);
        Ok(())
    }

    /// The content is on the disk before its name is: after a crash of the machine no name means less than its digest.
    pub(super) async fn complete(mut self, key: &Key) -> Result<Arc<Held>, CacheError> {
        let got = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        if got != key.digest {
            return Err(CacheError::Digest { wanted: key.digest, got });
        }
        let path = self.cache.path(key);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        sync(self.file.try_clone()?).await?;
        fs::rename(&self.path, &path)?;
        self.complete = true;
        let held = self.cache.state().insert(key.clone(), path.clone(), self.written);
        if let Some(parent) = path.parent() {
            // The content can be used whatever becomes of its name: it would only be fetched again.
            if let Err(error) = sync(File::open(parent)?).await {
                tracing::warn!(%error, "a name in the cache may not outlast a crash");
            }
        }
        Ok(held)
    }
}

async fn sync(file: File) -> io::Result<()> {
    tokio::task::spawn_blocking(move || file.sync_all()).await.map_err(io::Error::from)?
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if !self.complete {
            self.cache.state().give_back(self.written);
            // If it stays, the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
