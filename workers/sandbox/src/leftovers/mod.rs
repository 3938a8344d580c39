//! What a killed launcher or service can leave on a host: found by kind, named, and removed.
//!
//! Live is what a live process answers for: a sandbox by its note (see [`crate::record`]), a private PostgreSQL by the
//! `bulkhead serve` of its data directory. Everything else of ours is a leftover. Notes are written before anything else of a
//! sandbox exists, so what has no note is never one that is just being made.

mod sandboxes;
mod services;
mod strays;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_jail::cgroup::{self, Hierarchy, SandboxGroups};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::record::{RUN_DIRECTORY, SandboxRecord};

/// How long a killed process, or a group with one, may take to go.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);
/// Beginning of the names of everything that we make in shared places: /dev/shm, network devices.
pub const NAME_PREFIX: &str = "bulkhead";

/// The kinds of things that can be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A process of a sandbox.
    Process,
    /// A control group.
    Cgroup,
    /// A mount.
    Mount,
    /// A namespace that is kept alive by a mount of its file.
    Namespace,
    /// A socket that nobody listens on.
    Socket,
    /// A scratch directory, a note, a spool.
    File,
    /// A shared memory object.
    SharedMemory,
    /// A network device.
    NetworkDevice,
    /// A private PostgreSQL without its service.
    Postgres,
}

impl Kind {
    /// Every kind, in the order in which they are cleaned: users of a thing before the thing.
    pub const ALL: [Kind; 9] = [
        Kind::Process,
        Kind::Postgres,
        Kind::Cgroup,
        Kind::Namespace,
        Kind::Mount,
        Kind::NetworkDevice,
        Kind::SharedMemory,
        Kind::Socket,
        Kind::File,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Process => "process",
            Kind::Cgroup => "cgroup",
            Kind::Mount => "mount",
            Kind::Namespace => "namespace",
            Kind::Socket => "socket",
            Kind::File => "file",
            Kind::SharedMemory => "shared memory",
            Kind::NetworkDevice => "network device",
            Kind::Postgres => "PostgreSQL",
        }
    }
}

/// How a leftover is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Remedy {
    Kill(i32),
    /// PostgreSQL's fast shutdown, then SIGKILL.
    StopPostgres(i32),
    RemoveGroups {
        hierarchy_name: String,
        id: String,
    },
    Unmount(PathBuf),
    DeleteDevice(String),
    RemoveFile(PathBuf),
    RemoveDirectory(PathBuf),
}

/// Something that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What kind.
    pub kind: Kind,
    /// Which one, for a person.
    pub what: String,
    remedy: Remedy,
}

impl Leftover {
    fn new(kind: Kind, what: impl Into<String>, remedy: Remedy) -> Self {
        Leftover { kind, what: what.into(), remedy }
    }

    /// Removes it.
    ///
    /// # Errors
    /// Why it stays, for a person.
    pub fn clean(&self) -> Result<(), String> {
        let io = |r: std::io::Result<()>| match r {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
            _ => Ok(()),
        };
        match &self.remedy {
            Remedy::Kill(pid) => kill(*pid, Signal::KILL),
            Remedy::StopPostgres(pid) => kill(*pid, Signal::INT).or_else(|_| kill(*pid, Signal::KILL)),
            Remedy::RemoveGroups { hierarchy_name, id } => Hierarchy::detect_named(hierarchy_name)
                .and_then(|h| SandboxGroups::adopt(&h, id))
                .and_then(|groups| groups.remove(GONE_TIMEOUT))
                .map_err(|e| crate::chain(&e)),
            Remedy::Unmount(path) => {
                let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
                io(rustix::mount::unmount(path.as_path(), flags).map_err(Into::into))
            }
            Remedy::DeleteDevice(name) => strays::delete_device(name),
            Remedy::RemoveFile(path) => io(std::fs::remove_file(path)),
            Remedy::RemoveDirectory(path) => io(std::fs::remove_dir_all(path)),
        }
    }
}

