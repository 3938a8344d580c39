//! The pair of groups of one sandbox: made with its limits, joined, killed, removed.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::usage::Meter;
use super::{CgroupError, Hierarchy, Layout, check_name};

/// Length of a cpu quota's period, in microseconds: the kernel's default.
pub(super) const PERIOD_US: u64 = 100_000;
/// The kernel refuses quotas below one millisecond.
const QUOTA_LEAST_US: u64 = 1_000;
/// Rounds of freezing and killing before a v1 group counts as stuck; each ends with a wait.
const KILL_ROUNDS: u32 = 50;

/// Hard limits of one sandbox. None can be switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory of the job's processes, in bytes.
    pub memory_bytes: u64,
    /// What the sentry may use on top for itself, in bytes: its tables, buffers and the pages that it writes.
    pub reserve_bytes: u64,
    /// CPU time per second of wall time for job and sentry together, in thousandths of a cpu.
    pub cpu_milli: u64,
    /// Host threads of the job's processes.
    pub job_tasks: u64,
    /// Host threads of the sentry.
    pub sentry_tasks: u64,
}

impl GroupLimits {
    pub(super) fn total_memory(&self) -> u64 {
        self.memory_bytes.saturating_add(self.reserve_bytes)
    }

    pub(super) fn cpu_quota_us(&self) -> u64 {
        (self.cpu_milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_LEAST_US)
    }
}

/// The groups of one sandbox. Dropping kills what is left in them and removes them, as far as that goes at once; call
/// [`SandboxGroups::remove`] to know.
#[derive(Debug)]
pub struct SandboxGroups {
    hierarchy: Hierarchy,
    id: String,
    removed: bool,
}

impl SandboxGroups {
    /// Makes the groups and sets every limit.
    ///
    /// # Errors
    /// Names the file whose limit could not be set; nothing is left behind then.
    pub fn create(hierarchy: &Hierarchy, id: &str, limits: &GroupLimits) -> Result<Self, CgroupError> {
        check_name(id)?;
        let groups = SandboxGroups { hierarchy: hierarchy.clone(), id: id.to_owned(), removed: false };
        match hierarchy.layout() {
            Layout::V1(root) => root.create(id, limits)?,
            Layout::V2(root) => root.create(id, limits)?,
        }
        Ok(groups)
    }

