//! The seam between the worker and its sandboxes: the backend trait, lifecycle, limits, outcome, streams.
//!
//! A backend makes sandboxes; a sandbox runs one job and is never used again. The calls block: the worker gives
//! each sandbox a thread. Bytes of the job's streams travel through descriptors that the caller made (pipes), so
//! that nothing is added to them and back-pressure is the kernel's own.

mod launch;
pub mod leftovers;
pub mod microvm;
mod record;
mod sentry;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_types::{
    AttemptState, EnvVar, Limits, OutputSpec, SandboxId, SandboxOverhead, SyscallCount, Termination, Usage,
};

pub use bulkhead_wire::chain;
pub use bulkhead_wire::{ExitCount, MachineStatistics};
pub use microvm::{MicrovmBackend, MicrovmOptions};
pub use record::{ProcessIdentity, RUN_DIRECTORY, SandboxRecord};
pub use sentry::{PROGRAM_NAME, SentryBackend, SentryOptions};

/// Makes sandboxes of one kind.
pub trait Backend: Send + Sync + 'static {
    /// The name in messages and metrics: `sentry` or `microvm`.
    fn name(&self) -> &'static str;

    /// What a sandbox costs the node beyond the job's limit, measured.
    fn overhead(&self) -> SandboxOverhead;

    /// How long the start of a job may take at the most, where everything is slow and nothing hangs.
    fn start_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Makes a warm sandbox that waits for its job, with the limits in force.
    ///
    /// # Errors
    /// [`SandboxError`] names the limit or the step that can't be had; nothing is left behind.
    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError>;

    /// Makes a sandbox before it is known what for; [`Sandbox::limit`] gives it its job's limits. None if this kind needs
    /// them from its first instruction.
    ///
    /// # Errors
    /// As [`Backend::create`].
    fn create_ahead(&self) -> Option<Result<Box<dyn Sandbox>, SandboxError>> {
        None
    }

    /// Gives up everything that is held ready for later, and holds no more; what has been created is not touched.
    fn close(&self) {}
}

/// What a sandbox is made with.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Never used before. One that was made ahead has another.
    pub id: SandboxId,
    /// All enforced, from the job's first instruction to its last.
    pub limits: Limits,
}

/// A sandbox that waits for its job. Dropping it ends it and removes everything of it.
pub trait Sandbox: Send {
    /// The id.
    fn id(&self) -> SandboxId;

    /// Sets other limits than it was made with. Before `run`.
    ///
    /// # Errors
    /// [`SandboxError::Limit`]: which one can't be enforced. The job must not run then.
    fn limit(&mut self, limits: &Limits) -> Result<(), SandboxError>;

    /// Whether it can still run a job: a sandbox that waits may die.
    fn is_alive(&self) -> bool;

    /// A handle that can stop the job from another thread.
    fn controller(&self) -> Arc<dyn Controller>;

    /// Runs the job to its end, collects its outputs, and removes the sandbox. Returns only when nothing of the
    /// sandbox is left on the host.
    ///
    /// # Errors
    /// [`SandboxError`] when the sandbox, not the job, failed.
    fn run(self: Box<Self>, job: Job, events: &mut dyn Events) -> Result<Finished, SandboxError>;
}

/// Stops a running job.
pub trait Controller: Send + Sync {
    /// SIGTERM to the job's first process, the grace period, then SIGKILL of everything. Idempotent; may be
    /// called before `run`. The attempt ends CANCELLED.
    fn cancel(&self);

    /// SIGKILL of everything at once because output went over its limit. The attempt ends OUTPUT_LIMIT.
    fn output_limit_reached(&self);

    /// Sends one signal (1 to 64) to the job's first process; does nothing if it does not run.
    fn signal(&self, signal: u8);

    /// SIGKILL of everything at once, because the attempt is void: nobody wants its outcome.
    fn kill(&self) {
        self.output_limit_reached();
    }

    /// What the job has used so far; none if that can't be told now. Costs microseconds.
    fn progress(&self) -> Option<Progress> {
        None
    }
}

/// Shows that a running job gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// CPU time of the job and its sandbox, in microseconds.
    pub cpu_us: u64,
    /// Memory of the job now, in bytes.
    pub memory_bytes: u64,
}

