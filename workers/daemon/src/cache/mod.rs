//! Images and blobs on this node's disk, by owner and digest, within a budget.
//!
//! Content comes once however many attempts want it (single flight), is verified while it streams, and appears under
//! its name only when complete. What an attempt uses is never evicted; of the rest the least recently used goes
//! first. Owners are kept apart: knowing a digest grants nothing, and what one tenant fetched is not another's.

mod fill;
mod state;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_types::{Digest, TenantId};
use bytes::Bytes;
use futures::{Stream, StreamExt};

use fill::Filling;
use state::State;

/// Whose content it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Shared by the operator with every tenant.
    Operator,
    /// One tenant's.
    Tenant(TenantId),
}

impl Owner {
    /// Reads `operator` or `tenants/{tenant}`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("tenants/") {
            Some(tenant) => TenantId::new(tenant).ok().map(Self::Tenant),
            None => (text == "operator").then_some(Self::Operator),
        }
    }

    /// A safe directory name, one per owner: tenant ids hold no slash, and the prefix keeps them off `operator`.
    fn directory(&self) -> String {
        match self {
            Self::Operator => "operator".to_owned(),
            Self::Tenant(tenant) => format!("tenant.{tenant}"),
        }
    }
}

/// Names a piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) owner: Owner,
    pub(crate) digest: Digest,
}

/// A file of the cache that stays as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    path: PathBuf,
}

impl Held {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Some bytes of content that is being fetched.
pub(crate) type Part = Result<Bytes, Box<tonic::Status>>;

/// Why content is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error(
        "the cache's budget of {budget} bytes has no room: all of it is in use; give the node a larger one"
    )]
    Full { budget: u64 },
    #[error("the content has the digest {got}, not {wanted}")]
    Digest { wanted: Digest, got: Digest },
    #[error("writing to the cache")]
    Io(#[from] io::Error),
    #[error("fetching from the server")]
    Fetch(#[from] Box<tonic::Status>),
}

/// The cache. Lock order: a key's flight, then the state; the state is never held over I/O other than a removal.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    state: Mutex<State>,
    flights: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

impl Cache {
    /// Opens the directory, removes what was incomplete, and finds what is there.
    pub(crate) fn open(root: PathBuf, budget: u64) -> io::Result<Self> {
        let incoming = root.join(fill::INCOMING);
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?;
        }
        fs::create_dir_all(&incoming)?;
        let mut state = State::new(budget);
        state.load(&root)?;
        Ok(Self { root, state: Mutex::new(state), flights: Mutex::default() })
    }

    /// Returns the content, and awaits `fetch` for its bytes if it is not there.
    pub(crate) async fn get<S, F>(&self, key: &Key, fetch: F) -> Result<Arc<Held>, CacheError>
    where
        F: Future<Output = Result<S, Box<tonic::Status>>>,
        S: Stream<Item = Part> + Unpin,
    {
        let there = self.state().touch(key);
        if let Some(held) = there {
            return Ok(held);
        }
        let flight = Arc::clone(lock(&self.flights).entry(key.clone()).or_default());
        let result = {
            let _alone = flight.lock().await;
            // Another attempt may have brought it meanwhile.
            let there = self.state().touch(key);
            match there {
                Some(held) => Ok(held),
                None => self.bring(key, fetch).await,
            }
        };
        drop(flight);
        // Nobody else waits for this flight: its entry would only pile up. One that comes later makes its own.
        lock(&self.flights).retain(|_, flight| Arc::strong_count(flight) > 1);
        result
    }

    async fn bring<S, F>(&self, key: &Key, fetch: F) -> Result<Arc<Held>, CacheError>
    where
        F: Future<Output = Result<S, Box<tonic::Status>>>,
        S: Stream<Item = Part> + Unpin,
    {
        let mut stream = fetch.await?;
        let mut filling = Filling::begin(self)?;
        while let Some(part) = stream.next().await {
            // At most a quarter of a MiB to the page cache: not worth a thread.
            filling.write(&part?)?;
        }
        filling.complete(key).await
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.owner.directory()).join(key.digest.hex())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Bytes on disk.
    #[cfg(test)]
    fn used(&self) -> u64 {
        self.state().used()
    }
}

/// A panic while one of these locks is held leaves plain maps and numbers, none of them half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
