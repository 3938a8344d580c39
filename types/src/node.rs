use serde::{Deserialize, Serialize};

/// What a node can promise to jobs, after the host's reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCapacity {
    /// Memory for sandboxes, in bytes.
    pub memory_bytes: u64,
    /// CPU in thousandths of a core.
    pub cpu_milli: u64,
    /// Disk for scratch files, in bytes.
    pub disk_bytes: u64,
    /// Most sandboxes at once.
    pub sandboxes: u64,
}

/// What one sandbox costs its node beyond the job's own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxOverhead {
    /// Memory of the sentry or VMM, measured, in bytes.
    pub memory_bytes: u64,
}
