//! `bulkhead sandbox sentry` as people use it, with the real sentry on a busybox root, and what doctor says afterwards. Needs
//! the sentry's and the converter's programs beside `bulkhead`, as a workspace build puts them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BUSYBOX: &str = "/bin/busybox";

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// None, with the reason printed, where this can't be tried.
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).is_file() {
            println!("skipped: {test}: needs root and {BUSYBOX} (package busybox-static)");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("root/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        for name in ["sh", "cat", "echo", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        Some(Place { directory })
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, options: &[&str], argv: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(["sandbox", "sentry", "--data-dir"]).arg(self.data());
        command.arg("--rootfs").arg(self.directory.path().join("root"));
        command.args(options).arg("--").args(argv);
        command
    }

    fn run(&self, options: &[&str], argv: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } =
            self.command(options, argv).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    fn start(&self, argv: &[&str]) -> Child {
        let mut child = self.command(&[], argv).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line, "started\n");
        child
    }

    /// Leftovers that concern this place.
    fn leftovers(&self, clean: bool, id: &str) -> Vec<serde_json::Value> {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        doctor.args(["doctor", "--leftovers", "--json", "--data-dir"]).arg(self.data());
        let output = doctor.args(clean.then_some("--clean")).output().unwrap();
        let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        if !clean {
            assert_eq!(output.status.success(), all.is_empty());
        }
        all.into_iter().filter(|row| row["what"].as_str().unwrap().contains(id)).collect()
    }
}

#[test]
fn streams_and_status_are_the_jobs_own() {
    let Some(place) = Place::new("streams_and_status_are_the_jobs_own") else { return };
    let script = "cat; echo error >&2; exit 7";
    let mut child = place
        .command(&[], &["/bin/sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\0\xff").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"through\0\xff");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(7), &b"error\n"[..]));
    assert_eq!(
        place.run(&[], &["/bin/sh", "-c", "kill -SEGV $$"]),
        (Some(128 + 11), String::new(), String::new())
    );
    let options = ["--env", "NAME=value", "--workdir", "/bin"];
    let (code, out, err) = place.run(&options, &["/bin/sh", "-c", "echo $NAME; pwd"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "value\n/bin\n", ""));
}

#[test]
fn what_goes_wrong_is_said_once_and_only_unless_quiet() {
    let Some(place) = Place::new("what_goes_wrong_is_said_once_and_only_unless_quiet") else { return };
    let (code, out, err) = place.run(&[], &["/bin/absent"]);
    assert_eq!((code, out.as_str(), err.lines().count()), (Some(127), "", 1));
    assert!(err.starts_with("bulkhead: /bin/absent: "), "{err}");
    assert_eq!(place.run(&["--quiet"], &["/bin/absent"]), (Some(127), String::new(), String::new()));
    let (code, _, err) = place.run(&["--memory", "1"], &["/bin/true"]);
    assert_eq!(code, Some(125));
    assert!(err.contains("limits.memory_bytes"), "{err}");
    let (code, ..) = place.run(&["--memory", "much"], &["/bin/true"]);
    assert_eq!(code, Some(2));
}

#[test]
fn each_limit_ends_the_job_and_says_so() {
    let Some(place) = Place::new("each_limit_ends_the_job_and_says_so") else { return };
    let report = place.directory.path().join("report.json");
    let file = report.to_str().unwrap();
    let fill = "for i in 1 2 3 4 5 6 7 8; do cat /bin/busybox || exit 1; done > /tmp/file";
    let hog = "a=0123456789abcdef; while :; do a=$a$a; done";
    for (option, value, script, state, words) in [
        ("--wall", "300ms", "sleep 60", "TIMED_OUT", "wall time limit of 0.3 s"),
        ("--cpu-time", "300ms", "while :; do :; done", "TIMED_OUT", "cpu time limit is 0.3 s"),
        ("--memory", "32M", hog, "OUT_OF_MEMORY", "memory limit of 32 MiB: 1 process killed"),
        ("--disk", "4M", fill, "DISK_LIMIT", "disk limit of 4 MiB"),
    ] {
        let (code, _, err) = place.run(&[option, value, "--report", file], &["/bin/sh", "-c", script]);
        assert_ne!(code, Some(0), "{option}");
        assert!(err.contains(words), "{option}: {err}");
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["state"], state, "{report}");
    }
}

#[test]
fn a_terminated_command_ends_its_job_and_leaves_nothing() {
    let Some(place) = Place::new("a_terminated_command_ends_its_job_and_leaves_nothing") else { return };
    let mut child = place.start(&["/bin/sh", "-c", "echo started; exec sleep 600"]);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(place.leftovers(false, place.data().to_str().unwrap()), Vec::<serde_json::Value>::new());
}

#[test]
fn what_a_killed_command_leaves_is_named_and_cleaned() {
    let Some(place) = Place::new("what_a_killed_command_leaves_is_named_and_cleaned") else { return };
    let mut child = place.start(&["/bin/sh", "-c", "echo started; while :; do :; done"]);
    let scratch = fs::read_dir(place.data().join("scratch")).unwrap().next().unwrap().unwrap();
    let id = scratch.file_name().into_string().unwrap();
    assert_eq!(place.leftovers(false, &id), Vec::<serde_json::Value>::new(), "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    // Its processes die with it; the rest is named. A process that is just dying may still be seen once.
    let deadline = Instant::now() + Duration::from_secs(10);
    let kinds = loop {
        let found = place.leftovers(false, &id);
        let kinds: Vec<String> = found.iter().map(|r| r["kind"].as_str().unwrap().to_owned()).collect();
        if !kinds.contains(&"process".to_owned()) || Instant::now() > deadline {
            break kinds;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(kinds, ["cgroup", "file", "file"]);
    let cleaned = place.leftovers(true, &id);
    assert!(cleaned.iter().all(|r| r["removed"] == true), "{cleaned:?}");
    assert_eq!(place.leftovers(false, &id), Vec::<serde_json::Value>::new());
}

#[test]
fn doctor_finds_what_this_host_needs() {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(["doctor", "--json"]).output().unwrap();
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let missing: Vec<_> = checks.iter().filter(|c| c["ok"] == false && c["required"] == true).collect();
    assert_eq!(output.status.success(), missing.is_empty(), "{missing:?}");
    for name in [
        "kernel",
        "seccomp notification",
        "cgroup memory",
        "user namespace",
        "PostgreSQL",
        "/dev/kvm",
        "disk",
    ] {
        assert!(checks.iter().any(|c| c["name"] == name), "{name} is not looked at");
    }
    if !rustix::process::geteuid().is_root() {
        assert!(missing.iter().any(|c| c["name"] == "root"), "{missing:?}");
    }
}
