//! Tests of virtual machines on hardware KVM.
//!
//! QEMU emulates an AMD processor with SVM; Debian's own kernel runs in it with its module `kvm_amd`, and has control
//! groups v2. This machine's files are its root, read-only, under a layer in memory: what was built here runs there by the
//! same path, the whole service with its PostgreSQL too. Times mean nothing there (everything is translated); results do.

mod outer;
mod real;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build, guest, run};

/// What the rig says of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) good: bool,
}

/// The longest that one executable's tests may take there, in seconds: one that hangs must not keep the others from running.
const LONGEST: u32 = 600;
/// The release test executables whose tests run there: package, target, and which of its tests if not all.
const EXECUTABLES: [(&str, &str, &str); 3] = [
    ("bulkhead-vmm", "machine", ""),
    // Launcher and jail, with control groups v2.
    ("bulkhead-sandbox", "lifecycle", ""),
    // The service: what a KVM in software is too slow for.
    (
        "bulkhead",
        "promises",
        "machines::each_limit machines::killed_machines machines::a_job_that_is_cancelled machines::a_guest_that_never",
    ),
];
/// Of the service's tests, those that this machine's own KVM may be too slow for: they must have run.
const SERVICE: [&str; 4] = [
    "each_limit_holds_in_a_machine",
    "killed_machines_and_workers_leave_nothing",
    "a_job_that_is_cancelled_or_breaks_its_kernel_ends_once",
    "a_guest_that_never_gets_ready_is_the_hosts_failure",
];

/// Runs everything; prints the machine's console while it comes, and answers each test's result. Tests that ran with
/// `cargo test` on this machine's own KVM are told apart by the prefix `kvm_amd: `.
pub(crate) fn run() -> Result<Vec<Outcome>> {
    let guest = guest::install()?;
    let store = real::store()?;
    let mut work = String::from(PREAMBLE);
    work.push_str(&real::work(&store)?);
    for (package, target, tests) in EXECUTABLES {
        let executable = executable(package, target)?;
        work.push_str(&format!(
            "echo 'rig: {package}'\nBULKHEAD_TEST_GUEST_KERNEL={} timeout {LONGEST} {} {tests} --test-threads 1 --color never 2>&1 \
                 || echo 'test {package} as a whole ... FAILED'\n",
            guest.join("vmlinux").display(),
            executable.display()
        ));
    }
    work.push_str(END);
    let console = outer::run(&work)?;
    let outcomes: Vec<Outcome> = console.lines().filter_map(outcome).collect();
    if !console.contains(FINISHED) {
        bail!("the machine with a hardware KVM did not come to its end");
    }
    let wanted = real::NAMES.into_iter().chain(SERVICE);
    let missing: Vec<&str> =
        wanted.filter(|name| !outcomes.iter().any(|outcome| outcome.name.ends_with(name))).collect();
    if !missing.is_empty() {
        bail!("no result of {missing:?}");
    }
    Ok(outcomes)
}

/// A usual environment, and scratch space that has files without names (the root's overlay has none).
const PREAMBLE: &str =
    "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp\nip link set lo up\ndmesg -n 1\n";
const FINISHED: &str = "rig: finished";
const END: &str = "echo 'rig: finished'\nsync\necho o > /proc/sysrq-trigger\nsleep 60\n";

/// The path of a test executable, built when it is not.
fn executable(package: &str, target: &str) -> Result<PathBuf> {
    let mut command = build::cargo();
    command.args(["test", "--release", "--locked", "--no-run", "--message-format=json"]);
    let messages = run::output(command.args(["--package", package, "--test", target]))?;
    let found = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == target && message["profile"]["test"] == true;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    found.with_context(|| format!("cargo names no executable for {package}'s test {target}"))
}

/// Reads a line of the console: a test of a Rust executable, or of the jobs that need a real kernel.
fn outcome(line: &str) -> Option<Outcome> {
    let (name, result) = match line.strip_prefix("real kernel: ") {
        Some(rest) => rest.rsplit_once(": ")?,
        None => line.strip_prefix("test ")?.rsplit_once(" ... ")?,
    };
    Some(Outcome { name: format!("kvm_amd: {name}"), good: result.trim() == "ok" })
}

/// Whether QEMU is there at all.
pub(crate) fn is_possible() -> bool {
    Command::new("qemu-system-x86_64").arg("--version").output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_off_the_console() {
        let good = Outcome { name: "kvm_amd: it_boots".into(), good: true };
        assert_eq!(outcome("test it_boots ... ok"), Some(good));
        let bad = Outcome { name: "kvm_amd: every namespace".into(), good: false };
        assert_eq!(outcome("real kernel: every namespace: FAILED"), Some(bad));
        assert_eq!(outcome("test result: ok. 1 passed; 0 failed"), None);
        assert_eq!(outcome("[    6.6] kvm [129]: vcpu0, guest rIP: 0x0 Unhandled WRMSR"), None);
    }
}
