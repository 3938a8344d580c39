//! Archives made into a tree: OCI layouts, `docker save` tars and plain root file systems.
//!
//! All of it runs in the converter's jailed process, and trusts nothing of an archive: see
//! [`bounds`] for how much there may be of anything, and `layer` for what entries may do. Nothing is
//! ever unpacked: names and metadata are a tree in memory, data are runs of one temporary file.

pub mod bounds;
mod docker;
mod error;
mod layer;
mod oci;
mod path;
mod spool;
mod stream;
mod tar;

use std::fs::File;
use std::io::Read;

use bulkhead_erofs::{Content, Tree};
use bulkhead_types::Digest;
use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use layer::Builder;
use spool::{Run, Spool};
use stream::{Bounded, Hashing, decompress, drain};
use tar::TarReader;

pub use error::ArchiveError;

/// What an archive turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// What `docker save` wrote before it wrote OCI layouts.
    Docker,
    /// A root file system.
    Root,
}

/// An archive in memory, with its data in the spool.
#[derive(Debug)]
pub struct Imported {
    pub kind: ArchiveKind,
    pub tree: Tree,
    pub config: ImageConfig,
    /// Entries that were read, those of the archive around the layers included.
    pub entries: u64,
}

/// Reads a whole archive. `spool` is an empty file, which then holds the data of the tree; at most
/// `max_bytes` are put into it.
///
/// # Errors
/// [`ArchiveError`]: the archive is none, is damaged, hostile or too large, or the host refuses.
pub fn import(archive: impl Read, spool: File, max_bytes: u64) -> Result<Imported, ArchiveError> {
    let mut spool = Spool::new(spool, max_bytes);
    let mut outer = Builder::new();
    let stream = Bounded::new(decompress(Bounded::new(archive, max_bytes))?, max_bytes);
    let mut reader = TarReader::new(stream);
    outer.apply(&mut reader, false, &mut spool)?;
    if !reader.has_end_mark() {
        let what = if outer.entries() == 0 { "it is empty" } else { "its end mark is missing" };
        return Err(ArchiveError::Truncated { what: what.into() });
    }
    drain(&mut reader.into_source())?;
    let imported = if has_file(&outer.tree, b"oci-layout") && has_file(&outer.tree, b"index.json") {
        oci::import(&mut outer, &mut spool)?
    } else if let Some(manifest) = docker::manifest(&mut outer.tree, &spool)? {
        docker::import(&manifest, &mut outer, &mut spool)?
    } else {
        let config = ImageConfig::default();
        Imported { kind: ArchiveKind::Root, entries: outer.entries(), tree: outer.tree, config }
    };
    spool.settle()?;
    Ok(imported)
}

fn has_file(tree: &Tree, name: &[u8]) -> bool {
    let id = tree.children(tree.root()).and_then(|children| children.get(name));
    id.is_some_and(|id| matches!(tree.node(*id).content, Content::Regular { .. }))
}

/// A layer of an image, and what its description promises.
struct Layer {
    run: Run,
    /// Digest of the bytes as they are in the archive.
    digest: Option<Digest>,
    /// Digest of the layer's tar.
    diff_id: Option<Digest>,
}

/// Applies layers from the lowest to the highest, and checks their digests.
fn apply_layers(layers: &[Layer], outer: &Builder, spool: &mut Spool) -> Result<Builder, ArchiveError> {
    if layers.len() > bounds::MAX_LAYERS {
        return Err(ArchiveError::too_much(bounds::MAX_LAYERS as u64, "layers"));
    }
    let mut image = Builder::after(outer);
    for (number, layer) in layers.iter().enumerate() {
        let mut stored = Hashing::new(spool.reader(layer.run));
        let limit = spool.limit();
        let mut content = Hashing::new(Bounded::new(decompress(&mut stored)?, limit));
        let mut reader = TarReader::new(&mut content);
        image.apply(&mut reader, true, spool)?;
        drain(&mut content)?;
        let diff_id = content.digest();
        drop(content);
        drain(&mut stored)?;
        check_digest(&format!("layer {number}"), layer.digest, stored.digest())?;
        check_digest(&format!("the content of layer {number}"), layer.diff_id, diff_id)?;
    }
    Ok(image)
}

fn check_digest(what: &str, expected: Option<Digest>, found: Digest) -> Result<(), ArchiveError> {
    match expected {
        Some(expected) if expected != found => Err(ArchiveError::Digest {
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}
