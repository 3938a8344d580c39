use std::path::Path;

use bulkhead_types::NodeCapacity;

use crate::{DaemonError, WorkerConfig};

/// Sandboxes at once, whatever their size: each needs a host uid, some threads and some descriptors of ours.
const MAX_SANDBOXES: u64 = 1024;
/// Share of the disk's free space that stays free, in percent: other programs of the host use it too.
const DISK_RESERVE_PERCENT: u64 = 10;
/// The least memory that the host keeps, in bytes.
const MIN_RESERVE_BYTES: u64 = 512 << 20;
/// Less available memory than this is short, in bytes.
const SHORT_BYTES: u64 = 256 << 20;
/// The share of memory that the host keeps, in percent, when the operator does not say how much.
const RESERVE_PERCENT: u64 = 10;

/// What this host can promise to jobs: its memory without the reserve, its cores, and the free space of the data
/// directory's disk without what the cache may still take.
///
/// # Errors
/// When /proc or the disk can't be read, or the reserve leaves nothing.
pub fn measure(config: &WorkerConfig) -> Result<NodeCapacity, DaemonError> {
    let total = meminfo("MemTotal")?;
    let reserve = config.memory_reserve_bytes.unwrap_or_else(|| default_reserve(total));
    let memory_bytes = total.saturating_sub(reserve);
    if memory_bytes == 0 {
        return Err(DaemonError::Reserve { reserve, total });
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let free = free_space(&config.data_dir)?;
    let disk_bytes = free - free / 100 * DISK_RESERVE_PERCENT;
    Ok(NodeCapacity {
        memory_bytes,
        cpu_milli: cores * 1000,
        disk_bytes: disk_bytes.saturating_sub(config.cache_budget_bytes.min(disk_bytes / 2)),
        sandboxes: MAX_SANDBOXES,
    })
}

fn default_reserve(total: u64) -> u64 {
    (total / 100 * RESERVE_PERCENT).max(MIN_RESERVE_BYTES)
}

/// Whether the host needs every byte: then nothing may be held for later.
pub fn memory_is_short() -> bool {
    memory_available() < SHORT_BYTES
}

/// Memory that could be had now, in bytes; 0 if the kernel does not say.
pub(crate) fn memory_available() -> u64 {
    meminfo("MemAvailable").unwrap_or(0)
}

fn meminfo(field: &'static str) -> Result<u64, DaemonError> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|source| DaemonError::Io { what: "reading /proc/meminfo", source })?;
    parse_meminfo(&text, field).ok_or(DaemonError::NoMeminfo(field))
}

fn parse_meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn free_space(path: &Path) -> Result<u64, DaemonError> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|e| DaemonError::Io { what: "measuring the data directory's disk", source: e.into() })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes_and_the_reserve_holds() {
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\n";
        assert_eq!(parse_meminfo(text, "MemTotal"), Some(16 << 20));
        assert_eq!(parse_meminfo(text, "Mem"), None);
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = WorkerConfig::new(dir.path());
        let capacity = measure(&config).expect("this host has memory");
        assert!(capacity.memory_bytes < meminfo("MemTotal").expect("has it"));
        let greedy = WorkerConfig { memory_reserve_bytes: Some(u64::MAX), ..config };
        assert!(matches!(measure(&greedy), Err(DaemonError::Reserve { .. })));
    }
}
