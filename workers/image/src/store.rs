//! The images on this machine, by owner and digest.
//!
//! ```text
//! <data-dir>/images/
//!   lock                              taken for every change of names and directories
//!   tmp/ID/                           images being made, each locked by its maker; and what is being removed
//!   operator/                         images shared by the operator
//!   tenants/TENANT/                   images of a tenant
//!     sha256/HEX/image.json           the description, whose SHA-256 is HEX: see `ImageMeta`
//!     sha256/HEX/public.erofs         0644
//!     sha256/HEX/private.erofs        0600, where needed
//!     names/NAME                      HEX
//! ```
//! An image appears complete and durable, by one rename, or not at all. What a maker that died left in `tmp` goes when
//! a store is next opened. Running sandboxes hold descriptors, so that an image can be deleted under them.

mod stage;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bulkhead_types::{Digest, ImageName, ImageRef, TenantId};
use serde::Serialize;

use crate::config::ImageMeta;
use crate::convert::{Archive, ConvertError, ConvertLimits, Converter, Outputs, unnamed_file};
pub use stage::Stage;

const META: &str = "image.json";
const PUBLIC: &str = "public.erofs";
const PRIVATE: &str = "private.erofs";
/// Longest description in bytes that is read: three lists of 1 MiB, escaped.
const MAX_META: u64 = 16 << 20;

/// Whose an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The operator, who shares it with all tenants.
    Operator,
    /// A tenant.
    Tenant(TenantId),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Tenant(tenant) => write!(f, "tenants/{tenant}"),
        }
    }
}

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The host's file system refuses.
    #[error("{what} {path}", path = path.display())]
    Io {
        /// "could not ...".
        what: &'static str,
        /// On what.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// An image's directory does not hold what it should.
    #[error("the image in {path} is damaged: {what}; delete it and import it again", path = path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file that was received is not the one that its description names.
    #[error("the {file} file of the image is not the one that its description names")]
    WrongFile {
        /// "public" or "private".
        file: &'static str,
    },
    /// There is no such image.
    #[error("{owner} has no image {image}")]
    NotFound {
        /// Whose.
        owner: Owner,
        /// Name or digest.
        image: String,
    },
    /// The archive could not be made an image.
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_path_buf(), source }
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct StoredImage {
    pub owner: Owner,
    pub digest: Digest,
    /// Names that the owner gave it, sorted; perhaps none.
    pub names: Vec<ImageName>,
    pub meta: ImageMeta,
    directory: PathBuf,
}

/// A row of a list of images.
#[derive(Clone, Debug, Serialize)]
pub struct ImageRow {
    /// None for an image without a name.
    pub name: Option<ImageName>,
    pub digest: Digest,
    /// `operator` or `tenants/TENANT`.
    pub owner: String,
    /// Bytes of its files.
    pub size: u64,
}

impl StoredImage {
    /// The EROFS file with everything that is world-readable.
    pub fn public_path(&self) -> PathBuf {
        self.directory.join(PUBLIC)
    }

    /// The EROFS file with the data of the other files, if there are any.
    pub fn private_path(&self) -> Option<PathBuf> {
        self.meta.private.map(|_| self.directory.join(PRIVATE))
    }

    /// A row for each name, or one without a name.
    pub fn rows(&self) -> Vec<ImageRow> {
        let row = |name| ImageRow {
            name,
            digest: self.digest,
            owner: self.owner.to_string(),
            size: self.meta.size(),
        };
        if self.names.is_empty() {
            return vec![row(None)];
        }
        self.names.iter().map(|name| row(Some(name.clone()))).collect()
    }
}

