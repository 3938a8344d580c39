//! The note that a launcher leaves about each live sandbox, so that what a killed launcher left can be told from what lives.
//!
//! `<run directory>/sandboxes/<id>` is written before anything of the sandbox exists and removed after everything of it is
//! gone. It names the launcher by pid and start time, since pids are used again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where root's launchers keep their notes: one place, so that `doctor --leftovers` finds those of every launcher.
pub const RUN_DIRECTORY: &str = "/run/bulkhead";

/// Longest note, in bytes: a path and two numbers.
const NOTE_MAX: u64 = 64 * 1024;

/// A process, told from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started_ticks: u64,
}

impl ProcessIdentity {
    /// This process.
    ///
    /// # Errors
    /// If /proc can't be read.
    pub fn current() -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let started_ticks =
            started_ticks(pid).ok_or_else(|| io::Error::other("/proc/self/stat can't be read"))?;
        Ok(ProcessIdentity { pid, started_ticks })
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        started_ticks(self.pid) == Some(self.started_ticks)
    }
}

/// Start time of a process that lives (a zombie does not), in clock ticks since boot.
fn started_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the last one closes it. Fields from the third on follow.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    // Field 22 is the nineteenth after the state.
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// What is known about a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The sandbox's id.
    pub id: String,
    /// Who runs it.
    pub owner: ProcessIdentity,
    /// Its scratch directory.
    pub scratch: PathBuf,
    /// Name of the top control group.
    pub cgroup: String,
}

fn directory(run: &Path) -> PathBuf {
    run.join("sandboxes")
}

impl SandboxRecord {
    /// Writes the note.
    ///
    /// # Errors
    /// If the run directory can't be made or written.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        let path = directory(run).join(&self.id);
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        match fs::write(&path, &bytes) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory(run))?;
                fs::write(&path, &bytes)
            }
            other => other,
        }
    }

    /// Removes the note; one that is gone is fine.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(run: &Path, id: &str) -> io::Result<()> {
        match fs::remove_file(directory(run).join(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// All notes; one that can't be read (torn by a crash) comes as its name alone.
    pub fn all(run: &Path) -> Vec<Result<SandboxRecord, PathBuf>> {
        let Ok(entries) = fs::read_dir(directory(run)) else { return Vec::new() };
        entries
            .flatten()
            .map(|entry| {
                let path = entry.path();
                let short = entry.metadata().is_ok_and(|m| m.is_file() && m.len() <= NOTE_MAX);
                let text = if short { fs::read(&path).unwrap_or_default() } else { Vec::new() };
                serde_json::from_slice::<SandboxRecord>(&text)
                    .ok()
                    .filter(|r| Some(r.id.as_str()) == entry.file_name().to_str())
                    .ok_or(path)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_owner_is_told_from_a_later_one() {
        let me = ProcessIdentity::current().expect("proc");
        assert!(me.lives());
        assert!(!ProcessIdentity { started_ticks: me.started_ticks + 1, ..me }.lives());
        let mut child = std::process::Command::new("/bin/true").spawn().expect("starts");
        let pid = i32::try_from(child.id()).expect("fits");
        child.wait().expect("waits");
        assert!(!ProcessIdentity { pid, started_ticks: 0 }.lives());
    }

    #[test]
    fn notes_round_trip_and_torn_ones_are_told() {
        let run = tempfile::tempdir().expect("temporary directory");
        let record = SandboxRecord {
            id: "a".into(),
            owner: ProcessIdentity::current().expect("proc"),
            scratch: "/s".into(),
            cgroup: "bulkhead".into(),
        };
        record.write(run.path()).expect("writes");
        fs::write(run.path().join("sandboxes/torn"), "{").expect("writes");
        let mut all = SandboxRecord::all(run.path());
        all.sort_by_key(Result::is_err);
        assert_eq!(all, [Ok(record), Err(run.path().join("sandboxes/torn"))]);
        for _ in 0..2 {
            SandboxRecord::remove(run.path(), "a").expect("removes, also twice");
        }
    }
}
