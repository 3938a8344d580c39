use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::{CacheError, Held, Key, Owner, fill};

/// What is there, how large, and when it was used last.
#[derive(Debug)]
pub(super) struct State {
    entries: HashMap<Key, Entry>,
    budget: u64,
    used: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    held: Arc<Held>,
    size: u64,
    last_use: u64,
}

impl State {
    pub(super) fn new(budget: u64) -> Self {
        Self { entries: HashMap::new(), budget, used: 0, clock: 0 }
    }

    /// Finds what an earlier life left, oldest first; files that have no place here are removed.
    pub(super) fn load(&mut self, root: &Path) -> io::Result<()> {
        let mut found: Vec<(SystemTime, Key, PathBuf, u64)> = Vec::new();
        for owner in fs::read_dir(root)? {
            let owner = owner?;
            if owner.file_name() == fill::INCOMING {
                continue;
            }
            let parsed = owner.file_name().to_str().and_then(owner_of);
            for entry in fs::read_dir(owner.path())? {
                let entry = entry?;
                let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let (Some(owner), Some(digest)) = (&parsed, digest) else {
                    fs::remove_file(entry.path())?;
                    continue;
                };
                let metadata = entry.metadata()?;
                let key = Key { owner: owner.clone(), digest };
                found.push((metadata.modified()?, key, entry.path(), metadata.len()));
            }
        }
        found.sort_by_key(|(modified, ..)| *modified);
        for (_, key, path, size) in found {
            self.used += size;
            self.insert(key, path, size);
        }
        // The budget may be smaller than it was. Nothing is in use yet, so this can't fail.
        let _ = self.reserve(0);
        Ok(())
    }

    /// The content, if it is there; it is then the most recently used.
    pub(super) fn touch(&mut self, key: &Key) -> Option<Arc<Held>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.last_use = self.clock;
        Some(Arc::clone(&entry.held))
    }

    /// Takes over a complete file whose bytes are reserved.
    pub(super) fn insert(&mut self, key: Key, path: PathBuf, size: u64) -> Arc<Held> {
        self.clock += 1;
        let held = Arc::new(Held { path });
        self.entries.insert(key, Entry { held: Arc::clone(&held), size, last_use: self.clock });
        held
    }

    /// Counts `bytes` more, and evicts what nobody uses until they fit.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), CacheError> {
        while self.used.saturating_add(bytes) > self.budget {
            let idle = self.entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.held) == 1);
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone())
            else {
                return Err(CacheError::Full { budget: self.budget });
            };
            if let Some(entry) = self.entries.remove(&oldest) {
                fs::remove_file(entry.held.path())?;
                self.used -= entry.size;
            }
        }
        self.used += bytes;
        Ok(())
    }

    /// Bytes that were reserved and are not used after all.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used
    }
}

fn owner_of(directory: &str) -> Option<Owner> {
    match directory.strip_prefix("tenant.") {
        Some(tenant) => Owner::parse(&format!("tenants/{tenant}")),
        None => Owner::parse(directory),
    }
}