/// The root file system: files of one image in the node's store.
#[derive(Debug, Clone)]
pub struct ImageFiles {
    /// The EROFS file with everything that is world-readable.
    pub public: PathBuf,
    /// The EROFS file with the data of the other files, if there are any.
    pub private: Option<PathBuf>,
}

/// Where input bytes come from.
pub type Source = Box<dyn Read + Send>;

/// Something placed into the sandbox before the start, in order.
pub enum Input {
    /// A tar archive (plain or gzip), unpacked inside the sandbox into this directory.
    Archive {
        /// Absolute path.
        directory: String,
        /// The archive's bytes.
        source: Source,
    },
    /// A file.
    File {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// The file's bytes.
        source: Source,
    },
}

/// The job, resolved against its image.
pub struct Job {
    /// Root file system.
    pub image: ImageFiles,
    /// Command and arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<EnvVar>,
    /// Absolute path.
    pub working_directory: String,
    /// `uid[:gid]` or names of the image; empty means root of the sandbox.
    pub user: String,
    /// Host name in the sandbox.
    pub hostname: String,
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Placed before the start, in order.
    pub inputs: Vec<Input>,
    /// Collected after the end.
    pub outputs: Vec<OutputSpec>,
    /// Between SIGTERM and SIGKILL, in milliseconds.
    pub grace_period_ms: u64,
}

/// What the sandbox tells while it runs.
pub trait Events: Send {
    /// The job's first instruction is about to run.
    fn started(&mut self);

    /// An output was found; its bytes go to the returned writer, which is flushed once, when they are complete.
    /// Dropped without that, they broke off and are no output.
    ///
    /// # Errors
    /// An error skips this output; it is told in [`Finished::output_problems`].
    fn output(&mut self, output: CollectedOutput) -> io::Result<Box<dyn Write + '_>>;

    /// What the VMM counted, if it was asked to count; after the job's end.
    fn machine_statistics(&mut self, _statistics: MachineStatistics) {}

    /// Something of the sandbox's life was over at `at_ns` (CLOCK_MONOTONIC, in nanoseconds): where a start's time went, for
    /// those who measure. Those from before `run` are told when it is called, the last one before it returns.
    fn milestone(&mut self, _what: Milestone, _at_ns: u64) {}
}

/// What has been reached in a sandbox's life, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// Its making begins.
    Asked,
    /// Its control groups, host uid and scratch directory are there.
    Furnished,
    /// It is locked in and waits for its job.
    Ready,
    /// The job is about to run.
    Started,
    /// The job has ended.
    Exited,
    /// Every process of it is gone.
    Ended,
    /// Nothing of it is left.
    Removed,
}

/// Now, as [`Events::milestone`] tells it.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The time since boot: neither is negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// An output that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedOutput {
    /// Absolute path in the sandbox.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Whether the bytes are a tar of this directory.
    pub is_directory: bool,
}

/// How the job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The terminal state.
    pub state: AttemptState,
    /// How its first process ended.
    pub termination: Option<Termination>,
    /// For a person: which limit, by how much, which signal.
    pub reason: String,
    /// What it used.
    pub usage: Usage,
    /// Outputs that could not be collected, one line each.
    pub output_problems: Vec<String>,
    /// The ten calls that the sentry served most.
    pub top_syscalls: Vec<SyscallCount>,
    /// Calls that the sentry lacks and the job made.
    pub unsupported_syscalls: Vec<SyscallCount>,
}

/// Why there is no sandbox, or why it ended before its job.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A limit can't be enforced on this host, so the job does not start.
    #[error("the {limit} limit can't be enforced: {problem}")]
    Limit {
        /// Which limit.
        limit: &'static str,
        /// Why, and what to do.
        problem: String,
    },
    /// The host lacks something.
    #[error("the host can't run a sandbox: {0}")]
    Host(String),
    /// A step of making or running it failed.
    #[error("{step} failed")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The sandbox did not become ready, or stopped answering, in its time.
    #[error("the sandbox did not {what} within {seconds} s")]
    TimedOut {
        /// What it was to do.
        what: &'static str,
        /// The time it had.
        seconds: u64,
    },
    /// An input is refused; the owner of the job has to change it.
    #[error("input refused: {0}")]
    Input(String),
    /// The sentry ended by itself.
    #[error("the sandbox ended unexpectedly: {0}")]
    Died(String),
}
