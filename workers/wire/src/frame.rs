use bulkhead_types::{OutputSpec, SyscallCount, Termination, Usage};
use serde::{Deserialize, Serialize};

use crate::WireError;

/// How large the protocol's parts may be.
pub mod bounds {
    /// The payload of a control frame: argv and env of a job are at most 1 MiB, and JSON may double them.
    pub const CONTROL_BYTES: usize = 4 << 20;
    /// The payload of a data frame.
    pub const DATA_BYTES: usize = 256 << 10;
    /// Descriptors that one frame may carry.
    pub const DESCRIPTORS: usize = 32;
    /// Virtual processors of a machine.
    pub const VCPUS: u8 = 8;
    /// Entries of a machine's exit statistics.
    pub const EXIT_COUNTS: usize = 64;
}

/// The first frame: what the sentry needs to jail itself. Descriptors with it, in this order: the
/// `cgroup.procs` files of the sentry's own groups, then those of the job's groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many of the descriptors are the sentry's own cgroup files.
    pub sentry_cgroups: usize,
    /// How many are the job's.
    pub job_cgroups: usize,
    /// The host uid and gid of this sandbox; no other live sandbox has it.
    pub host_uid: u32,
    /// The directory on the host whose disk holds the sandbox's writable files.
    pub scratch_directory: String,
    /// Send even argument-checked memory calls to the sentry first.
    pub mediated_memory: bool,
    /// Log every system call to standard error of the sentry (for debugging; slow).
    pub log_calls: bool,
}

/// The first frame to a VMM, in place of [`Config`]: what it needs to jail itself and to make a machine that lacks only
/// its image. Descriptors with it, in this order: the `cgroup.procs` files of the VMM's own groups, /dev/kvm, the
/// guest's kernel, the initramfs with the guest's agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// How many of the descriptors are cgroup files.
    pub vmm_cgroups: usize,
    /// The host uid and gid of this sandbox; no other live sandbox has it.
    pub host_uid: u32,
    /// The directory on the host whose disk holds the machine's writable disk.
    pub scratch_directory: String,
    /// Virtual processors, 1 to [`bounds::VCPUS`].
    pub vcpus: u8,
    /// The guest's whole memory in bytes: the job's limit, and what the guest's kernel and agent need beside it.
    pub memory_bytes: u64,
    /// Size of the writable disk in bytes: the job's disk limit, and what its file system needs for itself.
    pub disk_bytes: u64,
    /// Copy the serial console to standard error.
    pub console: bool,
    /// Send `Statistics` before `Exited`.
    pub statistics: bool,
}

/// What a VMM counted, for benchmarks and for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineStatistics {
    /// From the guest's first instruction until its agent was ready, in microseconds.
    pub power_on_to_ready_us: u64,
    /// Instructions that KVM emulated until then: all of the guest's kernel on a software KVM, none where hardware runs
    /// it; absent where KVM does not count them.
    pub boot_instructions: Option<u64>,
    /// The same until the job's end.
    pub emulated_instructions: Option<u64>,
    /// Memory of the VMM itself at the end, beyond the guest's, in bytes.
    pub own_memory_bytes: u64,
    /// Ends of KVM_RUN, by reason and device; at most [`bounds::EXIT_COUNTS`].
    pub exits: Vec<ExitCount>,
}

/// How often KVM_RUN ended for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitCount {
    /// KVM's name of it: `io`, `mmio`, `hlt`.
    pub reason: String,
    /// The device that it was for.
    pub device: Option<String>,
    /// How often until the agent was ready.
    pub boot: u64,
    /// How often in all.
    pub total: u64,
}

/// Which image descriptors come with `Start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFds {
    /// Whether the second descriptor is the image of files that are not world-readable.
    pub private: bool,
}

/// A variable of the environment; a secret one is told apart only so that a log can leave it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvEntry {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// Never to be logged.
    pub secret: bool,
}

impl std::fmt::Debug for EnvEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, if self.secret { "<secret>" } else { &self.value })
    }
}

/// Who the job runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobUser {
    /// `uid[:gid]` or names in the image's own /etc/passwd and /etc/group; empty means 0:0.
    pub spec: String,
}

/// The job. Descriptors with it: the public image, the private image if there is one, standard input, output
/// and error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Which image descriptors come.
    pub image: ImageFds,
    /// The command and its arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<EnvEntry>,
    /// Absolute path.
    pub working_directory: String,
    /// The user.
    pub user: JobUser,
    /// The host name that the job sees.
    pub hostname: String,
    /// The job's memory limit in bytes, as /proc/meminfo is to show it; the cgroup enforces it.
    pub memory_bytes: u64,
    /// CPU bandwidth in thousandths of a core, as nproc is to show it (rounded up); the cgroup enforces it.
    pub cpu_milli: u64,
    /// Most processes and threads at once; the sentry enforces it with EAGAIN.
    pub processes: u64,
    /// Most bytes of writable files; the sentry enforces it with ENOSPC.
    pub disk_bytes: u64,
}

/// An input that `Data` frames and an `End` follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InputStart {
    /// A tar archive (plain or gzip by its first bytes), to be unpacked into this absolute directory.
    Archive {
        /// Made if missing.
        directory: String,
    },
    /// A file.
    File {
        /// Absolute path; parents are made.
        path: String,
        /// Permission bits.
        mode: u32,
    },
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The job's first process.
    First,
    /// Every process of the job.
    All,
}