    /// Sets every limit anew.
    ///
    /// # Errors
    /// Names the file whose limit could not be set; the job must not start then.
    pub fn set_limits(&self, limits: &GroupLimits) -> Result<(), CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.set_limits(&self.id, limits),
            Layout::V2(root) => root.set_limits(&self.id, limits),
        }
    }

    /// Groups that an earlier life left: to be killed and removed.
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub fn adopt(hierarchy: &Hierarchy, id: &str) -> Result<Self, CgroupError> {
        check_name(id)?;
        Ok(SandboxGroups { hierarchy: hierarchy.clone(), id: id.to_owned(), removed: false })
    }

    /// The sandbox's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Descriptors to which the sentry writes `0` to join, while it has a single thread.
    ///
    /// # Errors
    /// Names the file that can't be opened.
    pub fn sentry_join(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.join_sentry(&self.id),
            Layout::V2(root) => root.join(&self.id, "sentry"),
        }
    }

    /// Descriptors to which the process that all stubs are forked from writes `0`, while it has a single thread.
    ///
    /// # Errors
    /// Names the file that can't be opened.
    pub fn job_join(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.join_job(&self.id),
            Layout::V2(root) => root.join(&self.id, "job"),
        }
    }

    /// Opens the files that tell what the sandbox uses.
    ///
    /// # Errors
    /// Names the file that can't be opened.
    pub fn meter(&self) -> Result<Meter, CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => Meter::open_v1(&root.memory(&self.id)?, &root.cpu_account(&self.id)?, "job"),
            Layout::V2(root) => Meter::open_v2(&root.group(&self.id), "job"),
        }
    }

    /// The same for a sandbox whose job runs inside of the sentry's process: that process's memory counts as the job's.
    ///
    /// # Errors
    /// Names the file that can't be opened.
    pub fn meter_of_sentry(&self) -> Result<Meter, CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => {
                Meter::open_v1(&root.memory(&self.id)?, &root.cpu_account(&self.id)?, "sentry")
            }
            Layout::V2(root) => Meter::open_v2(&root.group(&self.id), "sentry"),
        }
    }

    /// Process ids in the sandbox's groups, sorted on v1.
    pub fn processes(&self) -> Vec<i32> {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.processes(&self.id),
            Layout::V2(root) => root.processes(&self.id),
        }
    }

    /// Stops or continues everything in the sandbox; does not wait until all have stopped (a process with an open
    /// notification never reports it).
    ///
    /// # Errors
    /// Names the file.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.freeze(&self.id, frozen),
            Layout::V2(root) => root.freeze(&self.id, frozen),
        }
    }

    /// Kills everything in the groups, until nothing is in them or `deadline` has passed.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] if something is still there.
    pub fn kill(&self, timeout: Duration) -> Result<(), CgroupError> {
        let started = Instant::now();
        for round in 0..KILL_ROUNDS {
            if self.processes().is_empty() {
                return Ok(());
            }
            let at_once = match self.hierarchy.layout() {
                Layout::V2(root) => root.kill(&self.id),
                Layout::V1(_) => false,
            };
            if !at_once {
                self.freeze_and_kill();
            }
            if started.elapsed() >= timeout {
                break;
            }
            std::thread::sleep(Duration::from_millis(u64::from(round.min(20))));
        }
        if self.processes().is_empty() {
            return Ok(());
        }
        let path = self.hierarchy.roots().first().map(|r| r.join(&self.id)).unwrap_or_default();
        Err(CgroupError::Busy { path, waited_ms: started.elapsed().as_millis() })
    }

    fn freeze_and_kill(&self) {
        // Frozen processes can't fork away from the list that is being read; a freezer that is gone means nobody is in it.
        let _ = self.freeze(true);
        for pid in self.processes() {
            // 0 stands for a process outside of our pid namespace, and must not become "my own process group".
            if let Some(pid) = Pid::from_raw(pid).filter(|p| p.as_raw_nonzero().get() > 1) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.freeze(false);
    }

    /// Whether any directory of the sandbox is still there.
    pub fn exists(&self) -> bool {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.exists(&self.id),
            Layout::V2(root) => root.group(&self.id).exists(),
        }
    }

    /// Kills what is left and removes the groups, trying until `timeout`.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] or [`CgroupError::File`] name what stays.
    pub fn remove(mut self, timeout: Duration) -> Result<(), CgroupError> {
        self.remove_now(timeout)
    }

    /// Lets go of the groups without removing them: for those that only look.
    pub fn leave(mut self) {
        self.removed = true;
    }

    fn remove_now(&mut self, timeout: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + timeout;
        let first = self.remove_directories(deadline.min(Instant::now() + Duration::from_millis(5)));
        if first.is_err() {
            self.kill(timeout)?;
            self.remove_directories(deadline)?;
        }
        self.removed = true;
        Ok(())
    }

    fn remove_directories(&self, deadline: Instant) -> Result<(), CgroupError> {
        match self.hierarchy.layout() {
            Layout::V1(root) => root.remove(&self.id, deadline),
            Layout::V2(root) => root.remove(&self.id, deadline),
        }
    }
}

impl Drop for SandboxGroups {
    fn drop(&mut self) {
        /// Long enough for the dying to leave, short enough for a destructor.
        const AT_MOST: Duration = Duration::from_millis(500);
        if !self.removed
            && let Err(error) = self.remove_now(AT_MOST)
        {
            tracing::warn!(sandbox = self.id, %error, "control groups stay until the next start");
        }
    }
}
