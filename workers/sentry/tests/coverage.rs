//! The table of system calls is the coverage document, and this proves it: each call that the table says is full or
//! partial is made by the cases that the table names, natively and in a sandbox, with the same transcript.
//!
//! `BULKHEAD_CASES=io:` runs only the cases whose names begin so, and prints the transcripts that differ.

#[allow(dead_code, reason = "each test uses its part of it")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bulkhead_platform::filter;
use bulkhead_sentry::syscalls::{self, Status};
use bulkhead_types::Termination;
use support::{Run, SENTRY_FLAGS, root};

/// Cases at a time: most of them wait now and then.
const AT_ONCE: usize = 4;
/// The seconds that a case may take.
const PATIENCE: u64 = 30;

struct Case {
    name: String,
    calls: Vec<String>,
}

fn prepare() {
    root::WITH_CASES.store(true, Ordering::Relaxed);
    let _first_sets_it = SENTRY_FLAGS.set("--count-every-call");
}

/// What the suite holds.
fn cases() -> Vec<Case> {
    prepare();
    let listed = Command::new(root::tree().join("bin/cases")).arg("--list").output().expect("the suite runs");
    let text = String::from_utf8(listed.stdout).expect("names");
    let case = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Case { name: words.next().expect("a name"), calls: words.collect() }
    };
    let mut cases: Vec<Case> = text.lines().map(case).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// What a case printed, and how it ended.
#[derive(PartialEq, Eq)]
struct Transcript {
    text: String,
    exit: Option<u8>,
}

fn natively(case: &str) -> Transcript {
    let place = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &PATIENCE.to_string()]).arg(root::tree().join("bin/cases")).arg("--native");
    let output = command.arg(root::tree()).arg(place.path()).arg(case).output().expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = format!("{}{errors}", String::from_utf8_lossy(&output.stdout));
    Transcript { text, exit: output.status.code().map(|code| code as u8) }
}

fn in_a_sandbox(case: &str) -> (Transcript, BTreeMap<String, u64>) {
    let ran = Run::new(&["/bin/cases", case])
        .limits(|limits| {
            limits.wall_time_ms = PATIENCE * 1000;
            limits.cpu_milli = 2000;
        })
        .go();
    let exit = match ran.finished.termination {
        Some(Termination::Exited(code)) => Some(code),
        _ => None,
    };
    let counts = ran.finished.top_syscalls.iter().map(|call| (call.name.clone(), call.count)).collect();
    let problem = if exit == Some(0) { String::new() } else { format!("({})\n", ran.reason()) };
    (Transcript { text: format!("{}{problem}{}", ran.stdout, ran.stderr), exit }, counts)
}

/// The lines in which two transcripts differ, and the line before each.
fn difference(native: &Transcript, sentry: &Transcript) -> String {
    let mut text = String::new();
    let lines =
        |transcript: &Transcript| -> Vec<String> { transcript.text.lines().map(str::to_owned).collect() };
    let (native, sentry) = (lines(native), lines(sentry));
    for n in 0..native.len().max(sentry.len()) {
        let (a, b) = (native.get(n), sentry.get(n));
        if a != b {
            let line = |line: Option<&String>| line.cloned().unwrap_or_else(|| "(nothing)".to_owned());
            text.push_str(&format!("    native: {}\n    sentry: {}\n", line(a), line(b)));
        }
    }
    text
}

fn is_native(call: &str) -> bool {
    let number = |entry: &&syscalls::Entry| entry.name == call;
    let Some(entry) = syscalls::all().find(number) else { return false };
    filter::NATIVE.iter().any(|(native, ..)| *native as u64 == entry.number)
}

/// Runs one case both ways; what is wrong with it, and how long it took.
fn compare(case: &Case) -> (String, Duration) {
    let begin = Instant::now();
    // What the table notes is not as on Linux: such cases only run in a sandbox, and say what is not as noted.
    let noted = case.name.starts_with("noted:");
    let as_noted = Transcript { text: String::new(), exit: Some(0) };
    let native = if noted { as_noted } else { natively(&case.name) };
    let (sentry, counts) = in_a_sandbox(&case.name);
    let mut wrong = String::new();
    if native != sentry {
        wrong.push_str(&difference(&native, &sentry));
        let ends = (native.exit, sentry.exit);
        if ends.0 != ends.1 {
            wrong.push_str(&format!("    ends: native {:?}, sentry {:?}\n", ends.0, ends.1));
        }
    } else if native.exit != Some(0) {
        wrong.push_str(&format!("    fails natively, too: {}\n", native.text));
    }
    for call in &case.calls {
        if !is_native(call) && counts.get(call).is_none_or(|count| *count == 0) {
            wrong.push_str(&format!("    never makes the call {call}\n"));
        }
    }
    (wrong, begin.elapsed())
}

