//! What the sandbox and each process may have.

use std::sync::atomic::{AtomicU64, Ordering};

/// The limits of the sandbox as a whole, as programs see them in /proc, sysinfo and sched_getaffinity.
#[derive(Debug, Clone, Copy)]
pub struct SandboxLimits {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// CPU bandwidth, in thousandths of a core.
    pub cpu_milli: u64,
    /// Threads of all processes together.
    pub processes: u64,
    /// Bytes of writable files.
    pub disk_bytes: u64,
}

impl SandboxLimits {
    /// CPUs that programs should count on: the bandwidth, rounded up.
    pub fn cpus(&self) -> usize {
        usize::try_from(self.cpu_milli.div_ceil(1000).max(1)).unwrap_or(1)
    }
}

/// A resource of getrlimit(2), with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Resource {
    Cpu = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    ResidentSet = 5,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    FileLocks = 10,
    PendingSignals = 11,
    MessageQueue = 12,
    Nice = 13,
    RealtimePriority = 14,
    RealtimeTime = 15,
}

impl Resource {
    /// All of them, at their numbers.
    pub const ALL: [Self; 16] = [
        Self::Cpu,
        Self::FileSize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::ResidentSet,
        Self::Processes,
        Self::OpenFiles,
        Self::LockedMemory,
        Self::AddressSpace,
        Self::FileLocks,
        Self::PendingSignals,
        Self::MessageQueue,
        Self::Nice,
        Self::RealtimePriority,
        Self::RealtimeTime,
    ];

    /// The resource of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// No limit.
pub const INFINITY: u64 = u64::MAX;

/// Descriptors that a process may have by default, soft and hard: a container's usual soft limit, and fs.nr_open.
const OPEN_FILES: (u64, u64) = (1024, crate::vfs::MAX_DESCRIPTORS as u64);
/// The default soft stack limit, in bytes: Linux's 8 MiB.
const STACK: u64 = 8 << 20;

/// The soft and hard limits of one process. Reads are lock-free: write(2) and open(2) look at them.
#[derive(Debug)]
pub struct Rlimits([(AtomicU64, AtomicU64); 16]);

impl Rlimits {
    /// What the first process of a sandbox starts with.
    pub fn initial(sandbox: &SandboxLimits) -> Self {
        let unlimited = || (AtomicU64::new(INFINITY), AtomicU64::new(INFINITY));
        let limits = Self(std::array::from_fn(|_| unlimited()));
        let set = |resource, (soft, hard)| limits.set(resource, soft, hard);
        set(Resource::Stack, (STACK, INFINITY));
        set(Resource::Core, (0, INFINITY));
        set(Resource::OpenFiles, OPEN_FILES);
        set(Resource::Processes, (sandbox.processes, sandbox.processes));
        set(Resource::LockedMemory, (8 << 20, 8 << 20));
        set(Resource::PendingSignals, (4096, 4096));
        set(Resource::MessageQueue, (819_200, 819_200));
        set(Resource::Nice, (0, 0));
        set(Resource::RealtimePriority, (0, 0));
        limits
    }

    /// A copy, for a forked child.
    pub fn copy(&self) -> Self {
        Self(std::array::from_fn(|at| {
            let (soft, hard) = &self.0[at];
            (AtomicU64::new(soft.load(Ordering::Relaxed)), AtomicU64::new(hard.load(Ordering::Relaxed)))
        }))
    }

    /// Soft and hard limit.
    pub fn get(&self, resource: Resource) -> (u64, u64) {
        let (soft, hard) = &self.0[resource as usize];
        (soft.load(Ordering::Relaxed), hard.load(Ordering::Relaxed))
    }

    /// The soft limit: what is enforced.
    pub fn soft(&self, resource: Resource) -> u64 {
        self.get(resource).0
    }

    /// Sets both.
    pub fn set(&self, resource: Resource, soft: u64, hard: u64) {
        let slot = &self.0[resource as usize];
        slot.0.store(soft, Ordering::Relaxed);
        slot.1.store(hard, Ordering::Relaxed);
    }
}
