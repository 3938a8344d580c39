//! Processes, control groups, scratch directories and notes of sandboxes whose launcher is dead.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_jail::cgroup::{Hierarchy, SandboxGroups};
use bulkhead_types::SandboxId;

use super::{Kind, Leftover, Live, Remedy};
use crate::record::SandboxRecord;
use crate::{PROGRAM_NAME, microvm};

/// A sentry or a VMM joins its group within its first milliseconds; one that is in none after this time never will.
const JOINS_WITHIN: Duration = Duration::from_secs(60);

/// Ids of all sandboxes that have a group.
pub(super) fn groups(name: &str) -> Vec<String> {
    if !top_exists(name) {
        return Vec::new();
    }
    Hierarchy::detect_named(name).map(|h| h.sandboxes()).unwrap_or_default()
}

/// Asking must not make what it asks for.
fn top_exists(name: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter(|l| l.contains(" - cgroup"))
        .filter_map(|l| l.split(' ').nth(4))
        .any(|point| Path::new(point).join(name).is_dir())
}

pub(super) fn dead_groups(name: &str, ids: Vec<String>, live: &Live) -> Vec<Leftover> {
    ids.into_iter()
        .filter(|id| !live.sandboxes.contains(id))
        .map(|id| {
            let what = format!("{name}/{id}");
            Leftover::new(Kind::Cgroup, what, Remedy::RemoveGroups { hierarchy_name: name.to_owned(), id })
        })
        .collect()
}

/// Processes in groups of dead sandboxes, and sentries and VMMs that are in no group at all.
pub(super) fn processes(name: &str, ids: &[String], live: &Live) -> Vec<Leftover> {
    let mut found = Vec::new();
    let dead = ids.iter().filter(|id| !live.sandboxes.contains(*id));
    if let Some(hierarchy) = top_exists(name).then(|| Hierarchy::detect_named(name).ok()).flatten() {
        for id in dead {
            let Ok(groups) = SandboxGroups::adopt(&hierarchy, id) else { continue };
            for pid in groups.processes() {
                found.push(process(pid, &format!("of sandbox {id}")));
            }
            groups.leave();
        }
    }
    found.extend(strays_of_none(live));
    found
}

fn process(pid: i32, of: &str) -> Leftover {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Leftover::new(Kind::Process, format!("{pid} ({}) {of}", name.trim()), Remedy::Kill(pid))
}

/// Sentries and VMMs in no sandbox's group: they failed before they could be limited, and were not killed.
fn strays_of_none(live: &Live) -> Vec<Leftover> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let name = executable.file_name()?.to_str()?;
            let name = name.strip_suffix(" (deleted)").unwrap_or(name);
            [PROGRAM_NAME, microvm::PROGRAM_NAME].contains(&name).then_some(pid)
        })
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let id = command.split(|b| *b == 0).nth(1).and_then(|a| std::str::from_utf8(a).ok());
            // One that was started by hand, for its tables, has no sandbox.
            let Some(id) = id.filter(|id| id.parse::<SandboxId>().is_ok()) else { return false };
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            !groups.contains(id)
                && !live.sandboxes.contains(id)
                && age(*pid).is_some_and(|a| a > JOINS_WITHIN)
        })
        .map(|pid| process(pid, "is in no sandbox"))
        .collect()
}

fn age(pid: i32) -> Option<Duration> {
    let made = fs::metadata(format!("/proc/{pid}")).ok()?.modified().ok()?;
    made.elapsed().ok()
}

/// All scratch directories: `<data directory>/scratch/<sandbox id>`, and those that notes name.
pub(super) fn scratch_directories(data: &[PathBuf], run: &Path) -> Vec<PathBuf> {
    let noted = SandboxRecord::all(run).into_iter().flatten().map(|r| r.scratch).filter(|s| s.is_dir());
    let mut all: Vec<PathBuf> = data
        .iter()
        .filter_map(|d| fs::read_dir(d.join("scratch")).ok())
        .flat_map(Iterator::flatten)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .chain(noted)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn dead_scratch(directories: Vec<PathBuf>, live: &Live) -> Vec<Leftover> {
    directories
        .into_iter()
        .filter(|path| !live.scratch.contains(path))
        .map(|path| {
            let what = format!("{} (scratch files of a sandbox)", path.display());
            Leftover::new(Kind::File, what, Remedy::RemoveDirectory(path))
        })
        .collect()
}

pub(super) fn dead_notes(run: &Path) -> Vec<Leftover> {
    SandboxRecord::all(run)
        .into_iter()
        .filter_map(|record| {
            let path = match record {
                Ok(record) if record.owner.lives() => return None,
                Ok(record) => run.join("sandboxes").join(record.id),
                Err(torn) => torn,
            };
            let what = format!("{} (note of a sandbox)", path.display());
            Some(Leftover::new(Kind::File, what, Remedy::RemoveFile(path)))
        })
        .collect()
}
