use serde::{Deserialize, Serialize};

use crate::{AttemptState, Digest};

/// How the job's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Termination {
    /// It called exit with this code (0 to 255); 127 and 126 also say that it could not be started.
    Exited(u8),
    /// A signal ended it.
    Signaled(u8),
}

/// What an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode, in microseconds.
    pub cpu_user_us: u64,
    /// CPU time in kernel mode, in microseconds.
    pub cpu_system_us: u64,
    /// Most memory at once, in bytes.
    pub peak_memory_bytes: u64,
    /// From start to end, in microseconds.
    pub wall_us: u64,
    /// Bytes that the job read from files, pipes and sockets.
    pub read_bytes: u64,
    /// Bytes that the job wrote to files, pipes and sockets.
    pub written_bytes: u64,
    /// Most bytes of writable files at once.
    pub peak_disk_bytes: u64,
    /// Processes of the job that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Writes that failed at the disk limit.
    pub disk_limit_hits: u64,
}

/// How much one output stream had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamTotals {
    /// Bytes that the job wrote.
    pub total_bytes: u64,
    /// Bytes that were kept.
    pub kept_bytes: u64,
}

impl StreamTotals {
    /// Whether something was not kept.
    pub const fn truncated(&self) -> bool {
        self.kept_bytes < self.total_bytes
    }
}

/// A system call and how often the sentry served it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallCount {
    /// The call's name, for example `openat`.
    pub name: String,
    /// How often.
    pub count: u64,
}

/// A collected output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Absolute path in the sandbox; bytes, not necessarily UTF-8.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Size of the blob in bytes.
    pub size_bytes: u64,
    /// The blob's digest.
    pub digest: Digest,
    /// Whether the blob is a tar of the directory `path`.
    pub is_directory: bool,
}

/// What an attempt came to: one terminal state and all that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptOutcome {
    /// The one terminal state.
    pub state: AttemptState,
    /// How the first process ended; none if it never started or the node was lost.
    pub termination: Option<Termination>,
    /// For a person: what happened, which limit was hit and by how much.
    pub reason: String,
    /// What it used.
    pub usage: Usage,
    /// Standard output.
    pub stdout: StreamTotals,
    /// Standard error.
    pub stderr: StreamTotals,
    /// Collected outputs.
    pub outputs: Vec<OutputFile>,
    /// Why outputs are missing, one line each.
    pub output_problems: Vec<String>,
    /// The ten calls that the sentry served most.
    pub top_syscalls: Vec<SyscallCount>,
    /// Calls that the job made and the sentry lacks.
    pub unsupported_syscalls: Vec<SyscallCount>,
}
