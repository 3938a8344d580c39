//! Images on their way into the store, and out of it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_types::{Digest, ImageName, ImageRef};
use sha2::{Digest as _, Sha256};

use super::{META, Owner, PRIVATE, PUBLIC, Store, StoreError, StoredImage, at};
use crate::config::{FileDigest, ImageConfig, ImageMeta};

/// Held by the maker of a staged image as long as it lives.
const LOCK: &str = "lock";

/// The files of an image that is not in the store yet. Dropping it removes them.
#[derive(Debug)]
pub struct Stage {
    store: Store,
    owner: Owner,
    path: PathBuf,
    public: File,
    private: File,
    /// Shows the next one who opens the store that the maker is alive.
    _lock: File,
}

impl Stage {
    /// Makes one in `tmp`; the store's lock is held.
    pub(super) fn new(store: Store, owner: Owner, tmp: &Path) -> Result<Self, StoreError> {
        let path = tmp.join(unique_name());
        fs::create_dir(&path).map_err(at("could not make", &path))?;
        let open = |name: &str, mode: u32| {
            let path = path.join(name);
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).mode(mode).open(&path);
            let file = file.map_err(at("could not make", &path))?;
            // Whatever the umask.
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(at("could not set the mode of", &path))?;
            Ok::<_, StoreError>(file)
        };
        let lock = open(LOCK, 0o600)?;
        lock.lock().map_err(at("could not lock", &path))?;
        let (public, private) = (open(PUBLIC, 0o644)?, open(PRIVATE, 0o600)?);
        Ok(Self { store, owner, public, private, _lock: lock, path })
    }

    /// The directory that holds the files, until it is renamed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file for the public image, empty.
    pub fn public(&self) -> &File {
        &self.public
    }

    /// The file for the private image, empty; it is removed if there is none.
    pub fn private(&self) -> &File {
        &self.private
    }

    /// Stores the image with digests of what is in the files now.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn commit(
        self,
        config: ImageConfig,
        has_private: bool,
        name: Option<&ImageName>,
    ) -> Result<StoredImage, StoreError> {
        let public = digest(&self.public).map_err(at("could not read", &self.path))?;
        let private = has_private.then(|| digest(&self.private)).transpose();
        let private = private.map_err(at("could not read", &self.path))?;
        self.store_as(&ImageMeta::new(public, private, config), name)
    }

    /// Stores the image if its files are those that `meta` describes: for images that come from elsewhere.
    ///
    /// # Errors
    /// [`StoreError::WrongFile`], [`StoreError::Io`].
    pub fn commit_as(self, meta: &ImageMeta, name: Option<&ImageName>) -> Result<StoredImage, StoreError> {
        let found = digest(&self.public).map_err(at("could not read", &self.path))?;
        if found != meta.public {
            return Err(StoreError::WrongFile { file: "public" });
        }
        if let Some(private) = meta.private
            && digest(&self.private).map_err(at("could not read", &self.path))? != private
        {
            return Err(StoreError::WrongFile { file: "private" });
        }
        self.store_as(meta, name)
    }

    fn store_as(self, meta: &ImageMeta, name: Option<&ImageName>) -> Result<StoredImage, StoreError> {
        if meta.private.is_none() {
            let path = self.path.join(PRIVATE);
            fs::remove_file(&path).map_err(at("could not remove", &path))?;
        } else {
            self.private.sync_all().map_err(at("could not write", &self.path))?;
        }
        self.public.sync_all().map_err(at("could not write", &self.path))?;
        write_durably(&self.path, META, meta.to_json().as_bytes())?;
        let digest = meta.digest();
        let directory = self.store.image_dir(&self.owner, digest);
        let parent = self.store.owner_dir(&self.owner).join("sha256");
        fs::create_dir_all(&parent).map_err(at("could not make", &parent))?;
        let lock = self.store.lock()?;
        // The same digest is the same image; unless that one was damaged.
        let existing = self.store.load(&self.owner, digest, &[]);
        if !matches!(existing, Ok(Some(_))) {
            if directory.exists() {
                remove_image(&directory, &self.store.root.join("tmp"))?;
            }
            let path = self.path.join(LOCK);
            fs::remove_file(&path).map_err(at("could not remove", &path))?;
            fs::rename(&self.path, &directory).map_err(at("could not make", &directory))?;
            sync_dir(&parent)?;
        }
        if let Some(name) = name {
            self.store.write_name(&self.owner, name, digest)?;
        }
        drop(lock);
        let image = self.store.get(&self.owner, &ImageRef::Digest(digest))?;
        image.ok_or_else(|| StoreError::NotFound { owner: self.owner.clone(), image: digest.to_string() })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // After a commit there is nothing under this name; else the next one who opens the store tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A name that no other maker uses.
fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // The same process id can come again after a crash of the machine, or in another namespace.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    format!("{}-{count}-{now}", std::process::id())
}

/// Removes all in `tmp` whose maker is gone; the store's lock is held.
pub(super) fn remove_leftovers(tmp: &Path) -> Result<(), StoreError> {
    for name in super::names_in(tmp)? {
        let path = tmp.join(name);
        if let Ok(lock) = File::open(path.join(LOCK)) {
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(at("could not lock", &path)(error)),
            }
        }
        fs::remove_dir_all(&path).map_err(at("could not remove", &path))?;
    }
    Ok(())
}

/// Takes an image away at once, then removes its files; the store's lock is held.
pub(super) fn remove_image(directory: &Path, tmp: &Path) -> Result<(), StoreError> {
    let path = tmp.join(unique_name());
    fs::rename(directory, &path).map_err(at("could not remove", directory))?;
    fs::remove_dir_all(&path).map_err(at("could not remove", &path))
}

/// Writes a file so that after a crash it has its old content or its new one.
pub(super) fn write_durably(directory: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    // No name of an image or of ours begins with a dot.
    let temporary = directory.join(format!(".{}", unique_name()));
    let path = directory.join(name);
    let write = || {
        fs::write(&temporary, content)?;
        let file = File::open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // Nobody else knows it.
        let _ = fs::remove_file(&temporary);
        at("could not write", &path)(error)
    })?;
    sync_dir(directory)
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at("could not write", path))
}

/// A whole file, of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Digest and size of a file, whatever its cursor.
fn digest(file: &File) -> io::Result<FileDigest> {
    use std::os::unix::fs::FileExt;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match file.read_at(&mut buffer, size) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(FileDigest { digest: Digest::from_bytes(hash.finalize().into()), size })
}
