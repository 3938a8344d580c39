//! The cases: each starts this binary behind the walls and judges what it says.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_jail::cgroup::{GroupLimits, Hierarchy, SandboxGroups};
use bulkhead_jail::spawn::{Child, Ended, Program, spawn};

use crate::behind::FIRST_GROUP_FD;

pub(crate) type Case = (&'static str, fn());

pub(crate) const ALL: &[Case] = &[
    ("a_jailed_process_has_nothing", a_jailed_process_has_nothing),
    ("root_is_refused_as_identity", root_is_refused_as_identity),
    ("a_group_that_cannot_be_joined_is_named", a_group_that_cannot_be_joined_is_named),
    ("memory_limit_kills_and_is_counted", memory_limit_kills_and_is_counted),
    ("pids_limit_stops_a_fork_bomb", pids_limit_stops_a_fork_bomb),
    ("groups_are_killed_and_removed", groups_are_killed_and_removed),
    ("dropped_groups_leave_nothing", dropped_groups_leave_nothing),
    ("bad_names_are_refused", bad_names_are_refused),
    ("the_sentry_filter_lets_threads_run", the_sentry_filter_lets_threads_run),
    ("the_sentry_filter_stops_the_rest_and_says_what", the_sentry_filter_stops_the_rest_and_says_what),
    ("a_vmms_threads_may_what_they_need", a_vmms_threads_may_what_they_need),
    ("a_vmms_filters_stop_the_rest_and_say_what", a_vmms_filters_stop_the_rest_and_say_what),
    ("only_the_given_descriptors_are_open", only_the_given_descriptors_are_open),
    ("a_program_that_is_not_there_is_an_error", a_program_that_is_not_there_is_an_error),
    ("a_killed_launcher_takes_its_child_along", a_killed_launcher_takes_its_child_along),
];

fn name() -> String {
    format!("bulkhead-test-{}", std::process::id())
}

fn hierarchy() -> Hierarchy {
    Hierarchy::detect_named(&name()).expect("this host has the controllers")
}

pub(crate) fn clean_up() {
    hierarchy().remove_if_empty();
}

fn limits() -> GroupLimits {
    GroupLimits {
        memory_bytes: 32 << 20,
        reserve_bytes: 8 << 20,
        cpu_milli: 1000,
        job_tasks: 16,
        sentry_tasks: 32,
    }
}

pub(crate) struct Started {
    pub(crate) child: Child,
    out: OwnedFd,
    err: OwnedFd,
}

/// Starts this binary in a mode of `behind`, with `groups` from descriptor 3 on.
pub(crate) fn start(args: &[&str], groups: &[OwnedFd], pid_namespace: bool) -> std::io::Result<Started> {
    let (out, out_write) = std::io::pipe()?;
    let (err, err_write) = std::io::pipe()?;
    let null = fs::File::open("/dev/null")?;
    let mut descriptors: Vec<(BorrowedFd<'_>, i32)> =
        vec![(null.as_fd(), 0), (out_write.as_fd(), 1), (err_write.as_fd(), 2)];
    descriptors.extend(groups.iter().zip(FIRST_GROUP_FD..).map(|(fd, at)| (fd.as_fd(), at)));
    let text = |s: &str| CString::new(s).expect("no NUL");
    let path = std::env::current_exe()?;
    let child = spawn(&Program {
        path: text(path.to_str().expect("utf-8")),
        argv: ["walls", "behind"].iter().chain(args).map(|a| text(a)).collect(),
        env: vec![text("ONLY=this")],
        descriptors,
        pid_namespace,
    })?;
    Ok(Started { child, out: out.into(), err: err.into() })
}

struct Said {
    ended: Ended,
    facts: HashMap<String, String>,
    err: String,
}

impl Said {
    #[track_caller]
    fn fact(&self, key: &str) -> &str {
        self.facts
            .get(key)
            .map(String::as_str)
            .unwrap_or_else(|| panic!("no {key}: {:?} {}", self.facts, self.err))
    }
}

impl Started {
    fn finish(self) -> Said {
        let mut text = String::new();
        fs::File::from(self.out).read_to_string(&mut text).expect("reads");
        let mut err = String::new();
        fs::File::from(self.err).read_to_string(&mut err).expect("reads");
        let ended = self.child.wait().expect("waits");
        let facts = text
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Said { ended, facts, err }
    }
}

const UID: u32 = 1_999_999_999;

fn a_jailed_process_has_nothing() {
    let groups = SandboxGroups::create(&hierarchy(), "look", &limits()).expect("creates");
    let join = groups.sentry_join().expect("opens");
    let scratch = tempfile::tempdir().expect("temporary directory");
    chown(scratch.path(), Some(UID), Some(UID)).expect("chown");
    let dir = scratch.path().to_str().expect("utf-8");
    let mounts_before = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let said = start(&["look", &UID.to_string(), dir, &join.len().to_string()], &join, true)
        .expect("starts")
        .finish();
    assert_eq!(said.ended, Ended::Exited(0), "{}", said.err);
    assert_eq!(said.fact("pid"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(said.fact(set), "0000000000000000", "{set}");
    }
    assert_eq!(said.fact("NoNewPrivs"), "1");
    assert_eq!(said.fact("Groups"), "");
    assert_eq!(said.fact("uid_map"), format!("0 {UID} 1"));
    assert_eq!(said.fact("gid_map"), format!("0 {UID} 1"));
    assert_eq!(said.fact("root"), "proc,scratch");
    assert_eq!(said.fact("up"), "2");
    assert_eq!(said.fact("root_writable"), "false");
    assert_eq!(said.fact("scratch_writable"), "true");
    assert_eq!(said.fact("escaped"), "false");
    assert_eq!(said.fact("processes"), "1");
    assert_eq!(said.fact("devices"), "1");
    assert!(["NetworkUnreachable", "ConnectionRefused"].contains(&said.fact("network")));
    assert_eq!(said.fact("mounts"), "3");
    assert_eq!(said.fact("core"), "Some(1)");
    for forbidden in ["sysrq", "hostname_set", "mounted"] {
        assert_eq!(said.fact(forbidden), "false", "{forbidden}");
    }
    let made = scratch.path().join("made-inside");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(made).expect("was made")), UID);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("mounts"), mounts_before);
    groups.remove(Duration::from_secs(5)).expect("removes");
}

