//! Runs tests that need a process of their own, and the small kernel that they share.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part")]

pub mod guest;
pub mod kernel;
pub mod loader;
mod policy;
mod serve;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// A test, which panics to fail.
pub type Test = (&'static str, fn());

/// Names the test that a child process is to run.
const CHILD: &str = "BULKHEAD_PLATFORM_TEST";

/// Names a pids cgroup of the test's own to it, where one could be made.
const PIDS: &str = "BULKHEAD_PLATFORM_PIDS";

/// A test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The main function of a test binary: each test in a child process that is PID 1 of a pid namespace, as the
/// sentry is, so that nothing of it survives.
pub fn main(tests: &[Test]) -> ExitCode {
    if let Ok(name) = std::env::var(CHILD) {
        let (_, test) = tests.iter().find(|(n, _)| *n == name).expect("a known test");
        enter_namespaces();
        test();
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let chosen: Vec<_> =
        tests.iter().filter(|(name, _)| filter.as_ref().is_none_or(|f| name.contains(f.as_str()))).collect();
    let _guests = guest::compile_all();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for (name, _) in &chosen {
        let started = Instant::now();
        let outcome = run_child(name);
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", started.elapsed().as_millis());
        if let Err(why) = outcome {
            failed.push((name, why));
        }
    }
    for (name, why) in &failed {
        println!("\n---- {name} ----\n{why}");
    }
    println!("\ntest result: {} passed; {} failed\n", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_child(name: &str) -> Result<(), String> {
    let log = tempfile::NamedTempFile::new().expect("a log file");
    let file = log.reopen().expect("the log file");
    let cgroup = Cgroup::new(name);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(CHILD, name)
        .env(PIDS, cgroup.as_ref().map(|cgroup| cgroup.0.clone()).unwrap_or_default())
        .stdout(file.try_clone().expect("a descriptor"))
        .stderr(file)
        .spawn()
        .expect("a child process");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("to wait") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("to kill");
            let _reaped = child.wait();
            return Err(format!("no end after {PATIENCE:?}\n{}", read(log.path())));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if status.success() {
        // What a test says about itself ("skipped: ...").
        print!("{}", read(log.path()));
        return Ok(());
    }
    Err(format!("exit {:?}, signal {:?}\n{}", status.code(), status.signal(), read(log.path())))
}

/// A pids cgroup, version 1 or 2, removed at the end.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        roots.iter().find_map(|root| {
            let path = Path::new(root).join(format!("bulkhead-platform-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).ok()?;
            let cgroup = Self(path);
            cgroup.0.join("pids.max").exists().then_some(cgroup)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the last of the test's processes is reaped by the host.
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The test's own pids cgroup.
pub fn pids_cgroup() -> Option<std::path::PathBuf> {
    std::env::var_os(PIDS).filter(|path| !path.is_empty()).map(Into::into)
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Goes on in a child that is PID 1 of a new pid namespace with its own /proc; the parent waits and passes the
/// status on.
fn enter_namespaces() {
    // SAFETY: plain numbers; this process has a single thread.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    // SAFETY: as above.
    if unsafe { libc::unshare(flags) } != 0 {
        let name = std::env::var(CHILD).unwrap_or_default();
        println!("skipped: {name}: no user, pid and mount namespaces: {}", std::io::Error::last_os_error());
        std::process::exit(0);
    }
    std::fs::write("/proc/self/setgroups", "deny").expect("setgroups");
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("uid_map");
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("gid_map");
    // SAFETY: fork in a process with one thread.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child > 0 {
        let mut status = 0;
        // SAFETY: `status` is live.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 99 };
        std::process::exit(code);
    }
    // SAFETY: plain numbers and live strings.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        assert_eq!(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), 0, "private mounts");
        let proc = c"proc".as_ptr();
        assert_eq!(libc::mount(proc, c"/proc".as_ptr(), proc, 0, none.cast()), 0, "a /proc");
    } // The sentry has no capabilities.
    let header = [0x2008_0522u32, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 of the structures, live.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }, 0, "capset");
}
