//! Everything on the host that belongs to one sandbox, in the order in which it is made; taken down in the reverse order.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_jail::cgroup::{self, CgroupError, GroupLimits, Meter, SandboxGroups};
use bulkhead_jail::seccomp::REFUSED_STATUS;
use bulkhead_jail::spawn::Ended;
use bulkhead_jail::uid::HostUid;
use bulkhead_types::Limits;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::SandboxError;
use crate::record::{ProcessIdentity, SandboxRecord};

use super::keeper::Keeper;
use super::{Kind, Launcher};

/// Host threads of the job's group beyond the job's own: the process that stubs are forked from, and warm stubs.
const JOB_TASKS_SPARE: u64 = 64;
/// How long the end of a killed sandbox may take: its memory has to be freed.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the removal of its control groups may take.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Room for its last words, in bytes.
const LAST_WORDS: u64 = 16 * 1024;
/// What of them goes into a message, in bytes.
const LAST_WORDS_TOLD: usize = 2 * 1024;

pub(crate) fn step(
    step: &'static str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> SandboxError {
    move |source| SandboxError::Step { step, source }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    name: &'static str,
) -> impl FnOnce(E) -> SandboxError {
    move |e| step(name)(Box::new(e))
}

/// What one sandbox has on the host. Dropping it ends the sandbox and removes all of it.
#[derive(Debug)]
pub(crate) struct Parts {
    id: String,
    run: PathBuf,
    scratch: PathBuf,
    uid: Option<HostUid>,
    groups: Option<SandboxGroups>,
    pub(super) keeper: Option<Arc<Keeper>>,
    /// When its last process was gone, by [`crate::monotonic_ns`].
    pub(super) ended_ns: Option<u64>,
    last_words: fs::File,
}

impl Parts {
    /// Notes the sandbox, before anything of it exists.
    pub(super) fn note(launcher: &Launcher, id: &str) -> Result<Self, SandboxError> {
        let places = &launcher.places;
        let scratch = places.scratch_root.join(id);
        let last_words = sealed_file().map_err(failed("making room for its last words"))?;
        SandboxRecord {
            id: id.to_owned(),
            owner: ProcessIdentity::current().map_err(failed("reading /proc"))?,
            scratch: scratch.clone(),
            cgroup: places.cgroup.clone(),
        }
        .write(&places.run)
        .map_err(failed("noting the sandbox in the run directory"))?;
        Ok(Parts {
            id: id.to_owned(),
            run: places.run.clone(),
            scratch,
            uid: None,
            groups: None,
            keeper: None,
            ended_ns: None,
            last_words,
        })
    }

    /// Makes everything that its process is given: its uid, its scratch directory, its control groups with their limits. What
    /// was made before a failure goes with the parts.
    pub(super) fn furnish(&mut self, launcher: &Launcher, limits: &Limits) -> Result<(), SandboxError> {
        let uid = launcher.places.uids.claim().map_err(failed("claiming a host uid"))?;
        make_scratch(&self.scratch, uid.get()).map_err(failed("making the scratch directory"))?;
        self.uid = Some(uid);
        let groups =
            SandboxGroups::create(&launcher.hierarchy, &self.id, &group_limits(limits, &launcher.kind))
                .map_err(limit_error)?;
        self.groups = Some(groups);
        Ok(())
    }

    /// Sets all limits anew.
    pub(super) fn limit(&self, kind: &Kind, limits: &Limits) -> Result<(), SandboxError> {
        self.groups()?.set_limits(&group_limits(limits, kind)).map_err(limit_error)
    }

    pub(crate) fn groups(&self) -> Result<&SandboxGroups, SandboxError> {
        self.groups.as_ref().ok_or_else(|| SandboxError::Died("its control groups are gone".to_owned()))
    }

    /// The host uid of this sandbox.
    pub(crate) fn host_uid(&self) -> u32 {
        self.uid.as_ref().map_or(0, |u| u.get())
    }

    /// Its scratch directory, as it goes into a frame.
    pub(crate) fn scratch_directory(&self) -> Result<&str, SandboxError> {
        self.scratch.to_str().ok_or_else(|| {
            SandboxError::Host(format!("the scratch directory {} is not UTF-8", self.scratch.display()))
        })
    }

    /// Counts the job, or the process that the job is inside of.
    pub(super) fn meter(&self, kind: Kind) -> Result<Meter, SandboxError> {
        let groups = self.groups()?;
        let meter = if kind.own_kernel { groups.meter_of_sentry() } else { groups.meter() };
        meter.map_err(limit_error)
    }