fn root_is_refused_as_identity() {
    let said = start(&["refuse", "0"], &[], true).expect("starts").finish();
    assert_eq!(said.fact("step"), "Identity");
}

fn a_group_that_cannot_be_joined_is_named() {
    let said = start(&["badgroup"], &[], true).expect("starts").finish();
    assert_eq!(said.fact("step"), "JoinCgroup");
}

fn memory_limit_kills_and_is_counted() {
    let groups = SandboxGroups::create(&hierarchy(), "hog", &limits()).expect("creates");
    let meter = groups.meter().expect("opens");
    assert_eq!(meter.read().expect("reads").oom_kills, 0);
    let join = groups.job_join().expect("opens");
    let said = start(&["hog", &join.len().to_string()], &join, false).expect("starts").finish();
    assert_eq!(said.ended, Ended::Signaled(9), "{}", said.err);
    let usage = meter.read().expect("reads");
    assert_eq!(usage.oom_kills, 1);
    assert!((16 << 20..=32 << 20).contains(&usage.memory_peak_bytes), "{usage:?}");
    groups.remove(Duration::from_secs(5)).expect("removes");
}

fn pids_limit_stops_a_fork_bomb() {
    let groups = SandboxGroups::create(&hierarchy(), "fork", &limits()).expect("creates");
    let join = groups.job_join().expect("opens");
    let started = start(&["fork", &join.len().to_string()], &join, true).expect("starts");
    let said = started.finish();
    assert_eq!(said.fact("made"), "15");
    assert_eq!(said.fact("errno"), libc::EAGAIN.to_string());
    groups.remove(Duration::from_secs(5)).expect("removes");
}

