//! Which programs run the cluster, and as whom.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ClusterError;

/// Where Debian's packages put the servers, one directory per major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The directory of one version's programs.
#[derive(Debug)]
pub(super) struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// The programs of `version`, or the newest.
    pub(super) fn find(version: Option<(String, PathBuf)>) -> Result<Self, ClusterError> {
        let installed = installed(Path::new(DEBIAN));
        let Some((newest, bin)) = installed.last() else {
            return Err(ClusterError::NotInstalled { looked: format!("{DEBIAN}/*/bin/postgres") });
        };
        let Some((found, data)) = version else {
            tracing::debug!(version = newest, "using the newest PostgreSQL");
            return Ok(Self { bin: bin.clone() });
        };
        match installed.iter().find(|(number, _)| number.to_string() == found) {
            Some((_, bin)) => Ok(Self { bin: bin.clone() }),
            None => {
                let installed: Vec<String> = installed.iter().map(|(number, _)| number.to_string()).collect();
                Err(ClusterError::Version { data, found, installed: installed.join(", ") })
            }
        }
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.bin.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.bin.join("postgres")
    }
}

/// Major versions with their `bin`, oldest first.
fn installed(root: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            (bin.join("postgres").exists() && bin.join("initdb").exists()).then_some((version, bin))
        })
        .collect();
    found.sort();
    found
}

/// Who PostgreSQL runs as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether this process has to change to it.
    change: bool,
}

impl Identity {
    /// As root: the owner of the directory if that is not root, else the user `postgres`. Otherwise: oneself.
    pub(super) fn for_directory(data_dir: &Path) -> Result<Self, ClusterError> {
        let own = rustix::process::geteuid().as_raw();
        if own != 0 {
            return Ok(Self { uid: own, gid: rustix::process::getegid().as_raw(), change: false });
        }
        if let Ok(metadata) = std::fs::metadata(data_dir)
            && metadata.uid() != 0
        {
            return Ok(Self { uid: metadata.uid(), gid: metadata.gid(), change: true });
        }
        let passwd = std::fs::read_to_string("/etc/passwd")
            .map_err(|e| ClusterError::io("reading", "/etc/passwd", e))?;
        let (uid, gid) = user_in(&passwd, "postgres").ok_or(ClusterError::NoUser)?;
        Ok(Self { uid, gid, change: true })
    }

    /// Makes a command run as this identity, without supplementary groups.
    pub(super) fn apply(&self, command: &mut Command) {
        if self.change {
            command.gid(self.gid).uid(self.uid);
        }
    }

    /// Gives a path to this identity.
    pub(super) fn own(&self, path: &Path) -> Result<(), ClusterError> {
        if !self.change {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .map_err(|e| ClusterError::io("changing the owner of", &path.display().to_string(), e))
    }
}

fn user_in(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(user_in(passwd, "postgres"), Some((101, 104)));
        assert_eq!(user_in(passwd, "nobody"), None);
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let root = tempfile::tempdir().expect("temporary directory");
        for version in ["9", "15", "100", "common"] {
            let bin = root.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).expect("directory");
            for program in ["postgres", "initdb"] {
                std::fs::write(bin.join(program), "").expect("file");
            }
        }
        std::fs::create_dir_all(root.path().join("200/bin")).expect("directory");
        let numbers: Vec<u32> = installed(root.path()).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [9, 15, 100]);
    }
}
