//! `cargo xtask test`: everything that must hold, with the time of each part and the tests that were skipped.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::service::{DataDirectory, Service, TENANT_SCOPES, token};
use crate::{build, corpus, guest, image, python, rig, run, setup};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Only the tests of virtual machines on hardware KVM (which QEMU emulates), of what is built already.
    #[arg(long, conflicts_with = "filter")]
    hardware: bool,
    /// Also the heavy part of the corpus of real programs.
    #[arg(long)]
    all: bool,
}

/// The tests that may be skipped where root and /dev/kvm are there; one name a line.
const SKIPPED: &str = "xtask/skipped-tests.txt";
/// What stands after the name of a test that only a KVM in software can't run.
const SOFTWARE_ONLY: &str = " (software KVM)";

#[derive(Default)]
struct Report {
    parts: Vec<(&'static str, Duration, bool)>,
    skipped: BTreeSet<String>,
    passed: u64,
    failed: u64,
}

/// Runs all tests.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut report = Report::default();
    if arguments.hardware {
        report.part("hardware KVM", hardware_tests)?;
        return report.finish();
    }
    report.part("packages", |_| setup::packages())?;
    report.part("build", |_| build::product())?;
    report.part("test build", |_| {
        run::checked(build::cargo().args([
            "test",
            "--release",
            "--workspace",
            "--locked",
            "--no-run",
            "--quiet",
        ]))
    })?;
    report.part("guest", |_| guest::install().map(|_| ()))?;
    report.part("image", |_| image::archive().map(|_| ()))?;
    report.part("python client", |_| python::environment().map(|_| ()))?;
    report.part("format", |_| lint("fmt", &["fmt", "--all", "--check"]))?;
    report.part("clippy", |_| {
        lint(
            "clippy",
            &[
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
        )
    })?;
    report.part("tests", |report| cargo_test(report, arguments.filter.as_deref()))?;
    report.part("python client tests", python_tests)?;
    report.part("hardware KVM", hardware_tests)?;
    if arguments.filter.is_none() {
        report.part("corpus", |report| {
            report.passed += corpus::test(arguments.all)?;
            Ok(())
        })?;
        // Of some tests only, the list says nothing.
        report.part("skips", Report::check_skips)?;
    }
    report.finish()
}

impl Report {
    /// Runs a part; a part that fails does not keep the others from running, unless they need it.
    fn part(&mut self, name: &'static str, body: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        println!("== {name}");
        let begin = Instant::now();
        let result = body(self);
        let needed =
            matches!(name, "packages" | "build" | "test build" | "guest" | "image" | "python client");
        self.parts.push((name, begin.elapsed(), result.is_ok()));
        match result {
            Err(error) if needed => Err(error),
            Err(error) => {
                eprintln!("{name}: {error:#}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// On a root machine with /dev/kvm nothing may be skipped but what the committed list names.
    fn check_skips(&mut self) -> Result<()> {
        if !run::is_root()? || fs::metadata("/dev/kvm").is_err() {
            println!("no root or no /dev/kvm: {} skipped", self.skipped.len());
            return Ok(());
        }
        let list =
            fs::read_to_string(run::root().join(SKIPPED)).with_context(|| format!("{SKIPPED} is missing"))?;
        let hardware = has_hardware_kvm()?;
        let lines = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let allowed: BTreeSet<String> = lines
            .filter_map(|line| match line.strip_suffix(SOFTWARE_ONLY) {
                Some(_) if hardware => None,
                Some(name) => Some(name.to_owned()),
                None => Some(line.to_owned()),
            })
            .collect();
        if allowed != self.skipped {
            bail!("skipped were {:?}, but {SKIPPED} names {allowed:?}", self.skipped);
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        println!("== times");
        for (name, time, good) in &self.parts {
            println!("{:>7.1} s  {name}{}", time.as_secs_f64(), if *good { "" } else { "  FAILED" });
        }
        for name in &self.skipped {
            println!("skipped: {name}");
        }
        let failed = self.failed.max(self.parts.iter().filter(|(_, _, good)| !good).count() as u64);
        println!("{} passed, {failed} failed, {} skipped", self.passed, self.skipped.len());
        if failed > 0 {
            bail!("the tests fail");
        }
        Ok(())
    }
}

/// Whether the processor has what a KVM in hardware needs; a software KVM runs without.
fn has_hardware_kvm() -> Result<bool> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo can't be read")?;
    let flags = processors.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    Ok(flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Runs a tool that comes with the Rust toolchain as a component.
fn lint(component: &str, arguments: &[&str]) -> Result<()> {
    let version =
        build::cargo().args([component, "--version"]).output().context("cargo could not be started")?;
    if !version.status.success() {
        println!("skipped: {component}: the toolchain lacks the component");
        return Ok(());
    }
    run::checked(build::cargo().args(arguments))
}

/// Runs the tests of the workspace, one program after the other, and reads their results.
fn cargo_test(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let mut command = build::cargo();
    command.args(["test", "--release", "--workspace", "--locked", "--no-fail-fast", "--quiet"]);
    command.args(filter).args(["--", "--show-output", "--test-threads", &threads()]);
    command.env("BULKHEAD_TEST_IMAGE", image::archive()?).env("BULKHEAD_TEST_EROFS", image::erofs()?);
    command.env("BULKHEAD_TEST_GUEST_KERNEL", guest::install()?.join("vmlinux"));
    let status = stream(report, &mut command)?;
    if !status {
        bail!("cargo test failed");
    }
    Ok(())
}

/// Drives a service of its own through the Python client.
fn python_tests(report: &mut Report) -> Result<()> {
    let data = DataDirectory::new("python-tests", false)?;
    image::import(&data.path)?;
    // One of its tests asks for a virtual machine where no node has any.
    let mut service = Service::start_without_guest(&data.path)?;
    let mut command = Command::new(python::environment()?);
    command.args(["-m", "unittest", "discover", "--verbose", "--start-directory"]);
    command.arg(run::root().join("clients/python/tests")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("BULKHEAD_SERVER", &service.address);
    command.env("BULKHEAD_TOKEN_OPERATOR", token(&data.path, "operator", "operator")?);
    command.env("BULKHEAD_TOKEN_A", token(&data.path, "py-a", TENANT_SCOPES)?);
    command.env("BULKHEAD_TOKEN_B", token(&data.path, "py-b", TENANT_SCOPES)?);
    let output = command.output().context("python could not be started")?;
    let text = String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    let good = text.lines().filter(|line| line.ends_with("... ok")).count() as u64;
    report.passed += good;
    service.stop()?;
    if !output.status.success() || good == 0 {
        report.failed += 1;
        bail!("the Python client's tests fail");
    }
    Ok(())
}

/// Tests of virtual machines on hardware KVM, which QEMU emulates.
fn hardware_tests(report: &mut Report) -> Result<()> {
    if !rig::is_possible() {
        println!("skipped: hardware KVM: no QEMU (package qemu-system-x86)");
        report.skipped.insert("hardware KVM".to_owned());
        return Ok(());
    }
    let outcomes = rig::run()?;
    let bad: Vec<&str> = outcomes.iter().filter(|outcome| !outcome.good).map(|o| o.name.as_str()).collect();
    report.passed += (outcomes.len() - bad.len()) as u64;
    report.failed += bad.len() as u64;
    if !bad.is_empty() {
        bail!("fail on hardware KVM: {bad:?}");
    }
    Ok(())
}

fn threads() -> String {
    // The tests start processes of their own: more at once than cores only makes time-outs likelier.
    env::var("BULKHEAD_TEST_THREADS").unwrap_or_else(|_| "2".to_owned())
}

/// Passes the command's output on while it comes, and reads the lines that count.
fn stream(report: &mut Report, command: &mut Command) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo could not be started")?;
    let stdout = child.stdout.take().context("its standard output is a pipe")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("the tests' output can't be read")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some((_, rest)) = line.split_once("skipped: ") {
            report.skipped.insert(rest.split(':').next().unwrap_or(rest).trim().to_owned());
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            report.passed += count(counts, " passed");
            report.failed += count(counts, " failed");
        }
    }
    Ok(child.wait().context("cargo can't be waited for")?.success())
}

/// The number before a word, in `ok. 12 passed; 0 failed; ...`.
fn count(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
