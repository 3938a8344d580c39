//! What the job did, for its result.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bulkhead_platform::{Abi, Call};
use bulkhead_types::SyscallCount;

use super::process::CpuTime;
use crate::sync::Mutex;
use crate::syscalls;

/// Numbers that are counted without a lock; higher ones go to a map.
const COUNTED: usize = 512;
/// Different unknown numbers that are kept, so that a guest can't make the sentry remember everything.
const UNKNOWN_MAX: usize = 64;
/// Calls in the result.
const TOP: usize = 10;

static EVERY_CALL: AtomicBool = AtomicBool::new(false);

/// Has the result name every call that the job made: tests prove by it what they reached.
pub fn count_every_call() {
    EVERY_CALL.store(true, Ordering::Relaxed);
}

/// How often each call was served.
pub struct Counts {
    known: [AtomicU64; COUNTED],
    foreign: Mutex<BTreeMap<String, u64>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { known: std::array::from_fn(|_| AtomicU64::new(0)), foreign: Mutex::default() }
    }
}

impl Counts {
    /// Counts a call.
    pub fn count(&self, call: &Call) {
        match (call.abi, self.known.get(call.nr as usize)) {
            (Abi::X86_64, Some(counter)) => {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                let name = match call.abi {
                    Abi::X86_64 => format!("call {}", call.nr),
                    Abi::I386 => format!("i386 call {}", call.nr),
                    Abi::X32 => format!("x32 call {}", call.nr),
                };
                let mut foreign = self.foreign.lock();
                if foreign.len() < UNKNOWN_MAX || foreign.contains_key(&name) {
                    *foreign.entry(name).or_default() += 1;
                }
            }
        }
    }

    /// The calls that were served most; all that were made if [`count_every_call`] was asked for.
    pub fn top(&self) -> Vec<SyscallCount> {
        if EVERY_CALL.load(Ordering::Relaxed) {
            return self.list(|_| true);
        }
        let mut counts = self.list(|number| syscalls::entry(number).is_some_and(syscalls::Entry::is_served));
        counts.truncate(TOP);
        counts
    }

    /// The calls that the job made and the sentry lacks.
    pub fn unsupported(&self) -> Vec<SyscallCount> {
        let lacks = |number| syscalls::entry(number).is_none_or(syscalls::Entry::is_unsupported);
        let mut counts = self.list(lacks);
        let foreign = self.foreign.lock();
        counts.extend(foreign.iter().map(|(name, count)| SyscallCount { name: name.clone(), count: *count }));
        counts
    }

    fn list(&self, wanted: impl Fn(u64) -> bool) -> Vec<SyscallCount> {
        let numbered =
            self.known.iter().enumerate().map(|(at, count)| (at as u64, count.load(Ordering::Relaxed)));
        let mut counts: Vec<SyscallCount> = numbered
            .filter(|(number, count)| *count > 0 && wanted(*number))
            .map(|(number, count)| SyscallCount { name: syscalls::name(number), count })
            .collect();
        counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        counts
    }
}

/// Sums over the whole job.
#[derive(Default)]
pub struct JobUsage {
    /// Bytes read from files, pipes and sockets.
    pub read_bytes: AtomicU64,
    /// Bytes written to files, pipes and sockets.
    pub written_bytes: AtomicU64,
    /// Processor time of processes that are gone.
    ended: Mutex<CpuTime>,
}

impl JobUsage {
    /// Adds what an ended process has used.
    pub fn add_ended(&self, time: CpuTime) {
        *self.ended.lock() += time;
    }

    /// Processor time of processes that are gone.
    pub fn ended(&self) -> CpuTime {
        *self.ended.lock()
    }
}