/// Sends the signal and waits for the end.
fn kill(pid: i32, signal: Signal) -> Result<(), String> {
    let Some(pid) = Pid::from_raw(pid).filter(|p| p.as_raw_nonzero().get() > 1) else {
        return Err("no process of this pid namespace".to_owned());
    };
    let Ok(watch) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return Ok(());
    };
    match kill_process(pid, signal) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(e) => return Err(e.to_string()),
    }
    let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: GONE_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err(format!("still there {} s after the signal", GONE_TIMEOUT.as_secs())),
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Search {
    /// Where live sandboxes are noted.
    pub run_directory: PathBuf,
    /// Name of the top control group.
    pub cgroup_name: String,
    /// Data directories of services and of `bulkhead sandbox`.
    pub data_directories: Vec<PathBuf>,
    /// Beginning of names in shared places.
    pub prefix: String,
}

/// What of the notes is known to live.
#[derive(Debug, Default)]
struct Live {
    sandboxes: HashSet<String>,
    scratch: HashSet<PathBuf>,
}

impl Search {
    /// Everything on this host: `data_directory` and those that notes and processes name.
    pub fn host(data_directory: &Path) -> Self {
        let mut search = Search {
            run_directory: PathBuf::from(RUN_DIRECTORY),
            cgroup_name: cgroup::DEFAULT_NAME.to_owned(),
            data_directories: vec![data_directory.to_path_buf()],
            prefix: NAME_PREFIX.to_owned(),
        };
        let noted = SandboxRecord::all(&search.run_directory)
            .into_iter()
            .flatten()
            .filter_map(|record| Some(record.scratch.parent()?.parent()?.to_path_buf()));
        search.data_directories.extend(noted);
        search.data_directories.extend(services::data_directories_of_clusters());
        search.data_directories.sort_unstable();
        search.data_directories.dedup();
        search
    }

    fn live(&self) -> Live {
        let mut live = Live::default();
        for record in
            SandboxRecord::all(&self.run_directory).into_iter().flatten().filter(|r| r.owner.lives())
        {
            live.scratch.insert(record.scratch);
            live.sandboxes.insert(record.id);
        }
        live
    }

    /// Everything that is left, in the order in which it is to be cleaned.
    pub fn find(&self) -> Vec<Leftover> {
        let mut found = self.of_sandboxes();
        found.extend(services::clusters(&self.data_directories));
        found.extend(services::spools(&self.data_directories));
        found.extend(strays::mounts(self));
        found.extend(strays::sockets(self));
        found.extend(strays::shared_memory(&self.prefix));
        found.extend(strays::devices(&self.prefix));
        found.sort_by_key(|l| Kind::ALL.iter().position(|k| *k == l.kind));
        found
    }

    /// What dead launchers of sandboxes left: processes, control groups, scratch directories, notes. A worker removes these
    /// at its start.
    pub fn of_sandboxes(&self) -> Vec<Leftover> {
        // The groups are listed before the notes are read: a sandbox that is made in between has no group in the list.
        let groups = sandboxes::groups(&self.cgroup_name);
        let scratch = sandboxes::scratch_directories(&self.data_directories, &self.run_directory);
        let live = self.live();
        let mut found = sandboxes::processes(&self.cgroup_name, &groups, &live);
        found.extend(sandboxes::dead_groups(&self.cgroup_name, groups, &live));
        found.extend(sandboxes::dead_scratch(scratch, &live));
        found.extend(sandboxes::dead_notes(&self.run_directory));
        found
    }
}

/// Removes what dead launchers of sandboxes left; says what was removed, and what stays and why.
pub fn reap(search: &Search) -> (Vec<Leftover>, Vec<String>) {
    let (mut removed, mut stays) = (Vec::new(), Vec::new());
    for leftover in search.of_sandboxes() {
        match leftover.clean() {
            Ok(()) => removed.push(leftover),
            Err(why) => stays.push(format!("{} {}: {why}", leftover.kind.name(), leftover.what)),
        }
    }
    (removed, stays)
}
