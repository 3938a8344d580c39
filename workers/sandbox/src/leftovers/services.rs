//! What a killed service can leave: its private PostgreSQL, and results that no server has confirmed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Kind, Leftover, Remedy};

/// The default of `--data-dir`.
const DEFAULT_DATA_DIRECTORY: &str = "/var/lib/bulkhead";
/// Where a private cluster lies in its data directory.
const CLUSTER: &str = "postgres/data";

/// A process with its command line.
struct Command {
    pid: i32,
    args: Vec<Vec<u8>>,
}

fn commands() -> Vec<Command> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let args: Vec<Vec<u8>> = line.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
            (!line.is_empty()).then_some(Command { pid, args })
        })
        .collect()
}

impl Command {
    fn program(&self) -> &[u8] {
        self.args.first().map_or(&[][..], |a| a.rsplit(|b| *b == b'/').next().unwrap_or(a))
    }

    /// The value of an option, as `--name VALUE` or `--name=VALUE`.
    fn option(&self, name: &str) -> Option<PathBuf> {
        let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        let with_equals = format!("{name}=");
        self.args.iter().enumerate().find_map(|(i, arg)| {
            if arg == name.as_bytes() {
                self.args.get(i + 1).map(|v| path(v))
            } else {
                arg.strip_prefix(with_equals.as_bytes()).map(path)
            }
        })
    }

    /// A path of its command line, as this process sees it.
    fn resolve(&self, path: &Path) -> PathBuf {
        let absolute = match fs::read_link(format!("/proc/{}/cwd", self.pid)) {
            Ok(cwd) => cwd.join(path),
            Err(_) => path.to_path_buf(),
        };
        absolute.canonicalize().unwrap_or(absolute)
    }

    /// The data directory of a running `bulkhead serve`, `control` or `worker`.
    fn service(&self) -> Option<PathBuf> {
        let serves = self.program() == b"bulkhead"
            && self.args.iter().skip(1).any(|a| matches!(a.as_slice(), b"serve" | b"control" | b"worker"));
        serves.then(|| {
            let given = self.option("--data-dir").or_else(|| self.environment("BULKHEAD_DATA_DIR"));
            self.resolve(&given.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIRECTORY)))
        })
    }

    fn environment(&self, name: &str) -> Option<PathBuf> {
        let text = fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        let prefix = format!("{name}=");
        text.split(|b| *b == 0)
            .find_map(|v| v.strip_prefix(prefix.as_bytes()))
            .map(|v| PathBuf::from(std::ffi::OsStr::from_bytes(v)))
    }

    /// The data directory of a private cluster's main process.
    fn cluster(&self) -> Option<PathBuf> {
        // Its children change their titles to "postgres: ..." and have no -D.
        let main = self.program() == b"postgres";
        let data = main.then(|| self.option("-D")).flatten().map(|d| self.resolve(&d))?;
        data.ends_with(CLUSTER).then(|| data.parent()?.parent().map(Path::to_path_buf)).flatten()
    }
}

/// Data directories of all private clusters that run.
pub(super) fn data_directories_of_clusters() -> Vec<PathBuf> {
    commands().iter().filter_map(Command::cluster).collect()
}

fn served(commands: &[Command]) -> HashSet<PathBuf> {
    commands.iter().filter_map(Command::service).collect()
}

fn is_among(directory: &Path, searched: &[PathBuf]) -> bool {
    searched.iter().any(|s| s.canonicalize().as_deref().unwrap_or(s) == directory)
}

/// Private clusters that run without their service.
pub(super) fn clusters(searched: &[PathBuf]) -> Vec<Leftover> {
    let commands = commands();
    let served = served(&commands);
    commands
        .iter()
        .filter_map(|c| Some((c.pid, c.cluster()?)))
        .filter(|(_, directory)| !served.contains(directory) && is_among(directory, searched))
        .map(|(pid, directory)| {
            let what = format!("process {pid}, the private cluster of {}", directory.display());
            Leftover::new(Kind::Postgres, what, Remedy::StopPostgres(pid))
        })
        .collect()
}

/// Spooled attempts of a worker that does not run: output and results that no server has confirmed. The next worker of the
/// data directory delivers them, so they are cleaned only when asked for.
pub(super) fn spools(searched: &[PathBuf]) -> Vec<Leftover> {
    let served = served(&commands());
    searched
        .iter()
        .filter(|d| !served.contains(&d.canonicalize().unwrap_or_else(|_| d.to_path_buf())))
        .flat_map(|d| [d.join("spool"), d.join("worker/spool")])
        .filter_map(|spool| fs::read_dir(spool).ok())
        .flat_map(Iterator::flatten)
        .map(|entry| {
            let what = format!("{} (results that no server has confirmed)", entry.path().display());
            let remedy = if entry.path().is_dir() {
                Remedy::RemoveDirectory(entry.path())
            } else {
                Remedy::RemoveFile(entry.path())
            };
            Leftover::new(Kind::File, what, remedy)
        })
        .collect()
}