/// What to collect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Patterns and directories.
    pub outputs: Vec<OutputSpec>,
}

/// An output that `Data` frames and an `End` follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputStart {
    /// Absolute path in the sandbox.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Whether the data is a tar of this directory.
    pub is_directory: bool,
}

/// The end of the job's last process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitReport {
    /// How the first process ended.
    pub termination: Termination,
    /// Why the first process could not be started, for a person ("/bin/foo: no such file"); with it goes exit
    /// code 127 or 126.
    pub start_problem: Option<String>,
    /// What the sentry itself counted; the launcher adds what the cgroup knows (peak memory, OOM kills).
    pub usage: Usage,
    /// The ten calls that were served most.
    pub top_syscalls: Vec<SyscallCount>,
    /// Calls that the table marks unsupported and the job made.
    pub unsupported_syscalls: Vec<SyscallCount>,
}

/// Where a sentry failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureStage {
    /// It could not jail itself: a limit or namespace is missing.
    Jail,
    /// Stubs could not be made.
    Platform,
    /// The virtual machine could not be made, or its guest did not become ready or broke.
    Machine,
    /// The image can't be read.
    Image,
    /// An input archive or file is refused; the job's owner has to change it.
    Input,
    /// Its own defect.
    Internal,
}

/// Why a sentry, a VMM or an agent can't go on: its last word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message}")]
pub struct Failed {
    /// Where.
    pub stage: FailureStage,
    /// For a person, with what to do.
    pub message: String,
}

impl Failed {
    /// What was tried, and the error with its causes.
    pub fn new(stage: FailureStage, what: &str, error: &dyn std::error::Error) -> Self {
        Self { stage, message: format!("{what}: {}", chain(error)) }
    }

    /// In words.
    pub fn of(stage: FailureStage, message: impl Into<String>) -> Self {
        Self { stage, message: message.into() }
    }

    /// A defect: what was tried, and the error with its causes.
    pub fn internal(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(FailureStage::Internal, what, error)
    }

    /// A frame that must not come now.
    pub fn unexpected() -> Self {
        Self::of(FailureStage::Internal, "the launcher sent a frame out of turn")
    }
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Self {
        Self::internal("the control connection", &error)
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Everything that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Launcher: first.
    Config(Config),
    /// Sentry: waits for a job.
    Ready,
    /// Launcher: the job.
    Start(Box<Start>),
    /// Launcher: an input begins.
    Input(InputStart),
    /// Both: bytes of the input or output that began; at most [`bounds::DATA_BYTES`].
    Data(Vec<u8>),
    /// Both: the input or output is complete.
    End,
    /// Launcher: inputs are complete, run.
    Go,
    /// Sentry: the first instruction is about to run.
    Started,
    /// Launcher: a signal (1 to 64) for the job.
    Signal {
        /// Number.
        signal: u8,
        /// Whom it reaches.
        target: SignalTarget,
    },
    /// Sentry: every process of the job is gone.
    Exited(Box<ExitReport>),
    /// Launcher: what to collect.
    Collect(Collect),
    /// Sentry: an output begins.
    Output(OutputStart),
    /// Sentry: an output that can't be collected, for a person.
    OutputProblem(String),
    /// Sentry: nothing more to collect.
    Collected,
    /// Sentry: its last word.
    Failed(Failed),
    /// Launcher, to a VMM: first.
    Machine(MachineConfig),
    /// VMM: what it counted, before `Exited`, if it was asked for.
    Statistics(Box<MachineStatistics>),
}

/// The number of a frame's kind in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is documented at its frame")]
pub enum Kind {
    Config = 1,
    Ready = 2,
    Start = 3,
    Input = 4,
    Data = 5,
    End = 6,
    Go = 7,
    Started = 8,
    Signal = 9,
    Exited = 10,
    Collect = 11,
    Output = 12,
    OutputProblem = 13,
    Collected = 14,
    Failed = 15,
    Machine = 16,
    Statistics = 17,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Config,
        Self::Ready,
        Self::Start,
        Self::Input,
        Self::Data,
        Self::End,
        Self::Go,
        Self::Started,
        Self::Signal,
        Self::Exited,
        Self::Collect,
        Self::Output,
        Self::OutputProblem,
        Self::Collected,
        Self::Failed,
        Self::Machine,
        Self::Statistics,
    ];

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The longest payload of this kind, in bytes.
    pub const fn max_payload(self) -> usize {
        match self {
            Self::Ready | Self::End | Self::Go | Self::Started | Self::Collected => 0,
            Self::Data => bounds::DATA_BYTES,
            _ => bounds::CONTROL_BYTES,
        }
    }
}

impl Frame {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Config(_) => Kind::Config,
            Self::Ready => Kind::Ready,
            Self::Start(_) => Kind::Start,
            Self::Input(_) => Kind::Input,
            Self::Data(_) => Kind::Data,
            Self::End => Kind::End,
            Self::Go => Kind::Go,
            Self::Started => Kind::Started,
            Self::Signal { .. } => Kind::Signal,
            Self::Exited(_) => Kind::Exited,
            Self::Collect(_) => Kind::Collect,
            Self::Output(_) => Kind::Output,
            Self::OutputProblem(_) => Kind::OutputProblem,
            Self::Collected => Kind::Collected,
            Self::Failed(_) => Kind::Failed,
            Self::Machine(_) => Kind::Machine,
            Self::Statistics(_) => Kind::Statistics,
        }
    }
}
