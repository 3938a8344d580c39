//! The files of a private cluster.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::ClusterError;
use super::programs::Identity;

/// Longest path of a socket that Linux takes (`sun_path` without its NUL), in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// The name of PostgreSQL's socket for [`super::PORT`].
const SOCKET_NAME: &str = "/.s.PGSQL.5432";
/// The log is begun anew at a start when it is larger than this, in bytes.
const MAX_LOG: u64 = 16 << 20;
/// How much of the log an error shows, in bytes.
const LOG_TAIL: u64 = 2048;

/// Where everything is; all paths are canonical.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    data: PathBuf,
    socket_dir: PathBuf,
}

impl Files {
    /// Makes the directories, closed to others, and checks that the unprivileged user can reach them.
    pub(super) fn prepare(data_dir: &Path, identity: &Identity) -> Result<Self, ClusterError> {
        std::fs::create_dir_all(data_dir).map_err(failed("creating", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(failed("resolving", data_dir))?;
        for parent in data_dir.ancestors() {
            check_reachable(parent, identity)?;
        }
        let root = data_dir.join("postgres");
        closed_directory(&root, identity)?;
        let mut socket_dir = root.join("run");
        if socket_dir.as_os_str().len() + SOCKET_NAME.len() > MAX_SOCKET_PATH {
            socket_dir = short_directory(&root, identity)?;
        }
        closed_directory(&socket_dir, identity)?;
        Ok(Self { data: root.join("data"), root, socket_dir })
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn has_cluster(&self) -> bool {
        self.data.join("PG_VERSION").exists()
    }

    /// The major version that made the cluster, and where; none if there is none.
    pub(super) fn version(&self) -> Result<Option<(String, PathBuf)>, ClusterError> {
        let path = self.data.join("PG_VERSION");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((text.trim().to_owned(), self.data.clone()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", &path)(error)),
        }
    }

    /// An empty directory for initdb: one that an interrupted start has left is thrown away.
    pub(super) fn prepare_initdb(&self, identity: &Identity) -> Result<PathBuf, ClusterError> {
        let target = self.root.join("initdb");
        match std::fs::remove_dir_all(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("removing", &target)(error));
            }
            _ => {}
        }
        closed_directory(&target, identity)?;
        Ok(target)
    }

    /// Puts a cluster that is complete into its place, durably.
    pub(super) fn finish_initdb(&self, target: &Path) -> Result<(), ClusterError> {
        std::fs::rename(target, &self.data).map_err(failed("renaming", target))?;
        let root = File::open(&self.root).map_err(failed("opening", &self.root))?;
        root.sync_all().map_err(failed("syncing", &self.root))
    }

    pub(super) fn read_pid_file(&self) -> Result<Option<String>, ClusterError> {
        let path = self.data.join("postmaster.pid");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", &path)(error)),
        }
    }

    pub(super) fn remove_pid_file(&self) -> Result<(), ClusterError> {
        let path = self.data.join("postmaster.pid");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removing", &path)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn open_log(&self, identity: &Identity) -> Result<File, ClusterError> {
        let path = self.root.join("log");
        let large = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG);
        if large {
            std::fs::remove_file(&path).map_err(failed("removing", &path))?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(failed("opening", &path))?;
        identity.own(&path)?;
        Ok(file)
    }

    /// The end of the log, for an error.
    pub(super) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.root.join("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(the log can't be read: {error})"),
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ClusterError + use<> {
    let what = path.display().to_string();
    move |source| ClusterError::io(doing, &what, source)
}

/// A directory of the identity's own that nobody else can enter; one that exists must be so, too.
fn closed_directory(path: &Path, identity: &Identity) -> Result<(), ClusterError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let metadata = std::fs::symlink_metadata(path).map_err(failed("reading", path))?;
            if !metadata.is_dir() || (metadata.uid() != identity.uid && metadata.uid() != 0) {
                let error = std::io::Error::other("it is no directory of the user that PostgreSQL runs as");
                return Err(failed("using", path)(error));
            }
        }
        Err(error) => return Err(failed("creating", path)(error)),
    }
    identity.own(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("closing", path))
}

/// Where the socket goes if the data directory's path is too long: named after that path, so that it is found again.
fn short_directory(root: &Path, identity: &Identity) -> Result<PathBuf, ClusterError> {
    use std::os::unix::ffi::OsStrExt;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, root.as_os_str().as_bytes());
    let name: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let parent = if identity.uid != 0
        && Path::new("/run").metadata().is_ok_and(|run| run.uid() == 0)
        && rustix::process::geteuid().is_root()
    {
        Path::new("/run")
    } else {
        Path::new("/tmp")
    };
    Ok(parent.join(format!("bulkhead-postgres-{name}")))
}

/// Whether the identity can pass through a directory.
fn check_reachable(directory: &Path, identity: &Identity) -> Result<(), ClusterError> {
    let metadata = std::fs::metadata(directory).map_err(failed("reading", directory))?;
    let bit = if metadata.uid() == identity.uid {
        0o100
    } else if metadata.gid() == identity.gid {
        0o010
    } else {
        0o001
    };
    if metadata.mode() & bit != 0 {
        return Ok(());
    }
    Err(ClusterError::Unreachable { directory: directory.to_owned(), uid: identity.uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_parent_is_named() {
        let outer = tempfile::tempdir().expect("temporary directory");
        std::fs::set_permissions(outer.path(), Permissions::from_mode(0o700)).expect("chmod");
        let inner = outer.path().join("data");
        std::fs::create_dir(&inner).expect("directory");
        let identity = Identity::for_directory(&inner).expect("identity");
        if identity.uid == rustix::process::geteuid().as_raw() {
            println!("skipped: a_closed_parent_is_named: not root, so PostgreSQL runs as oneself");
            return;
        }
        let error = Files::prepare(&inner, &identity).expect_err("closed");
        assert!(
            matches!(&error, ClusterError::Unreachable { directory, .. } if directory == outer.path()),
            "{error}"
        );
        assert!(error.to_string().contains("chmod o+x"), "{error}");
    }
}
