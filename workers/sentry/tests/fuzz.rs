//! Random system calls, valid, half valid and senseless, end neither the sentry nor its memory.
//!
//! `BULKHEAD_FUZZ_CALLS` and `BULKHEAD_FUZZ_SEED` make another run of it.

#[allow(dead_code, reason = "each test uses its part of it")]
mod support;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bulkhead_types::{AttemptState, Termination};
use support::Run;

/// Calls of the test as it runs with the others.
const CALLS: u64 = 10_000;
/// Calls in a second, at least, also on a busy machine.
const PACE: u64 = 100;
/// Descriptors that the sentry may have more afterwards: warm stubs that are being made.
const DESCRIPTORS_MORE: usize = 24;
/// Bytes that the sentry may have more afterwards, for buffers, name caches and freed memory that the allocator
/// keeps.
const MEMORY_MORE: u64 = 16 << 20;

/// What the sentry holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    memory: u64,
}

fn held(pid: &str) -> Option<Held> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse().ok()?;
    Some(Held { descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(), memory: memory * 1024 })
}

/// The sentry that this process has started: the only one in this test.
fn sentry() -> Option<String> {
    let own = std::process::id().to_string();
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        parent == Some(&own) && stat.contains("(bulkhead-sentry)")
    })
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn random_calls_do_no_harm() {
    let calls = number("BULKHEAD_FUZZ_CALLS", CALLS);
    let seed = number("BULKHEAD_FUZZ_SEED", 1);
    let (over, samples) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let ran = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if let Some(now) = sentry().and_then(|pid| held(&pid)) {
                    samples.lock().expect("samples").push(now);
                }
                thread::sleep(Duration::from_millis(40));
            }
        });
        let (seed, count) = (seed.to_string(), calls.to_string());
        let run = Run::new(&["/bin/fuzz", &seed, &count]).limits(|limits| {
            limits.processes = 100;
            limits.memory_bytes = 512 << 20;
            limits.wall_time_ms = 20_000 + calls * 1000 / PACE;
        });
        let ran = run.go();
        over.store(true, Ordering::Relaxed);
        ran
    });
    let ending = (ran.state(), ran.finished.termination);
    assert_eq!(ending, (AttemptState::Succeeded, Some(Termination::Exited(0))), "{ran:?}");
    assert_eq!(ran.stdout, format!("{calls} calls, many processes\n"), "{ran:?}");
    let samples = samples.into_inner().expect("samples");
    // Before the first call, and after all processes but the first are gone, whichever moment was quietest.
    let quiet = |samples: &[Held]| {
        let descriptors = samples.iter().map(|held| held.descriptors).min().unwrap_or(0);
        Held { descriptors, memory: samples.iter().map(|held| held.memory).min().unwrap_or(0) }
    };
    assert!(samples.len() > 16, "the sentry was not found");
    let (before, after) = (quiet(&samples[..6]), quiet(&samples[samples.len() - 8..]));
    println!("before {before:?}, after {after:?}");
    assert!(after.descriptors <= before.descriptors + DESCRIPTORS_MORE, "{before:?} {after:?}");
    assert!(after.memory <= before.memory + MEMORY_MORE, "{before:?} {after:?}");
}
