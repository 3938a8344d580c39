//! Reads and writes of group files, with errors that name the file.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::CgroupError;

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_path_buf();
    move |source| CgroupError::File { action, path, source }
}

/// Makes a directory; one that is there already is fine.
pub(super) fn make(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", path)(e)),
        _ => Ok(()),
    }
}

/// Writes a value to a file of a group.
pub(super) fn set(group: &Path, file: &str, value: impl std::fmt::Display) -> Result<(), CgroupError> {
    let path = group.join(file);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| io::Write::write_all(&mut f, value.to_string().as_bytes()))
        .map_err(failed("set", &path))
}

/// Opens the file by which a process joins a group.
pub(super) fn open_for_join(path: &Path) -> Result<OwnedFd, CgroupError> {
    fs::OpenOptions::new().write(true).open(path).map(OwnedFd::from).map_err(failed("open", path))
}

/// The process ids in a group, as this process's pid namespace sees them; 0 stands for one outside of it.
pub(super) fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Names of the groups directly below, unsorted; none if the directory is gone.
pub(super) fn subdirectories(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Removes a group, waiting until `deadline` while dying processes leave it.
pub(super) fn remove(path: &Path, started: Instant, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(100);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() != Some(libc::EBUSY) => return Err(failed("remove", path)(e)),
            Err(_) if Instant::now() >= deadline => {
                return Err(CgroupError::Busy {
                    path: path.to_path_buf(),
                    waited_ms: started.elapsed().as_millis(),
                });
            }
            Err(_) => std::thread::sleep(pause),
        }
        // Doubling from 0.1 ms: the usual wait is for one RCU grace period.
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
