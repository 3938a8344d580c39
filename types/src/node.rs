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
    /// More for each MiB of the job's memory limit, in bytes: the tables of a kernel that manages it.
    #[serde(default)]
    pub memory_per_mib: u64,
}

impl SandboxOverhead {
    /// The same for every job.
    pub const fn fixed(memory_bytes: u64) -> Self {
        SandboxOverhead { memory_bytes, memory_per_mib: 0 }
    }

    /// Beside a job with this memory limit, in bytes.
    pub const fn beside(self, limit_bytes: u64) -> u64 {
        self.memory_bytes.saturating_add(self.memory_per_mib.saturating_mul(limit_bytes.div_ceil(1 << 20)))
    }
}

/// What a node says of one kind of sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendOffer {
    /// `sentry` or `microvm`.
    pub name: String,
    /// What one costs.
    pub overhead: SandboxOverhead,
    /// Why the node does not have it, with what to do; none if it has.
    pub unavailable: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_grows_with_the_limit_and_does_not_wrap() {
        let overhead = SandboxOverhead { memory_bytes: 5, memory_per_mib: 2 };
        assert_eq!([overhead.beside(0), overhead.beside(1), overhead.beside(3 << 20)], [5, 7, 11]);
        assert_eq!(SandboxOverhead { memory_bytes: 1, memory_per_mib: u64::MAX }.beside(u64::MAX), u64::MAX);
        assert_eq!(SandboxOverhead::fixed(7).beside(u64::MAX), 7);
    }
}