/// The images of one data directory; any number of processes may have it open.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store of a data directory, makes it if it is missing, and removes what dead makers left.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let store = Self { root: data_dir.join("images") };
        for path in [store.root.join("tmp"), store.root.join("operator"), store.root.join("tenants")] {
            fs::create_dir_all(&path).map_err(at("could not make", &path))?;
        }
        let _lock = store.lock()?;
        stage::remove_leftovers(&store.root.join("tmp"))?;
        Ok(store)
    }

    /// All images of everybody, sorted by owner, name and digest. Damaged ones are left out, and logged.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = self.list_of(&Owner::Operator)?;
        for tenant in names_in(&self.root.join("tenants"))? {
            if let Ok(tenant) = TenantId::new(tenant) {
                images.extend(self.list_of(&Owner::Tenant(tenant))?);
            }
        }
        Ok(images)
    }

    /// All images of one owner, sorted by name and digest. Damaged ones are left out, and logged.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list_of(&self, owner: &Owner) -> Result<Vec<StoredImage>, StoreError> {
        let names = self.names(owner)?;
        let mut images = Vec::new();
        for hex in names_in(&self.owner_dir(owner).join("sha256"))? {
            let Ok(digest) = hex.parse::<Digest>() else { continue };
            match self.load(owner, digest, &names) {
                Ok(image) => images.extend(image),
                Err(error) => tracing::warn!(%error, "an image is left out"),
            }
        }
        images.sort_by(|a, b| (&a.names, a.digest).cmp(&(&b.names, b.digest)));
        Ok(images)
    }

    /// An owner's image by name or digest, if it is there.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn get(&self, owner: &Owner, image: &ImageRef) -> Result<Option<StoredImage>, StoreError> {
        let names = self.names(owner)?;
        let digest = match image {
            ImageRef::Digest(digest) => *digest,
            ImageRef::Name(name) => match names.iter().find(|(other, _)| other == name) {
                Some((_, digest)) => *digest,
                None => return Ok(None),
            },
        };
        self.load(owner, digest, &names)
    }

    /// A tenant's own image, else the operator's.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn find(&self, tenant: &TenantId, image: &ImageRef) -> Result<Option<StoredImage>, StoreError> {
        match self.get(&Owner::Tenant(tenant.clone()), image)? {
            Some(image) => Ok(Some(image)),
            None => self.get(&Owner::Operator, image),
        }
    }

    /// Converts an archive in a jailed process, stores it, and gives it a name, which it takes from another image that
    /// has it. Needs root.
    ///
    /// # Errors
    /// [`StoreError::Convert`], [`StoreError::Io`]; nothing is changed then.
    pub fn import(
        &self,
        owner: &Owner,
        name: Option<&ImageName>,
        archive: Archive<'_>,
        converter: &Converter,
        limits: &ConvertLimits,
    ) -> Result<StoredImage, StoreError> {
        let stage = self.stage(owner)?;
        let spool = unnamed_file(stage.path()).map_err(at("could not make a file in", stage.path()))?;
        let outputs = Outputs { public: stage.public(), private: stage.private(), spool: &spool };
        let converted = converter.convert(archive, &outputs, limits)?;
        stage.commit(converted.config, converted.has_private, name)
    }

    /// A place to put the files of an image, for `import` and for those who receive an image from elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn stage(&self, owner: &Owner) -> Result<Stage, StoreError> {
        let _lock = self.lock()?;
        Stage::new(self.clone(), owner.clone(), &self.root.join("tmp"))
    }

    /// Gives an image a name, which it takes from another image that has it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Io`].
    pub fn set_name(&self, owner: &Owner, name: &ImageName, digest: Digest) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        if !self.image_dir(owner, digest).is_dir() {
            return Err(StoreError::NotFound { owner: owner.clone(), image: digest.to_string() });
        }
        self.write_name(owner, name, digest)
    }

    /// Takes a name away; says whether it was there. The image stays.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_name(&self, owner: &Owner, name: &ImageName) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let path = self.owner_dir(owner).join("names").join(name.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true).map_err(at("could not remove", &path)),
        }
    }

    /// Deletes an image and its names; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn delete(&self, owner: &Owner, digest: Digest) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let directory = self.image_dir(owner, digest);
        if !directory.is_dir() {
            return Ok(false);
        }
        for (name, _) in self.names(owner)?.into_iter().filter(|(_, other)| *other == digest) {
            let path = self.owner_dir(owner).join("names").join(name.as_str());
            fs::remove_file(&path).map_err(at("could not remove", &path))?;
        }
        stage::remove_image(&directory, &self.root.join("tmp"))?;
        Ok(true)
    }

    fn owner_dir(&self, owner: &Owner) -> PathBuf {
        // A tenant's id begins with a letter or digit and has no slash.
        match owner {
            Owner::Operator => self.root.join("operator"),
            Owner::Tenant(tenant) => self.root.join("tenants").join(tenant.as_str()),
        }
    }

    fn image_dir(&self, owner: &Owner, digest: Digest) -> PathBuf {
        self.owner_dir(owner).join("sha256").join(digest.hex())
    }

    /// Keeps other changes out, of this process and of others, until it is dropped.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.root.join("lock");
        let open = File::options().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(at("could not open", &path))?;
        file.lock().map_err(at("could not lock", &path))?;
        Ok(file)
    }

    fn names(&self, owner: &Owner) -> Result<Vec<(ImageName, Digest)>, StoreError> {
        let directory = self.owner_dir(owner).join("names");
        let mut names = Vec::new();
        for name in names_in(&directory)? {
            let path = directory.join(&name);
            let Ok(name) = ImageName::new(name) else { continue };
            match fs::read_to_string(&path) {
                Ok(hex) => names.extend(hex.parse().map(|digest| (name, digest))),
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("could not read", &path)(error)),
            }
        }
        Ok(names)
    }

    fn write_name(&self, owner: &Owner, name: &ImageName, digest: Digest) -> Result<(), StoreError> {
        let directory = self.owner_dir(owner).join("names");
        fs::create_dir_all(&directory).map_err(at("could not make", &directory))?;
        stage::write_durably(&directory, name.as_str(), digest.hex().as_bytes())
    }

    fn load(
        &self,
        owner: &Owner,
        digest: Digest,
        names: &[(ImageName, Digest)],
    ) -> Result<Option<StoredImage>, StoreError> {
        let directory = self.image_dir(owner, digest);
        let path = directory.join(META);
        let damaged = |what: String| StoreError::Damaged { path: directory.clone(), what };
        let text = match stage::read_bounded(&path, MAX_META) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.is_dir() => return Ok(None),
            Err(error) => return Err(damaged(format!("{META}: {error}"))),
        };
        let meta = ImageMeta::from_json(&text).map_err(|error| damaged(error.to_string()))?;
        if meta.digest() != digest {
            return Err(damaged(format!("{META} has another digest")));
        }
        let names =
            names.iter().filter(|(_, other)| *other == digest).map(|(name, _)| name.clone()).collect();
        let image = StoredImage { owner: owner.clone(), digest, names, meta, directory };
        let length = |path: &Path| fs::metadata(path).map(|found| found.len()).ok();
        if length(&image.public_path()) != Some(image.meta.public.size)
            || image.private_path().and_then(|path| length(&path)) != image.meta.private.map(|file| file.size)
        {
            return Err(StoreError::Damaged {
                path: image.directory,
                what: "a file has another size".into(),
            });
        }
        Ok(Some(image))
    }
}

/// Names in a directory that are UTF-8, sorted; none if it is missing.
fn names_in(directory: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("could not read", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at("could not read", directory))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
