//! Things in places that all programs of a host share. The service makes none of them outside of a sandbox's own namespaces,
//! so each that bears its name is a leftover.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kind, Leftover, Remedy, Search};

/// How deep sockets are looked for below a run or data directory.
const SOCKET_DEPTH: usize = 3;
/// Entries of a directory that are looked at: more are blobs and images, not sockets.
const ENTRIES_MAX: usize = 10_000;

/// Mounts and pinned namespaces below our directories, and roots of sandboxes in the host's own mount namespace.
pub(super) fn mounts(search: &Search) -> Vec<Leftover> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours: Vec<PathBuf> = [search.run_directory.clone()]
        .into_iter()
        .chain(search.data_directories.iter().map(|d| d.join("scratch")))
        .map(|p| p.canonicalize().unwrap_or(p))
        .collect();
    let mut found: Vec<Leftover> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = PathBuf::from(unescape(left.split(' ').nth(4)?));
            let mut right = right.split(' ');
            let (kind, source) = (right.next()?, right.next()?);
            let below = ours.iter().any(|dir| point != *dir && point.starts_with(dir));
            let root_of_sandbox = kind == "tmpfs" && source == search.prefix;
            let what = point.display().to_string();
            let kind = if kind == "nsfs" { Kind::Namespace } else { Kind::Mount };
            (below || root_of_sandbox).then(|| Leftover::new(kind, what, Remedy::Unmount(point)))
        })
        .collect();
    // The last mounted goes first.
    found.reverse();
    found
}

fn unescape(text: &str) -> String {
    // mountinfo escapes exactly these.
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Sockets below our directories that nobody has bound any more.
pub(super) fn sockets(search: &Search) -> Vec<Leftover> {
    let bound: HashSet<PathBuf> = fs::read_to_string("/proc/net/unix")
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.split_whitespace().nth(7).map(PathBuf::from))
        .collect();
    let mut found = Vec::new();
    for dir in [&search.run_directory].into_iter().chain(&search.data_directories) {
        dead_sockets(dir, SOCKET_DEPTH, &bound, &mut found);
    }
    found
}

fn dead_sockets(dir: &Path, depth: usize, bound: &HashSet<PathBuf>, found: &mut Vec<Leftover>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().take(ENTRIES_MAX) {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() && depth > 1 {
            dead_sockets(&path, depth - 1, bound, found);
        } else if kind.is_socket() {
            let resolved = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !bound.contains(&path) && !bound.contains(&resolved) {
                found.push(Leftover::new(Kind::Socket, path.display().to_string(), Remedy::RemoveFile(path)));
            }
        }
    }
}

pub(super) fn shared_memory(prefix: &str) -> Vec<Leftover> {
    named("/dev/shm", prefix)
        .map(|path| {
            let what = path.display().to_string();
            let remedy = if path.is_dir() { Remedy::RemoveDirectory(path) } else { Remedy::RemoveFile(path) };
            Leftover::new(Kind::SharedMemory, what, remedy)
        })
        .collect()
}

pub(super) fn devices(prefix: &str) -> Vec<Leftover> {
    named("/sys/class/net", prefix)
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .map(|name| Leftover::new(Kind::NetworkDevice, name.clone(), Remedy::DeleteDevice(name)))
        .collect()
}

fn named(dir: &str, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let prefix = prefix.to_owned();
    entries.filter(move |e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path())
}

/// By iproute2, which every host with network devices of its own making has.
pub(super) fn delete_device(name: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(["link", "delete", "dev", name])
        .output()
        .map_err(|e| format!("can't start ip (package iproute2): {e}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
