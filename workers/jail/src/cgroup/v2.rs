//! The unified hierarchy.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::groups::{GroupLimits, PERIOD_US};
use super::mounts::Survey;
use super::{CgroupError, Controller, files};

/// What our groups hand down to theirs.
const ENABLE: &str = "+memory +cpu +pids";
/// Where the processes of a container's root group go, since a group with children that have controllers may hold none.
const HOST_LEAF: &str = "host";

#[derive(Debug)]
pub(super) struct Root {
    /// `<mount>/bulkhead`.
    dir: PathBuf,
}

impl Root {
    pub(super) fn prepare(survey: &Survey, name: &str) -> Result<Self, CgroupError> {
        let mount = survey.v2.as_ref().ok_or_else(|| CgroupError::Missing {
            controller: Controller::Memory,
            fix: "mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
        })?;
        let top = match Self::prepare_below(&mount.point, name) {
            Ok(root) => return Ok(root),
            Err(e) => e,
        };
        // A systemd unit with Delegate=yes owns its own group, not the root.
        if mount.own.as_os_str().is_empty() {
            return Err(top);
        }
        Self::prepare_below(&mount.point.join(&mount.own), name).map_err(|_| top)
    }

    /// Makes `<parent>/<name>` and hands the controllers down to it.
    pub(super) fn prepare_below(parent: &Path, name: &str) -> Result<Self, CgroupError> {
        enable(parent)?;
        let dir = parent.join(name);
        files::make(&dir)?;
        files::set(&dir, "cgroup.subtree_control", ENABLE)?;
        Ok(Root { dir })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.dir
    }

    pub(super) fn group(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    pub(super) fn create(&self, id: &str, limits: &GroupLimits) -> Result<(), CgroupError> {
        let group = self.group(id);
        files::make(&group)?;
        files::set(&group, "cgroup.subtree_control", "+memory +pids")?;
        files::make(&group.join("sentry"))?;
        files::make(&group.join("job"))?;
        self.set_limits(id, limits)
    }

    pub(super) fn set_limits(&self, id: &str, limits: &GroupLimits) -> Result<(), CgroupError> {
        let group = self.group(id);
        set_memory(&group, limits.total_memory())?;
        files::set(&group, "cpu.max", format_args!("{} {PERIOD_US}", limits.cpu_quota_us()))?;
        files::set(&group.join("sentry"), "pids.max", limits.sentry_tasks)?;
        let job = group.join("job");
        set_memory(&job, limits.memory_bytes)?;
        files::set(&job, "pids.max", limits.job_tasks)
    }

    pub(super) fn join(&self, id: &str, child: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        Ok(vec![files::open_for_join(&self.group(id).join(child).join("cgroup.procs"))?])
    }

    pub(super) fn freeze(&self, id: &str, frozen: bool) -> Result<(), CgroupError> {
        files::set(&self.group(id), "cgroup.freeze", u8::from(frozen))
    }

    /// Kills everything in the group at once; false where the kernel is older than 5.14.
    pub(super) fn kill(&self, id: &str) -> bool {
        files::set(&self.group(id), "cgroup.kill", 1).is_ok()
    }

    pub(super) fn processes(&self, id: &str) -> Vec<i32> {
        let group = self.group(id);
        let mut found = files::processes(&group);
        for child in files::subdirectories(&group) {
            found.extend(files::processes(&group.join(child)));
        }
        found
    }

    pub(super) fn remove(&self, id: &str, deadline: Instant) -> Result<(), CgroupError> {
        let started = Instant::now();
        let group = self.group(id);
        for child in files::subdirectories(&group) {
            files::remove(&group.join(child), started, deadline)?;
        }
        files::remove(&group, started, deadline)
    }
}

fn set_memory(group: &Path, bytes: u64) -> Result<(), CgroupError> {
    files::set(group, "memory.max", bytes)?;
    // Absent without swap accounting (swapaccount=0 or no CONFIG_SWAP): then there is nothing to limit.
    if group.join("memory.swap.max").exists() { files::set(group, "memory.swap.max", 0) } else { Ok(()) }
}

/// Hands our controllers down from `group`; one that holds processes (a container's root) must first move them to a leaf.
fn enable(group: &Path) -> Result<(), CgroupError> {
    let enabled = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |c: &str| enabled.split_whitespace().any(|e| e == c);
    if has("memory") && has("cpu") && has("pids") {
        return Ok(());
    }
    match files::set(group, "cgroup.subtree_control", ENABLE) {
        Err(CgroupError::File { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
        other => return other,
    }
    let leaf = group.join(HOST_LEAF);
    files::make(&leaf)?;
    for pid in files::processes(group) {
        // One that has ended meanwhile is no longer in the way.
        let _ = files::set(&leaf, "cgroup.procs", pid);
    }
    files::set(group, "cgroup.subtree_control", ENABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's controllers are all in v1 on many test machines, so the limits are checked as the values that are written:
    /// a directory of ordinary files takes them as cgroupfs would.
    #[test]
    fn every_limit_is_written_where_v2_expects_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let group = dir.path().join("bulkhead/sb");
        for sub in ["", "sentry", "job"] {
            let path = group.join(sub);
            fs::create_dir_all(&path).expect("directory");
            for file in [
                "memory.max",
                "memory.swap.max",
                "cpu.max",
                "pids.max",
                "cgroup.subtree_control",
                "cgroup.procs",
            ] {
                fs::write(path.join(file), "").expect("file");
            }
        }
        let root = Root { dir: dir.path().join("bulkhead") };
        let limits = GroupLimits {
            memory_bytes: 100 << 20,
            reserve_bytes: 20 << 20,
            cpu_milli: 1500,
            job_tasks: 77,
            sentry_tasks: 99,
        };
        root.create("sb", &limits).expect("all files are there");
        let value = |path: &str| fs::read_to_string(group.join(path)).expect("written");
        assert_eq!(value("memory.max"), (120u64 << 20).to_string());
        assert_eq!(value("job/memory.max"), (100u64 << 20).to_string());
        assert_eq!(value("memory.swap.max"), "0");
        assert_eq!(value("job/memory.swap.max"), "0");
        assert_eq!(value("cpu.max"), "150000 100000");
        assert_eq!(value("job/pids.max"), "77");
        assert_eq!(value("sentry/pids.max"), "99");
        assert_eq!(value("cgroup.subtree_control"), "+memory +pids");
        assert_eq!(root.join("sb", "job").expect("opens").len(), 1);
    }

    #[test]
    fn a_limit_that_is_not_there_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("sb")).expect("directory");
        fs::write(dir.path().join("sb/cgroup.subtree_control"), "").expect("file");
        let root = Root { dir: dir.path().to_path_buf() };
        let limits =
            GroupLimits { memory_bytes: 1, reserve_bytes: 0, cpu_milli: 1, job_tasks: 1, sentry_tasks: 1 };
        let error = root.create("sb", &limits).expect_err("no memory.max");
        assert!(error.to_string().contains("sb/memory.max"), "{error}");
    }
}