    pub(super) fn last_words_file(&self) -> &fs::File {
        &self.last_words
    }

    /// How its process ended, for a message.
    pub(super) fn how_it_died(&self, ended: Option<Ended>) -> String {
        let how = match ended {
            Some(Ended::Exited(REFUSED_STATUS) | Ended::Signaled(libc_sigsys::SIGSYS)) => {
                "it made a system call outside of its allow-list".to_owned()
            }
            Some(ended) => format!("it {ended}"),
            None => "it does not end".to_owned(),
        };
        match self.last_words() {
            words if words.is_empty() => how,
            words => format!("{how}; its last words: {words}"),
        }
    }

    fn last_words(&self) -> String {
        let mut buffer = vec![0; LAST_WORDS as usize];
        let n = self.last_words.read_at(&mut buffer, 0).unwrap_or(0);
        let end = buffer[..n].iter().position(|b| *b == 0).unwrap_or(n);
        let start = end.saturating_sub(LAST_WORDS_TOLD);
        String::from_utf8_lossy(&buffer[start..end]).trim().replace('\n', " | ")
    }

    /// Ends the sandbox and removes everything of it.
    ///
    /// # Errors
    /// What stays; its note stays too, for the next start or `doctor --leftovers --clean`.
    pub(super) fn take_down(&mut self) -> Result<(), SandboxError> {
        if let Some(keeper) = self.keeper.take() {
            keeper.kill();
            // Most jobs leave nothing with a name in it: then it is gone while the sentry dies.
            let _ = fs::remove_dir(&self.scratch);
            if keeper.wait(END_TIMEOUT).is_none() {
                // Whatever it is stuck in, its uid must not be given to another sandbox.
                std::mem::forget(self.uid.take());
                let seconds = END_TIMEOUT.as_secs();
                return Err(SandboxError::TimedOut { what: "end after SIGKILL", seconds });
            }
        }
        self.ended_ns = Some(crate::monotonic_ns());
        if let Some(groups) = self.groups.take() {
            groups.remove(REMOVE_TIMEOUT).map_err(failed("removing its control groups"))?;
        }
        match fs::remove_dir_all(&self.scratch) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing its scratch directory")(e));
            }
            _ => {}
        }
        self.uid = None;
        SandboxRecord::remove(&self.run, &self.id).map_err(failed("removing its note"))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::error!(sandbox = self.id, error = %crate::chain(&error), "something of a sandbox stays");
        }
    }
}

mod libc_sigsys {
    /// x86-64's number of SIGSYS.
    pub(super) const SIGSYS: i32 = 31;
}

/// A file in memory that can't grow: its writer can't fill anything.
fn sealed_file() -> io::Result<fs::File> {
    let fd = rustix::fs::memfd_create("last-words", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, LAST_WORDS)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd.into())
}

fn make_scratch(path: &Path, uid: u32) -> io::Result<()> {
    let make = || fs::DirBuilder::new().mode(0o700).create(path);
    match make() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            make()?;
        }
        other => other?,
    }
    chown(path, Some(uid), Some(uid))
}

fn group_limits(limits: &Limits, kind: &Kind) -> GroupLimits {
    let of_job = if kind.own_kernel { 0 } else { limits.processes };
    GroupLimits {
        memory_bytes: limits.memory_bytes,
        reserve_bytes: kind.overhead.beside(limits.memory_bytes),
        cpu_milli: limits.cpu_milli,
        job_tasks: limits.processes.saturating_add(JOB_TASKS_SPARE),
        sentry_tasks: of_job.saturating_add(kind.own_tasks),
    }
}

/// A control group that can't be had is a limit that can't be enforced; the error says which.
pub(crate) fn limit_error(error: CgroupError) -> SandboxError {
    let limit = match &error {
        CgroupError::Missing { controller, .. } => match controller {
            cgroup::Controller::Memory => "memory",
            cgroup::Controller::Cpu => "cpu",
            cgroup::Controller::CpuAcct => "cpu time",
            cgroup::Controller::Pids => "processes",
            cgroup::Controller::Freezer => "wall time",
        },
        CgroupError::File { path, .. } => {
            let text = path.to_string_lossy();
            match () {
                () if text.contains("memory") => "memory",
                () if text.contains("pids") => "processes",
                () if text.contains("cpu") => "cpu",
                () => "control group",
            }
        }
        _ => "control group",
    };
    SandboxError::Limit { limit, problem: crate::chain(&error) }
}
