//! The root file system of a sandbox that runs without the service: from the local store, or from a directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use bulkhead_image::convert::Outputs;
use bulkhead_image::{Archive, ConvertLimits, Converter, ImageConfig, Owner, Store};
use bulkhead_sandbox::ImageFiles;
use bulkhead_types::{Digest, ImageName, ImageRef};
use rustix::fs::{Mode, OFlags};

use super::AnyError;

/// What an image says about the jobs that run on it.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    entrypoint: Vec<String>,
    command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) user: String,
    pub(super) working_directory: String,
}

impl Defaults {
    fn of(config: &ImageConfig) -> Self {
        let variable = |text: &String| text.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
        let directory = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
        Defaults {
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
            env: config.env.iter().filter_map(variable).collect(),
            user: config.user.clone(),
            working_directory: directory.to_owned(),
        }
    }

    /// What runs: a command that was given replaces the image's whole; a job runs exactly what it says.
    pub(super) fn argv(&self, given: Vec<String>) -> Vec<String> {
        if given.is_empty() { self.entrypoint.iter().chain(&self.command).cloned().collect() } else { given }
    }
}

/// The files of an image, for as long as this lives.
pub(super) enum Files {
    /// In the store.
    Stored(ImageFiles),
    /// Without names: gone with their descriptors, however this process ends.
    Unnamed { public: File, private: Option<File> },
}

impl Files {
    pub(super) fn paths(&self) -> ImageFiles {
        let by_descriptor = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match self {
            Files::Stored(files) => files.clone(),
            Files::Unnamed { public, private } => {
                ImageFiles { public: by_descriptor(public), private: private.as_ref().map(by_descriptor) }
            }
        }
    }
}

/// Finds `--image`, or makes an image of `--rootfs`.
pub(super) fn find_image(
    image: Option<&str>,
    rootfs: Option<&Path>,
    data_dir: &Path,
) -> Result<(Files, Defaults), AnyError> {
    match (image, rootfs) {
        (Some(name), _) => stored(name, data_dir),
        (None, Some(directory)) => {
            Ok((converted(directory, data_dir)?, Defaults::of(&ImageConfig::default())))
        }
        (None, None) => Err("give a root file system: --image NAME or --rootfs DIR".into()),
    }
}

fn stored(name: &str, data_dir: &Path) -> Result<(Files, Defaults), AnyError> {
    let reference = match name.parse::<Digest>() {
        Ok(digest) => ImageRef::Digest(digest),
        Err(_) => ImageRef::Name(ImageName::new(name)?),
    };
    let image = Store::open(data_dir)?.get(&Owner::Operator, &reference)?.ok_or_else(|| {
        format!("there is no image {name} in {}: see bulkhead image list", data_dir.display())
    })?;
    let files = ImageFiles { public: image.public_path(), private: image.private_path() };
    Ok((Files::Stored(files), Defaults::of(&image.meta.config)))
}

/// Packs the directory and has it converted by the jailed converter, as any other image.
fn converted(directory: &Path, data_dir: &Path) -> Result<Files, AnyError> {
    if !directory.is_dir() {
        return Err(format!("{} is no directory", directory.display()).into());
    }
    let scratch = data_dir.join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let unnamed = || -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&scratch, flags, Mode::from_raw_mode(0o600))?.into())
    };
    let (public, private, spool) = (unnamed()?, unnamed()?, unnamed()?);
    let outputs = Outputs { public: &public, private: &private, spool: &spool };
    let archive = Archive::Directory(directory);
    let result = Converter::find()?.convert(archive, &outputs, &ConvertLimits::default())?;
    Ok(Files::Unnamed { public, private: result.has_private.then_some(private) })
}