fn groups_are_killed_and_removed() {
    let hierarchy = hierarchy();
    let groups = SandboxGroups::create(&hierarchy, "kill", &limits()).expect("creates");
    let join = groups.sentry_join().expect("opens");
    let started = start(&["sleep", &join.len().to_string()], &join, false).expect("starts");
    let deadline = Instant::now() + Duration::from_secs(10);
    while groups.processes() != [started.child.pid()] {
        assert!(Instant::now() < deadline, "{:?}", groups.processes());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(hierarchy.sandboxes().contains(&"kill".to_owned()));
    let again = SandboxGroups::adopt(&hierarchy, "kill").expect("valid name");
    again.kill(Duration::from_secs(5)).expect("kills");
    assert_eq!(started.finish().ended, Ended::Signaled(9));
    groups.remove(Duration::from_secs(5)).expect("removes");
    assert!(!again.exists());
    assert!(!hierarchy.sandboxes().contains(&"kill".to_owned()));
}

fn dropped_groups_leave_nothing() {
    let hierarchy = hierarchy();
    for _ in 0..20 {
        drop(SandboxGroups::create(&hierarchy, "dropped", &limits()).expect("creates"));
    }
    assert!(!hierarchy.sandboxes().contains(&"dropped".to_owned()));
}

fn bad_names_are_refused() {
    for bad in ["", "..", "a/b", "a b", &"x".repeat(65)] {
        assert!(SandboxGroups::create(&hierarchy(), bad, &limits()).is_err(), "{bad}");
        assert!(Hierarchy::detect_named(bad).is_err(), "{bad}");
    }
}

fn the_sentry_filter_lets_threads_run() {
    let said = start(&["filtered", "thread"], &[], false).expect("starts").finish();
    assert_eq!(said.ended, Ended::Exited(0), "{}", said.err);
    assert_eq!(said.fact("thread"), "55");
}

fn the_sentry_filter_stops_the_rest_and_says_what() {
    for (what, number) in
        [("socket", libc::SYS_socket), ("executable", libc::SYS_mmap), ("tiocsti", libc::SYS_ioctl)]
    {
        let said = start(&["filtered", what], &[], false).expect("starts").finish();
        assert_eq!(said.fact("installed"), "true");
        assert_eq!(said.ended, Ended::Exited(bulkhead_jail::seccomp::REFUSED_STATUS), "{what}: {}", said.err);
        assert!(!said.facts.contains_key("survived"), "{what}");
        assert!(said.err.contains(&format!("system call {number:04} ")), "{what}: {}", said.err);
    }
    // A new process is asked for with all signals blocked, so SIGSYS ends the asker without a word.
    let said = start(&["filtered", "exec"], &[], false).expect("starts").finish();
    assert_eq!(said.ended, Ended::Signaled(libc::SIGSYS), "{}", said.err);
    assert!(!said.facts.contains_key("survived"));
}

fn a_vmms_threads_may_what_they_need() {
    for (role, what) in [
        ("process", "nothing"),
        ("process", "thread"),
        ("process", "file"),
        ("process", "run"),
        ("process", "create-vcpu"),
        ("vcpu", "nothing"),
        ("vcpu", "run"),
        ("devices", "nothing"),
    ] {
        let said = start(&["narrowed", role, what], &[], false).expect("starts").finish();
        assert_eq!(said.ended, Ended::Exited(0), "{role} {what}: {}", said.err);
        assert_eq!(said.fact("survived"), "true");
    }
}

fn a_vmms_filters_stop_the_rest_and_say_what() {
    for (role, what, number) in [
        ("process", "socket", libc::SYS_socket),
        ("process", "executable", libc::SYS_mmap),
        ("process", "tiocsti", libc::SYS_ioctl),
        ("process", "create-vm", libc::SYS_ioctl),
        ("vcpu", "file", libc::SYS_openat),
        ("vcpu", "create-vcpu", libc::SYS_ioctl),
        ("vcpu", "widen", libc::SYS_prctl),
        ("devices", "file", libc::SYS_openat),
        ("devices", "run", libc::SYS_ioctl),
        ("devices", "widen", libc::SYS_prctl),
    ] {
        let said = start(&["narrowed", role, what], &[], false).expect("starts").finish();
        assert_eq!(
            said.ended,
            Ended::Exited(bulkhead_jail::seccomp::REFUSED_STATUS),
            "{role} {what}: {}",
            said.err
        );
        assert!(!said.facts.contains_key("survived"), "{role} {what}");
        assert!(said.err.contains(&format!("system call {number:04} ")), "{role} {what}: {}", said.err);
    }
}

fn only_the_given_descriptors_are_open() {
    let (read, mut write) = std::io::pipe().expect("pipe");
    write.write_all(b"through").expect("writes");
    drop(write);
    let (out, out_write) = std::io::pipe().expect("pipe");
    let text = |s: &str| CString::new(s).expect("no NUL");
    let path = std::env::current_exe().expect("own path");
    // Without close-on-exec, as a careless library would leave it.
    let leaked = rustix::io::fcntl_dupfd_cloexec(&out, 200).expect("duplicates");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("clears");
    let child = spawn(&Program {
        path: text(path.to_str().expect("utf-8")),
        argv: vec![text("walls"), text("behind"), text("descriptors")],
        env: vec![text("ONLY=this")],
        descriptors: vec![(out_write.as_fd(), 1), (out_write.as_fd(), 2), (read.as_fd(), 7)],
        pid_namespace: false,
    })
    .expect("starts");
    drop(out_write);
    let mut said = String::new();
    fs::File::from(OwnedFd::from(out)).read_to_string(&mut said).expect("reads");
    assert_eq!(child.wait().expect("waits"), Ended::Exited(0), "{said}");
    // 0 is /dev/null, opened by Rust's start where one of the first three is missing; 3 is the directory being read.
    assert_eq!(said, "open=[0, 1, 2, 3, 7]\ntext=through\nargs=3\nenv=[(\"ONLY\", \"this\")]\n");
}

fn a_program_that_is_not_there_is_an_error() {
    let program = Program {
        path: c"/nowhere/at/all".to_owned(),
        argv: vec![c"x".to_owned()],
        env: Vec::new(),
        descriptors: Vec::new(),
        pid_namespace: true,
    };
    assert_eq!(spawn(&program).expect_err("not there").kind(), std::io::ErrorKind::NotFound);
    let stdin = std::io::stdin();
    let high = Program { descriptors: vec![(stdin.as_fd(), 64)], path: c"/bin/true".to_owned(), ..program };
    assert_eq!(spawn(&high).expect_err("too high").kind(), std::io::ErrorKind::InvalidInput);
}

fn a_killed_launcher_takes_its_child_along() {
    let mut launcher = Command::new(std::env::current_exe().expect("own path"))
        .args(["behind", "launcher"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(launcher.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut line).expect("reads");
    let pid: i32 = line.trim().strip_prefix("child=").expect("its line").parse().expect("a number");
    let child = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(pid).expect("positive"),
        rustix::process::PidfdFlags::empty(),
    )
    .expect("runs");
    launcher.kill().expect("kills");
    launcher.wait().expect("waits");
    let mut poll = [rustix::event::PollFd::new(&child, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut poll, Some(&timeout)).expect("polls"), 1, "the child lives on");
}
