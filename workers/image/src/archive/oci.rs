//! OCI image layouts, and the configuration that Docker's archives share with them.

use bulkhead_types::Digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

use super::error::ArchiveError;
use super::layer::Builder;
use super::spool::{Run, Spool};
use super::{ArchiveKind, Imported, Layer, apply_layers, bounds, check_digest, path};
use crate::config::ImageConfig;

/// The platform whose images can run.
const OS: &str = "linux";
const ARCHITECTURE: &str = "amd64";

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// The configuration of an image, as both OCI and Docker write it.
#[derive(Deserialize)]
pub(super) struct Configuration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Process>,
    #[serde(default)]
    rootfs: Option<RootFs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl Configuration {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let configuration: Self = parse(bytes, "the image's configuration")?;
        let other = |value: &str, ours: &str| !value.is_empty() && value != ours;
        if other(&configuration.os, OS) || other(&configuration.architecture, ARCHITECTURE) {
            let why = format!(
                "it is for {}/{}, and only {OS}/{ARCHITECTURE} can run here",
                configuration.os, configuration.architecture
            );
            return Err(ArchiveError::description("the image's configuration", why));
        }
        Ok(configuration)
    }

    pub(super) fn defaults(&self) -> Result<ImageConfig, ArchiveError> {
        let none = Process::default();
        let process = self.config.as_ref().unwrap_or(&none);
        let config = ImageConfig {
            entrypoint: process.entrypoint.clone().unwrap_or_default(),
            cmd: process.cmd.clone().unwrap_or_default(),
            env: process.env.clone().unwrap_or_default(),
            user: process.user.clone().unwrap_or_default(),
            working_dir: process.working_dir.clone().unwrap_or_default(),
        };
        config.validate().map_err(|error| ArchiveError::description("the image", error))?;
        Ok(config)
    }

    /// The digests of the layers' contents: one for each of `layers`, or none at all.
    pub(super) fn diff_ids(&self, layers: usize) -> Result<Vec<Option<Digest>>, ArchiveError> {
        let ids = self.rootfs.as_ref().map_or(&[][..], |rootfs| &rootfs.diff_ids);
        if ids.is_empty() {
            return Ok(vec![None; layers]);
        }
        if ids.len() != layers {
            let why = format!("it describes {} layers, but the image has {layers}", ids.len());
            return Err(ArchiveError::description("the image's configuration", why));
        }
        ids.iter().map(|id| digest(id).map(Some)).collect()
    }
}

/// Reads the one image of a layout that can run here.
pub(super) fn import(outer: &mut Builder, spool: &mut Spool) -> Result<Imported, ArchiveError> {
    let index = path::file(&mut outer.tree, "index.json")?
        .ok_or_else(|| ArchiveError::description("index.json", "it is missing"))?;
    let index = spool.read_description(index, "index.json")?;
    let mut manifests = BTreeMap::new();
    let mut others = Vec::new();
    collect(&parse::<Index>(&index, "index.json")?, 0, outer, spool, &mut manifests, &mut others)?;
    let mut found = manifests.into_iter();
    let (manifest_digest, manifest) = found.next().ok_or_else(|| {
        let why = format!("it has no image for {OS}/{ARCHITECTURE} (it has: {})", others.join(", "));
        ArchiveError::description("index.json", why)
    })?;
    if found.next().is_some() {
        let why = "it has several images; export one at a time";
        return Err(ArchiveError::description("index.json", why));
    }
    let bytes = spool.read_description(manifest, "the manifest")?;
    check_digest("the manifest", Some(manifest_digest), hash(&bytes))?;
    let manifest: Manifest = parse(&bytes, "the manifest")?;
    let configuration = blob(outer, &manifest.config, "the image's configuration")?;
    let bytes = spool.read_description(configuration, "the image's configuration")?;
    check_digest("the image's configuration", Some(digest(&manifest.config.digest)?), hash(&bytes))?;
    let configuration = Configuration::parse(&bytes)?;
    let diff_ids = configuration.diff_ids(manifest.layers.len())?;
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
        if descriptor.media_type.ends_with("+encrypted") {
            return Err(ArchiveError::Unsupported { what: "encrypted layers".into() });
        }
        let run = blob(outer, descriptor, "a layer")?;
        layers.push(Layer { run, digest: Some(digest(&descriptor.digest)?), diff_id });
    }
    let image = apply_layers(&layers, outer, spool)?;
    let config = configuration.defaults()?;
    Ok(Imported { kind: ArchiveKind::Oci, entries: image.entries(), tree: image.tree, config })
}

/// Gathers the manifests of images for this platform, from an index and those within it.
fn collect(
    index: &Index,
    depth: usize,
    outer: &mut Builder,
    spool: &Spool,
    found: &mut BTreeMap<Digest, Run>,
    others: &mut Vec<String>,
) -> Result<(), ArchiveError> {
    if depth >= bounds::MAX_INDEX_DEPTH {
        return Err(ArchiveError::description("index.json", "indexes are nested more than 4 deep"));
    }
    // The bound holds for all indexes together, since each level may name the next one many times.
    if index.manifests.len() + others.len() + found.len() > bounds::MAX_LAYERS {
        return Err(ArchiveError::too_much(bounds::MAX_LAYERS as u64, "images"));
    }
    for descriptor in &index.manifests {
        let reference = "vnd.docker.reference.type";
        if descriptor.annotations.as_ref().is_some_and(|notes| notes.contains_key(reference)) {
            continue;
        }
        if let Some(platform) = &descriptor.platform
            && (platform.os != OS || platform.architecture != ARCHITECTURE)
        {
            others.push(format!("{}/{}", platform.os, platform.architecture));
            continue;
        }
        let run = blob(outer, descriptor, "a manifest")?;
        if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
            let bytes = spool.read_description(run, "an index")?;
            check_digest("an index", Some(digest(&descriptor.digest)?), hash(&bytes))?;
            collect(&parse(&bytes, "an index")?, depth + 1, outer, spool, found, others)?;
        } else {
            found.insert(digest(&descriptor.digest)?, run);
        }
    }
    Ok(())
}

/// Where a descriptor's bytes are, which have the size that it says. Their digest is still to be
/// checked.
fn blob(outer: &mut Builder, descriptor: &Descriptor, what: &str) -> Result<Run, ArchiveError> {
    let digest = digest(&descriptor.digest)?;
    let run = path::file(&mut outer.tree, &format!("blobs/sha256/{}", digest.hex()))?
        .ok_or_else(|| ArchiveError::description(what, format!("{digest} is not in the archive")))?;
    if run.size != descriptor.size {
        let why = format!("{digest} has {} bytes, but {} were promised", run.size, descriptor.size);
        return Err(ArchiveError::description(what, why));
    }
    Ok(run)
}

pub(super) fn digest(text: &str) -> Result<Digest, ArchiveError> {
    let shown = super::error::show(text.as_bytes());
    if !text.starts_with("sha256:") {
        return Err(ArchiveError::Unsupported { what: format!("the digest {shown}; only SHA-256 is known") });
    }
    text.parse().map_err(|error| ArchiveError::description(&shown, error))
}

pub(super) fn hash(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|error| ArchiveError::description(what, error))
}
