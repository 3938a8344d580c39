//! What `docker save` and its like write: a manifest that names a configuration and layers.

use bulkhead_erofs::Tree;
use bulkhead_types::Digest;
use serde::Deserialize;

use super::error::ArchiveError;
use super::layer::Builder;
use super::oci::{Configuration, hash};
use super::spool::Spool;
use super::{ArchiveKind, Imported, Layer, apply_layers, bounds, check_digest, path};

const MANIFEST: &str = "manifest.json";

/// One image of the archive.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Manifest {
    config: String,
    layers: Vec<String>,
}

/// The manifests, if the archive has any: a root file system may happen to have a file of that name.
pub(super) fn manifest(tree: &mut Tree, spool: &Spool) -> Result<Option<Vec<Manifest>>, ArchiveError> {
    if !super::has_file(tree, MANIFEST.as_bytes()) {
        return Ok(None);
    }
    let Some(run) = path::file(tree, MANIFEST)?.filter(|run| run.size <= bounds::MAX_DESCRIPTION) else {
        return Ok(None);
    };
    let bytes = spool.read_description(run, MANIFEST)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// Reads the one image of the archive.
pub(super) fn import(
    manifests: &[Manifest],
    outer: &mut Builder,
    spool: &mut Spool,
) -> Result<Imported, ArchiveError> {
    let manifest = match manifests {
        [] => return Err(ArchiveError::description(MANIFEST, "it has no image")),
        [first, others @ ..] if others.iter().all(|other| other == first) => first,
        _ => {
            let why = "it has several images; save one at a time";
            return Err(ArchiveError::description(MANIFEST, why));
        }
    };
    let absent = |name: &str| ArchiveError::description(MANIFEST, format!("{name} is not in the archive"));
    let run = path::file(&mut outer.tree, &manifest.config)?.ok_or_else(|| absent(&manifest.config))?;
    let bytes = spool.read_description(run, "the image's configuration")?;
    check_digest("the image's configuration", named_digest(&manifest.config), hash(&bytes))?;
    let configuration = Configuration::parse(&bytes)?;
    let diff_ids = configuration.diff_ids(manifest.layers.len())?;
    let mut layers = Vec::new();
    for (name, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let run = path::file(&mut outer.tree, name)?.ok_or_else(|| absent(name))?;
        layers.push(Layer { run, digest: None, diff_id });
    }
    let image = apply_layers(&layers, outer, spool)?;
    let config = configuration.defaults()?;
    Ok(Imported { kind: ArchiveKind::Docker, entries: image.entries(), tree: image.tree, config })
}

/// The digest that a configuration's file is named by: `HEX.json`, or `blobs/sha256/HEX`.
fn named_digest(name: &str) -> Option<Digest> {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".json").unwrap_or(file).parse().ok()
}
