//! Attacks on the handler, its slot and its words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_platform::{Call, GuestThread};

use super::support::guest;
use super::support::kernel::{End, Mini, Ordinary, Policy, TEST_CALL, boot};
use super::{assert_unharmed, attack, config, file_kernel};

pub(crate) fn jump_into_the_handler() {
    let kernel = boot(config(None), Ordinary);
    let (end, printed) = attack(&kernel, "jump", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "mmap 0\nopen 0\nprctl 0\nclone 0\n"));
    assert_unharmed(&kernel);
}

pub(crate) fn jump_escapes_without_consent() {
    let kernel = boot(config(Some("consent")), Ordinary);
    let (_, printed) = attack(&kernel, "jump", &[]);
    assert_eq!(printed, "mmap 1\nopen 1\nprctl 1\nclone 1\n");
}

pub(crate) fn slot_race() {
    let (_file, kernel) = file_kernel(None);
    let (end, printed) = attack(&kernel, "race", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "public\n"));
    assert_unharmed(&kernel);
}

pub(crate) fn slot_race_escapes() {
    let (_file, kernel) = file_kernel(Some("exact consent"));
    let (end, printed) = attack(&kernel, "race", &[]);
    let notes = kernel.notes.lock().expect("notes").clone();
    assert_eq!((end, printed.as_str()), (End::Exited(1), "secret\n"), "{notes:?}");
}

/// The test call tells a process's host pid.
struct HostPids;

impl Policy for HostPids {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let ours = call.nr == TEST_CALL;
        if ours {
            thread.ret(kernel.host_pid(call.args[0]).unwrap_or(0).into());
        }
        ours
    }
}

pub(crate) fn forged_identity() {
    let kernel = boot(config(None), HostPids);
    let (end, printed) = attack(&kernel, "identity", &[]);
    assert_eq!(end, End::Exited(0), "{printed}");
    assert!(printed.contains("untouched") && printed.contains("child set"), "{printed}");
    assert_unharmed(&kernel);
}

pub(crate) fn forged_identity_escapes() {
    let kernel = boot(config(Some("kernel identity")), HostPids);
    let program = guest::program("identity");
    kernel.spawn(&program, &[]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !kernel.printed().contains("overwritten") {
        assert!(Instant::now() < deadline, "the victim is unharmed: {}", kernel.printed());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn dies_at_a_trap(how: &str) {
    let kernel = boot(config(None), Ordinary);
    let (end, printed) = attack(&kernel, "unmapped", &[how]);
    assert_eq!((end, printed.as_str()), (End::Signaled(libc::SIGSEGV), "plain calls work\n"));
    assert_unharmed(&kernel);
}

pub(crate) fn unmapped_stub_page() {
    dies_at_a_trap("munmap");
}

pub(crate) fn unreadable_stub_page() {
    dies_at_a_trap("protect");
}

pub(crate) fn unmapped_slot() {
    dies_at_a_trap("slot");
}

pub(crate) fn unmapped_escapes_without_trap() {
    let kernel = boot(config(Some("trap")), Ordinary);
    let (_, printed) = attack(&kernel, "unmapped", &["munmap"]);
    assert_eq!(printed, "plain calls work\nforked\n");
}

/// Processes of this pid namespace, the sentry, its zygote and warm stubs included.
fn host_processes() -> usize {
    let is_process =
        |name: &std::ffi::OsStr| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter(|entry| is_process(&entry.file_name()))
        .count()
}

/// A million forks: 20 processes with 50,000 attempts each, of which 19 succeed.
pub(crate) fn fork_bomb() {
    let kernel = boot(config(None), Ordinary);
    let program = guest::program("bomb");
    let pid = kernel.spawn(&program, &[]);
    let deadline = Instant::now() + Duration::from_secs(240);
    let told = || kernel.printed().matches('\n').count();
    while told() < kernel.process_limit {
        assert!(Instant::now() < deadline, "{}", kernel.printed());
        assert!(kernel.alive() <= kernel.process_limit);
        std::thread::sleep(Duration::from_millis(5));
    }
    // The lines of the processes mix, but none was allowed its last fork.
    assert_eq!(kernel.printed().matches("-11").count(), kernel.process_limit, "{}", kernel.printed());
    assert_eq!(kernel.processes_ever(), kernel.process_limit);
    // One warm stub more may be there than is wanted, while one is handed over.
    let warm = 3;
    assert!(host_processes() <= kernel.process_limit + warm + 2, "{}", host_processes());
    kernel.stub_of(pid).kill();
    kernel.wait(pid);
}

pub(crate) fn fork_bomb_through_the_handler() {
    let kernel = boot(config(None), Ordinary);
    let (end, printed) = attack(&kernel, "bomb", &["jump"]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "last -1\n"));
    assert!(host_processes() < 20, "{}", host_processes());
    assert_unharmed(&kernel);
}

pub(crate) fn fork_bomb_escapes() {
    let kernel = boot(config(Some("consent")), Ordinary);
    let (_, printed) = attack(&kernel, "bomb", &["jump"]);
    assert_eq!(printed, "last 1\n");
    assert!(host_processes() > 60, "{}", host_processes());
}

/// Scribblers and liars may crash, go on or hang; they must die when they are killed, and hurt nobody else.
fn hammer(how: &str, seeds: u32) {
    let kernel = boot(config(None), Ordinary);
    let program = guest::program("hammer");
    for seed in 0..seeds {
        let pid = kernel.spawn(&program, &[&seed.to_string(), how]);
        kernel.wait_or_kill(pid, Duration::from_millis(200));
    }
    assert_unharmed(&kernel);
}

pub(crate) fn scribbled_frames() {
    hammer("frames", 20);
}

pub(crate) fn forged_bells() {
    hammer("bells", 30);
}
