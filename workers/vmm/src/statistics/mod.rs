//! What the machine cost: exits by reason and device, emulated instructions by KVM's own count, time to ready.

mod kvm;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_wire::MachineStatistics;
use serde::Serialize;

pub use kvm::{KvmStatistics, KvmStatisticsError};

/// Why a processor came back from KVM_RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitKind {
    /// The serial port.
    Serial,
    /// The CMOS clock and the PIT's ports.
    Clock,
    /// Another port.
    OtherPort,
    /// Registers of a block device.
    Block,
    /// Registers of the vsock device.
    Vsock,
    /// Registers of the entropy device.
    Rng,
    /// An address where nothing is.
    OtherMmio,
    /// A halted processor.
    Halt,
    /// A signal of ours.
    Interrupted,
    /// Completed for an emulating KVM: see [`crate::software_kvm`].
    Assist,
    /// Anything else.
    Other,
}

/// Reason, by KVM's name, and device.
const NAMES: [(&str, Option<&str>); 11] = [
    ("io", Some("serial")),
    ("io", Some("clock")),
    ("io", None),
    ("mmio", Some("block")),
    ("mmio", Some("vsock")),
    ("mmio", Some("rng")),
    ("mmio", None),
    ("hlt", None),
    ("intr", None),
    ("internal_error", Some("assist")),
    ("other", None),
];

/// Counters, shared by all threads.
#[derive(Debug)]
pub struct Statistics {
    exits: [AtomicU64; NAMES.len()],
    power_on: Instant,
    ready: OnceLock<Ready>,
}

#[derive(Debug)]
struct Ready {
    seconds: f64,
    exits: [u64; NAMES.len()],
}

/// How many exits of one kind there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExitCount {
    /// KVM's name of the reason.
    pub reason: &'static str,
    /// The device.
    pub device: Option<&'static str>,
    /// How many until the agent was ready.
    pub boot: u64,
    /// How many in all.
    pub total: u64,
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Exits to the VMM by reason, those that happened.
    pub exits: Vec<ExitCount>,
    /// All of them.
    pub exits_total: u64,
    /// Guest instructions that KVM emulated, over all processors; nothing if this KVM doesn't count them.
    pub emulated_instructions: Option<u64>,
    /// The same when the guest got ready.
    pub emulated_instructions_to_ready: Option<u64>,
    /// The VMM's own memory, in bytes, beside the guest's.
    pub own_memory_bytes: u64,
    /// From the first instruction until the agent was ready.
    pub seconds_to_ready: Option<f64>,
    /// Whether this is a KVM that emulates the guest's kernel.
    pub software_kvm: bool,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { exits: Default::default(), power_on: Instant::now(), ready: OnceLock::new() }
    }
}

impl Statistics {
    /// Starts the clock: the machine is powered on now.
    pub fn new() -> Self {
        Self::default()
    }

    /// An exit.
    pub fn count(&self, kind: ExitKind) {
        self.exits[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The agent is ready; only the first time counts.
    pub fn mark_ready(&self) {
        let seconds = self.power_on.elapsed().as_secs_f64();
        let exits = self.exits.each_ref().map(|count| count.load(Ordering::Relaxed));
        let _again = self.ready.set(Ready { seconds, exits });
    }

    /// From power-on to ready, in seconds.
    pub fn seconds_to_ready(&self) -> Option<f64> {
        self.ready.get().map(|ready| ready.seconds)
    }

    /// Exits that happened.
    pub fn exits(&self) -> Vec<ExitCount> {
        let boot = self.ready.get().map(|ready| ready.exits).unwrap_or_default();
        let counted = NAMES.iter().zip(&self.exits).zip(boot);
        let counts = counted.map(|(((reason, device), total), boot)| ExitCount {
            reason,
            device: *device,
            boot,
            total: total.load(Ordering::Relaxed),
        });
        counts.filter(|exit| exit.total > 0).collect()
    }
}

impl Report {
    /// As the launcher wants it.
    pub fn to_wire(&self) -> MachineStatistics {
        let exits = self.exits.iter().map(|exit| bulkhead_wire::ExitCount {
            reason: exit.reason.to_owned(),
            device: exit.device.map(str::to_owned),
            boot: exit.boot,
            total: exit.total,
        });
        MachineStatistics {
            power_on_to_ready_us: (self.seconds_to_ready.unwrap_or(0.0) * 1e6) as u64,
            boot_instructions: self.emulated_instructions_to_ready,
            emulated_instructions: self.emulated_instructions,
            own_memory_bytes: self.own_memory_bytes,
            exits: exits.collect(),
        }
    }
}

/// The process's own memory, in bytes: all that is resident, but for the guest's, which is a shared file's. Zero when /proc
/// is not there.
pub fn own_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    (kibibytes("RssAnon:") + kibibytes("RssFile:")) * 1024
}

/// How long a thread of this process was ready to run and did not, because the host had no processor for it.
pub fn run_delay(thread: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    // Nanoseconds that it ran, nanoseconds that it waited, turns.
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let statistics = Statistics::new();
        assert_eq!(ExitKind::Other as usize + 1, NAMES.len());
        statistics.count(ExitKind::Assist);
        statistics.count(ExitKind::Assist);
        statistics.mark_ready();
        statistics.count(ExitKind::Assist);
        let assists = ExitCount { reason: "internal_error", device: Some("assist"), boot: 2, total: 3 };
        assert_eq!(statistics.exits(), [assists]);
        assert!(statistics.seconds_to_ready().is_some());
        assert!(own_memory_bytes() > 0);
    }
}