#[test]
fn the_sentry_does_what_the_host_does() {
    let filter = std::env::var("BULKHEAD_CASES").unwrap_or_default();
    let chosen: Vec<Case> = cases().into_iter().filter(|case| case.name.starts_with(&filter)).collect();
    assert!(!chosen.is_empty(), "no case begins with {filter}");
    let (next, failures, times) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (wrong, time) = compare(case);
                    times.lock().expect("times").push((time, case.name.clone()));
                    if !wrong.is_empty() {
                        failures.lock().expect("failures").insert(case.name.clone(), wrong);
                    }
                }
            });
        }
    });
    let mut times = times.into_inner().expect("times");
    times.sort();
    let slowest: Vec<String> =
        times.iter().rev().take(5).map(|(time, name)| format!("{name} {} ms", time.as_millis())).collect();
    println!("{} cases; the slowest: {}", chosen.len(), slowest.join(", "));
    let failures = failures.into_inner().expect("failures");
    let text: String = failures.iter().map(|(name, wrong)| format!("{name}\n{wrong}")).collect();
    assert!(failures.is_empty(), "{} of {} cases differ:\n{text}", failures.len(), chosen.len());
}

#[test]
fn the_table_and_the_suite_name_each_other() {
    let mut suite: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in cases() {
        for call in case.calls {
            suite.entry(call).or_default().insert(case.name.clone());
        }
    }
    let mut wrong = String::new();
    for entry in syscalls::all() {
        let proofs = suite.remove(entry.name).unwrap_or_default();
        let named: BTreeSet<String> = entry.tests.iter().map(|test| (*test).to_owned()).collect();
        let served = matches!(entry.status, Status::Full | Status::Partial);
        if served && named.is_empty() {
            wrong.push_str(&format!("{} has no test\n", entry.name));
        }
        if served && named != proofs {
            wrong.push_str(&format!("{}: the table names {named:?}, the suite {proofs:?}\n", entry.name));
        }
        if entry.status == Status::Partial && entry.note.is_empty() {
            wrong.push_str(&format!("{} is partial without a note\n", entry.name));
        }
    }
    for (call, cases) in suite {
        wrong.push_str(&format!("{cases:?} prove {call}, which the table does not have\n"));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn calls_are_refused_as_the_table_says() {
    prepare();
    let refused: Vec<_> =
        syscalls::all().filter(|entry| matches!(entry.status, Status::Refused(_))).collect();
    let numbers: Vec<String> = refused.iter().map(|entry| entry.number.to_string()).collect();
    let mut command = vec!["/bin/cases", "--make"];
    command.extend(numbers.iter().map(String::as_str));
    let ran = Run::new(&command).go();
    let expected: String = refused
        .iter()
        .map(|entry| match entry.status {
            Status::Refused(errno) => format!("{}: {errno}\n", entry.number),
            _ => String::new(),
        })
        .collect();
    assert_eq!(ran.stdout, expected, "{ran:?}");
    assert!(ran.finished.unsupported_syscalls.is_empty(), "{ran:?}");
}

/// The goals of the coverage document.
#[test]
fn the_table_covers_what_programs_need() {
    let count = |wanted: fn(Status) -> bool| syscalls::all().filter(|entry| wanted(entry.status)).count();
    let full = count(|status| status == Status::Full);
    let partial = count(|status| status == Status::Partial);
    let refused = count(|status| matches!(status, Status::Refused(_)));
    let unsupported = count(|status| status == Status::Unsupported);
    println!("{full} full, {partial} partial, {refused} refused, {unsupported} unsupported");
    assert!(full >= 180, "{full} calls are full");
    assert!(full + partial >= 240, "{full} calls are full and {partial} partial");
}
