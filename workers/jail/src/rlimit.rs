//! Resource limits of a jailed process: a second wall behind the control groups.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a jailed process may use by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimits {
    /// Open descriptors.
    pub open_files: u64,
    /// Longest file that it may write, in bytes; `None` leaves the launcher's.
    pub file_bytes: Option<u64>,
    /// Address space, in bytes; `None` for the sentry, whose maps are bounded by its control group.
    pub address_space_bytes: Option<u64>,
    /// CPU time in whole seconds; `None` where the launcher watches the control group instead.
    pub cpu_seconds: Option<u64>,
}

impl Default for Rlimits {
    fn default() -> Self {
        Rlimits { open_files: OPEN_FILES, file_bytes: None, address_space_bytes: None, cpu_seconds: None }
    }
}

/// Descriptors: one per guest file at most, listeners, pidfds; the guests' own limit is the sentry's.
pub const OPEN_FILES: u64 = 65_536;

/// 1, not 0: with 0 the kernel still starts the program behind a core pipe (core_pattern `|...`), with 1 it does not.
const CORE_BYTES: u64 = 1;
/// Bytes; nothing jailed locks memory, and locked memory can't be reclaimed.
const LOCKED_BYTES: u64 = 64 * 1024;
/// Bytes in POSIX message queues: none are used.
const MESSAGE_QUEUE_BYTES: u64 = 0;

/// Sets one limit, soft and hard, never above the hard limit that is there (raising needs CAP_SYS_RESOURCE).
fn lower(resource: Resource, want: u64) -> rustix::io::Result<()> {
    let hard = getrlimit(resource).maximum.map_or(want, |max| max.min(want));
    setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })
}

/// Applies all; the error comes with the name of the limit.
pub(crate) fn apply(limits: &Rlimits) -> Result<(), (&'static str, rustix::io::Errno)> {
    let mut all = vec![
        (Resource::Core, "core", CORE_BYTES),
        (Resource::Memlock, "memlock", LOCKED_BYTES),
        (Resource::Msgqueue, "msgqueue", MESSAGE_QUEUE_BYTES),
        (Resource::Nofile, "nofile", limits.open_files),
        (Resource::Rtprio, "rtprio", 0),
    ];
    all.extend(limits.file_bytes.map(|v| (Resource::Fsize, "fsize", v)));
    all.extend(limits.address_space_bytes.map(|v| (Resource::As, "as", v)));
    all.extend(limits.cpu_seconds.map(|v| (Resource::Cpu, "cpu", v)));
    for (resource, name, value) in all {
        lower(resource, value).map_err(|e| (name, e))?;
    }
    Ok(())
}
