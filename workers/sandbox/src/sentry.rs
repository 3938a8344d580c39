//! Sandboxes whose kernel is the sentry.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_jail::cgroup::{self, Hierarchy};
use bulkhead_jail::uid::UidRange;
use bulkhead_types::{Limits, SandboxId, SandboxOverhead};
use bulkhead_wire::{Config, Frame};

use crate::launch::{Kind, Launcher, Parts, Places, limit_error};
use crate::record::RUN_DIRECTORY;
use crate::{Backend, CreateRequest, Sandbox, SandboxError};

/// The name of the sentry's executable.
pub const PROGRAM_NAME: &str = "bulkhead-sentry";

/// What the backend needs to know about its host.
#[derive(Debug)]
pub struct SentryOptions {
    /// The sentry's executable.
    pub program: PathBuf,
    /// Where scratch directories are made: on a disk with room for what jobs write.
    pub scratch_root: PathBuf,
    /// Where live sandboxes are noted.
    pub run_directory: PathBuf,
    /// Name of the top control group.
    pub cgroup_name: String,
    /// Host uids that sandboxes get.
    pub uids: UidRange,
    /// Send even argument-checked memory calls to the sentry first.
    pub mediated_memory: bool,
    /// Let the sentry log every call to the launcher's standard error (for debugging; slow).
    pub log_calls: bool,
}

impl SentryOptions {
    /// The sentry beside the running executable, scratch files below `data_directory`, everything else as all launchers of
    /// this host share it.
    ///
    /// # Errors
    /// If the running executable's path can't be read.
    pub fn beside_current_executable(data_directory: &Path) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        Ok(SentryOptions {
            program: own.with_file_name(PROGRAM_NAME),
            scratch_root: data_directory.join("scratch"),
            run_directory: PathBuf::from(RUN_DIRECTORY),
            cgroup_name: cgroup::DEFAULT_NAME.to_owned(),
            uids: UidRange::system(),
            mediated_memory: false,
            log_calls: false,
        })
    }
}

/// Makes sentries.
#[derive(Debug)]
pub struct SentryBackend {
    launcher: Launcher,
    mediated_memory: bool,
    log_calls: bool,
}

/// What a sentry may hold beyond the job's limit, in bytes: its heap, and the host's kernel's memory for it. The sum of both
/// is the hard limit of the whole sandbox, so what a node promises holds whatever a job makes its sentry do.
///
/// Twice what `cargo xtask bench start` measures for a job that keeps a sentry busy (250 processes, 50 threads, 20,000 files,
/// 900 of them open, 40 full pipes: 27 MiB of heap and 4 MiB of kernel memory; idle: 0.8 MiB), rounded up to a power of two.
/// A job that makes it hold more takes that from its own limit. The page cache of scratch files, which is charged here too
/// when the sentry writes them, gives way at the limit.
const RESERVE_BYTES: u64 = 64 << 20;

/// What a sandbox that was made ahead may hold beside the reserve, in bytes, until it gets its job's limit: what its stubs and
/// its kernel memory take, with room.
const AHEAD_MEMORY_BYTES: u64 = 16 << 20;

const KIND: Kind = Kind {
    name: "sentry",
    program: PROGRAM_NAME,
    overhead: SandboxOverhead::fixed(RESERVE_BYTES),
    own_tasks: 128,
    start_timeout: Duration::from_secs(60),
    own_kernel: false,
};

impl SentryBackend {
    /// Checks that this host can enforce every limit.
    ///
    /// # Errors
    /// [`SandboxError::Host`] or [`SandboxError::Limit`] say what is missing and the fix.
    pub fn new(options: SentryOptions) -> Result<Self, SandboxError> {
        let SentryOptions {
            program,
            scratch_root,
            run_directory,
            cgroup_name,
            uids,
            mediated_memory,
            log_calls,
        } = options;
        let places = Places { run: run_directory, scratch_root, cgroup: cgroup_name, uids };
        let launcher = Launcher::new(KIND, &program, log_calls, places)?;
        Ok(SentryBackend { launcher, mediated_memory, log_calls })
    }

    /// The control groups' place on this host.
    pub fn hierarchy(&self) -> &Hierarchy {
        self.launcher.hierarchy()
    }

    fn config(&self, parts: &Parts) -> Result<(Frame, Vec<OwnedFd>), SandboxError> {
        let groups = parts.groups()?;
        let mut descriptors = groups.sentry_join().map_err(limit_error)?;
        let sentry_cgroups = descriptors.len();
        descriptors.extend(groups.job_join().map_err(limit_error)?);
        let config = Config {
            sentry_cgroups,
            job_cgroups: descriptors.len() - sentry_cgroups,
            host_uid: parts.host_uid(),
            scratch_directory: parts.scratch_directory()?.to_owned(),
            mediated_memory: self.mediated_memory,
            log_calls: self.log_calls,
        };
        Ok((Frame::Config(config), descriptors))
    }
}

impl Backend for SentryBackend {
    fn name(&self) -> &'static str {
        "sentry"
    }

    fn overhead(&self) -> SandboxOverhead {
        // The hard limit of what a sentry may hold beyond its job, so that promises hold whatever a job makes it do.
        self.launcher.kind().overhead
    }

    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError> {
        self.launcher.start(request, |parts| self.config(parts))
    }

    fn create_ahead(&self) -> Option<Result<Box<dyn Sandbox>, SandboxError>> {
        // A sentry hears of its job's limits when it hears of the job.
        let limits = Limits { memory_bytes: AHEAD_MEMORY_BYTES, ..Limits::default() };
        Some(self.create(&CreateRequest { id: SandboxId::generate(), limits }))
    }
}
