//! Archives that are made to break out, to exhaust, or to confuse. Each ends in a typed error, or does what the
//! documentation of the importer says.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod archives;
#[path = "hostile/bombs.rs"]
mod bombs;
#[path = "hostile/damage.rs"]
mod damage;
#[path = "hostile/descriptions.rs"]
mod descriptions;
#[path = "hostile/layers.rs"]
mod layers;
#[path = "hostile/names.rs"]
mod names;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use bulkhead_erofs::{Content, NodeId};
use bulkhead_image::archive::{ArchiveError, Imported, import};

/// Enough for every archive here that is not a bomb.
const MAX_BYTES: u64 = 8 << 20;

/// An archive that was imported, in memory.
#[derive(Debug)]
struct Loaded {
    imported: Imported,
    spool: File,
}

fn load(archive: impl Read) -> Result<Loaded, ArchiveError> {
    load_bounded(archive, MAX_BYTES)
}

fn load_bounded(archive: impl Read, max_bytes: u64) -> Result<Loaded, ArchiveError> {
    let spool = tempfile::tempfile().unwrap();
    let imported = import(archive, spool.try_clone().unwrap(), max_bytes)?;
    Ok(Loaded { imported, spool })
}

impl Loaded {
    /// The node at a path, no links followed.
    fn at(&self, path: &str) -> Option<NodeId> {
        let tree = &self.imported.tree;
        let mut id = tree.root();
        for part in path.split('/') {
            id = *tree.children(id)?.get(part.as_bytes())?;
        }
        Some(id)
    }

    fn content(&self, path: &str) -> Option<&Content> {
        Some(&self.imported.tree.node(self.at(path)?).content)
    }

    /// The text of a regular file.
    fn text(&self, path: &str) -> Option<String> {
        let Content::Regular { offset, size } = *self.content(path)? else { return None };
        let mut bytes = vec![0; size as usize];
        self.spool.read_exact_at(&mut bytes, offset).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }

    /// All paths, sorted.
    fn paths(&self) -> Vec<String> {
        let tree = &self.imported.tree;
        let mut paths = Vec::new();
        let mut pending = vec![(String::new(), tree.root())];
        while let Some((path, id)) = pending.pop() {
            for (name, child) in tree.children(id).into_iter().flatten() {
                let separator = if path.is_empty() { "" } else { "/" };
                let path = format!("{path}{separator}{}", String::from_utf8_lossy(name));
                pending.push((path.clone(), *child));
                paths.push(path);
            }
        }
        paths.sort();
        paths
    }
}
