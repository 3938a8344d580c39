use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One limit: what holds when a job says nothing, and how far it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The field's name in the API, for messages.
    pub field: &'static str,
    /// The smallest value that makes sense, in the field's unit.
    pub min: u64,
    /// What holds when the field is zero or absent.
    pub default: u64,
    /// The largest value that is accepted.
    pub max: u64,
}

/// A limit out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be between {min} and {max}, or 0 for the default of {default}; got {got}")]
pub struct LimitError {
    /// The field's name in the API.
    pub field: &'static str,
    /// The least that is accepted.
    pub min: u64,
    /// The most that is accepted.
    pub max: u64,
    /// What 0 means.
    pub default: u64,
    /// What was asked for, which may be negative.
    pub got: i64,
}

impl Limit {
    /// Takes a value of the API: 0 means the default.
    ///
    /// # Errors
    /// [`LimitError`] if the value is negative, under the minimum or over the maximum.
    pub fn resolve(&self, got: i64) -> Result<u64, LimitError> {
        let error =
            LimitError { field: self.field, min: self.min, max: self.max, default: self.default, got };
        match u64::try_from(got) {
            Ok(0) => Ok(self.default),
            Ok(value) if (self.min..=self.max).contains(&value) => Ok(value),
            _ => Err(error),
        }
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The limits of a job, resolved: every one is in force, none can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Hard limit of the job's memory, in bytes.
    pub memory_bytes: u64,
    /// A hint for packing, in bytes; at most `memory_bytes`.
    pub memory_request_bytes: u64,
    /// CPU bandwidth in thousandths of a core.
    pub cpu_milli: u64,
    /// Most processes and threads at once.
    pub processes: u64,
    /// Longest time from start to end, in milliseconds.
    pub wall_time_ms: u64,
    /// Most CPU time, user and system, in milliseconds.
    pub cpu_time_ms: u64,
    /// Most bytes of writable files.
    pub disk_bytes: u64,
    /// Most bytes of standard output and standard error together.
    pub output_bytes: u64,
}

impl Limits {
    /// 8 MiB to 256 GiB, 512 MiB by default.
    pub const MEMORY: Limit =
        Limit { field: "limits.memory_bytes", min: 8 * MIB, default: 512 * MIB, max: 256 * GIB };
    /// A tenth of a core to 64 cores, one core by default.
    pub const CPU: Limit = Limit { field: "limits.cpu_milli", min: 100, default: 1000, max: 64_000 };
    /// 1 to 32,768; 512 by default.
    pub const PROCESSES: Limit = Limit { field: "limits.processes", min: 1, default: 512, max: 32_768 };
    /// 0.1 s to 24 h; 10 minutes by default.
    pub const WALL_TIME: Limit =
        Limit { field: "limits.wall_time", min: 100, default: 600_000, max: 86_400_000 };
    /// 0.1 s to 64 core-days; 10 minutes by default.
    pub const CPU_TIME: Limit =
        Limit { field: "limits.cpu_time", min: 100, default: 600_000, max: 64 * 86_400_000 };
    /// 1 MiB to 256 GiB; 1 GiB by default.
    pub const DISK: Limit = Limit { field: "limits.disk_bytes", min: MIB, default: GIB, max: 256 * GIB };
    /// 1 KiB to 1 GiB; 16 MiB by default.
    pub const OUTPUT: Limit = Limit { field: "limits.output_bytes", min: 1024, default: 16 * MIB, max: GIB };

    /// The longest run, as a duration.
    pub fn wall_time(&self) -> Duration {
        Duration::from_millis(self.wall_time_ms)
    }

    /// The most CPU time, as a duration.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_millis(self.cpu_time_ms)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: Self::MEMORY.default,
            memory_request_bytes: Self::MEMORY.default,
            cpu_milli: Self::CPU.default,
            processes: Self::PROCESSES.default,
            wall_time_ms: Self::WALL_TIME.default,
            cpu_time_ms: Self::CPU_TIME.default,
            disk_bytes: Self::DISK.default,
            output_bytes: Self::OUTPUT.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_default_and_the_range_holds() {
        let limit = Limits::MEMORY;
        assert_eq!(limit.resolve(0), Ok(limit.default));
        assert_eq!(limit.resolve(limit.max as i64), Ok(limit.max));
        for bad in [-1, i64::MIN, 1, limit.max as i64 + 1, i64::MAX] {
            let error = limit.resolve(bad).expect_err("out of range");
            assert!(error.to_string().contains("limits.memory_bytes"), "{error}");
        }
    }
}
