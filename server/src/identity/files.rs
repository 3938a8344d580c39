use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::IdentityError;

/// Largest file of the directory, in bytes: keys and certificates have a few hundred.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// `keys/` of a data directory: mode 0700, its files 0600, each written once and whole.
#[derive(Debug, Clone)]
pub struct KeyDirectory(PathBuf);

impl KeyDirectory {
    /// Opens `keys/` under `data`, or makes both.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn open(data: &Path) -> Result<Self, IdentityError> {
        let path = data.join("keys");
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        fs::create_dir_all(data).map_err(failed)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(Self(path)),
        }
    }

    /// Where a file of the directory is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The bytes of a file, which `make` provides if there is none. Whoever comes second reads the first one's.
    ///
    /// # Errors
    /// [`IdentityError::Exposed`] if others may read it, [`IdentityError::Io`], and what `make` says.
    pub fn read_or_create(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Vec<u8>, IdentityError>,
    ) -> Result<Vec<u8>, IdentityError> {
        let path = self.path(name);
        if let Some(bytes) = read(&path)? {
            return Ok(bytes);
        }
        self.write_once(name, &make()?)?;
        read(&path)?.ok_or_else(|| IdentityError::Io { path, source: ErrorKind::NotFound.into() })
    }

    /// Writes a file unless it is there.
    fn write_once(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let path = self.path(name);
        let fresh = self.path(&format!(".{name}.{}", Uuid::new_v4()));
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // A link, other than a rename, replaces nothing.
            match fs::hard_link(&fresh, &path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => fs::File::open(&self.0)?.sync_all(),
            }
        };
        let written = write();
        let removed = fs::remove_file(&fresh);
        written.and(removed).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::Io { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_kept_private() {
        let data = tempfile::tempdir().expect("directory");
        let keys = KeyDirectory::open(data.path()).expect("open");
        assert_eq!(keys.read_or_create("k", || Ok(b"one".to_vec())).expect("made"), b"one");
        assert_eq!(keys.read_or_create("k", || Ok(b"two".to_vec())).expect("read"), b"one");
        keys.write_once("k", b"three").expect("nothing is replaced");
        assert_eq!(keys.read_or_create("k", || Ok(b"two".to_vec())).expect("read"), b"one");
        let path = keys.path("k");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(data.path().join("keys")).expect("list").count(), 1, "nothing is left over");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let again = keys.read_or_create("k", || Ok(Vec::new()));
        assert!(matches!(again, Err(IdentityError::Exposed { .. })));
    }
}
