//! Finding the processes of a cluster: by what the kernel says of them, never by a number in a file alone.

use std::path::Path;

use rustix::process::Pid;

use super::ClusterError;
use super::files::Files;

/// A main process that runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Postmaster {
    pub(super) pid: Pid,
}

impl Postmaster {
    /// The running main process of the cluster: the pid file names it, it works in the cluster's directory, and it
    /// runs a program named postgres. Anything else makes the file a stale one.
    pub(super) fn find(files: &Files) -> Result<Option<Self>, ClusterError> {
        let Some(text) = files.read_pid_file()? else { return Ok(None) };
        let Some(pid) = named_pid(&text) else { return Ok(None) };
        Ok(works_in(pid, files.data()).then_some(Self { pid }))
    }
}

/// The first line; the second is the data directory as it was named then, which may have moved.
fn named_pid(text: &str) -> Option<Pid> {
    // Written by postgres -D: positive. A single-user server writes a negative number and can't be adopted.
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

fn works_in(pid: Pid, data: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let is_postgres = || {
        let exe = std::fs::read_link(proc.join("exe")).ok()?;
        // After an upgrade of the package the link ends in " (deleted)".
        Some(exe.file_name()?.to_str()?.starts_with("postgres"))
    };
    std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd == data) && is_postgres() == Some(true)
}

/// Every PostgreSQL process that works in the directory.
pub(super) fn processes_in(data: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| works_in(*pid, data))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_not_trusted() {
        assert_eq!(named_pid("123\n/data\n").map(|pid| pid.as_raw_nonzero().get()), Some(123));
        for bad in ["", "x", "-5\n", "0\n", "99999999999999\n"] {
            assert_eq!(named_pid(bad), None, "{bad:?}");
        }
        // This process is alive and works in its directory, but it is no PostgreSQL.
        let own = rustix::process::getpid();
        assert!(!works_in(own, &std::env::current_dir().expect("cwd")));
    }
}
