//! One hierarchy per controller. Only memory and pids have the pair below the sandbox's group; the others need one group.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::groups::{GroupLimits, PERIOD_US};
use super::mounts::{Controller, Mount, Survey};
use super::{CgroupError, files};

/// The file by which a process joins. `tasks`, not `cgroup.procs`: for a single-threaded process that writes `0` it skips the
/// kernel's lock on all thread groups, whose first taker waits for an RCU grace period (11 ms measured, against 0.1 ms).
const JOIN: &str = "tasks";

#[derive(Debug)]
pub(super) struct Root {
    /// `<mount>/bulkhead` of each controller; two may share one.
    dirs: BTreeMap<Controller, PathBuf>,
}

impl Root {
    pub(super) fn prepare(survey: &Survey, name: &str) -> Result<Self, CgroupError> {
        let mut dirs = BTreeMap::new();
        for controller in Controller::ALL {
            // `chosen` has made sure of it; a race with an unmount ends as an error below.
            let Some(mount) = survey.v1_mount(controller) else { continue };
            dirs.insert(controller, make_below(mount, name)?);
        }
        Ok(Root { dirs })
    }

    fn dir(&self, controller: Controller) -> Result<&Path, CgroupError> {
        self.dirs
            .get(&controller)
            .map(PathBuf::as_path)
            .ok_or_else(|| CgroupError::Missing { controller, fix: "run bulkhead doctor".to_owned() })
    }

    /// Each directory once.
    pub(super) fn directories(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = self.dirs.values().map(PathBuf::as_path).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn group(&self, controller: Controller, id: &str) -> Result<PathBuf, CgroupError> {
        Ok(self.dir(controller)?.join(id))
    }

    pub(super) fn create(&self, id: &str, limits: &GroupLimits) -> Result<(), CgroupError> {
        for controller in [Controller::Memory, Controller::Pids] {
            let group = self.group(controller, id)?;
            files::make(&group)?;
            files::make(&group.join("sentry"))?;
            files::make(&group.join("job"))?;
        }
        let cpu = self.group(Controller::Cpu, id)?;
        files::make(&cpu)?;
        files::set(&cpu, "cpu.cfs_period_us", PERIOD_US)?;
        files::make(&self.group(Controller::CpuAcct, id)?)?;
        files::make(&self.group(Controller::Freezer, id)?)?;
        self.set_limits(id, limits)
    }

    pub(super) fn set_limits(&self, id: &str, limits: &GroupLimits) -> Result<(), CgroupError> {
        let memory = self.group(Controller::Memory, id)?;
        set_memory(&memory, limits.total_memory())?;
        set_memory(&memory.join("job"), limits.memory_bytes)?;
        files::set(&self.group(Controller::Cpu, id)?, "cpu.cfs_quota_us", limits.cpu_quota_us())?;
        let pids = self.group(Controller::Pids, id)?;
        files::set(&pids.join("sentry"), "pids.max", limits.sentry_tasks)?;
        files::set(&pids.join("job"), "pids.max", limits.job_tasks)
    }

    pub(super) fn join_sentry(&self, id: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut paths = vec![
            self.group(Controller::Memory, id)?.join("sentry"),
            self.group(Controller::Pids, id)?.join("sentry"),
            self.group(Controller::Cpu, id)?,
            self.group(Controller::CpuAcct, id)?,
            self.group(Controller::Freezer, id)?,
        ];
        paths.sort_unstable();
        paths.dedup();
        paths.iter().map(|p| files::open_for_join(&p.join(JOIN))).collect()
    }

    pub(super) fn join_job(&self, id: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        [Controller::Memory, Controller::Pids]
            .into_iter()
            .map(|c| files::open_for_join(&self.group(c, id)?.join("job").join(JOIN)))
            .collect()
    }

    pub(super) fn freeze(&self, id: &str, frozen: bool) -> Result<(), CgroupError> {
        let state = if frozen { "FROZEN" } else { "THAWED" };
        files::set(&self.group(Controller::Freezer, id)?, "freezer.state", state)
    }

    /// Processes in any of the sandbox's groups: one that joined only some of them counts too.
    pub(super) fn processes(&self, id: &str) -> Vec<i32> {
        let mut found: Vec<i32> = self
            .directories()
            .into_iter()
            .flat_map(|dir| {
                let group = dir.join(id);
                [group.join("sentry"), group.join("job"), group]
                    .into_iter()
                    .flat_map(|g| files::processes(&g))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(super) fn remove(&self, id: &str, deadline: Instant) -> Result<(), CgroupError> {
        let started = Instant::now();
        for dir in self.directories() {
            let group = dir.join(id);
            for child in files::subdirectories(&group) {
                files::remove(&group.join(child), started, deadline)?;
            }
            files::remove(&group, started, deadline)?;
        }
        Ok(())
    }

    pub(super) fn exists(&self, id: &str) -> bool {
        self.directories().into_iter().any(|dir| dir.join(id).exists())
    }

    pub(super) fn memory(&self, id: &str) -> Result<PathBuf, CgroupError> {
        self.group(Controller::Memory, id)
    }

    pub(super) fn cpu_account(&self, id: &str) -> Result<PathBuf, CgroupError> {
        self.group(Controller::CpuAcct, id)
    }
}

/// Below the mount's root if that works (limits of our own group then don't count twice), else below our own group.
fn make_below(mount: &Mount, name: &str) -> Result<PathBuf, CgroupError> {
    let top = mount.point.join(name);
    let Err(first) = files::make(&top) else { return Ok(top) };
    if mount.own.as_os_str().is_empty() {
        return Err(first);
    }
    let own = mount.point.join(&mount.own).join(name);
    files::make(&own).map_err(|_| first).map(|()| own)
}

fn set_memory(group: &Path, bytes: u64) -> Result<(), CgroupError> {
    // Memory and swap together; absent where swap accounting is off, and then nothing of the group may be swapped.
    let with_swap = || match files::set(group, "memory.memsw.limit_in_bytes", bytes) {
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            files::set(group, "memory.swappiness", 0)
        }
        other => other,
    };
    match files::set(group, "memory.limit_in_bytes", bytes) {
        // It may not be above the sum with swap: a limit that is raised raises that first.
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput => {
            with_swap()?;
            files::set(group, "memory.limit_in_bytes", bytes)
        }
        Err(error) => Err(error),
        Ok(()) => with_swap(),
    }
}
