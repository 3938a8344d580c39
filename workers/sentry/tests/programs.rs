//! Real programs in real sandboxes: what they print must be what a Linux kernel makes them print.

#[allow(dead_code, reason = "each test uses its part of it")]
mod support;

use std::process::Command;

use bulkhead_sandbox::ImageFiles;
use bulkhead_types::{AttemptState, Termination};
use support::{Run, root};

/// Runs a guest natively and in a sandbox; both must print the same and end the same.
fn as_natively(guest: &str) {
    let native = Command::new(root::native(guest)).output().expect("runs");
    let ran = Run::new(&[&format!("/bin/{guest}")]).go();
    assert_eq!(ran.stdout, String::from_utf8_lossy(&native.stdout), "{ran:?}");
    assert_eq!(ran.finished.termination, native.status.code().map(|code| Termination::Exited(code as u8)));
}

#[test]
fn signals_are_as_on_linux() {
    as_natively("signals");
}

#[test]
fn processes_are_as_on_linux() {
    as_natively("processes");
}

#[test]
fn mappings_are_as_on_linux() {
    as_natively("memory");
}

#[test]
fn a_pipeline_of_the_shell() {
    let ran = Run::shell("echo hello | tr a-z A-Z; cat; seq 1 100 | sort -rn | head -n 1; exit 3")
        .stdin(b"from standard input\n")
        .go();
    assert_eq!(ran.stdout, "HELLO\nfrom standard input\n100\n", "{ran:?}");
    assert_eq!((ran.state(), ran.finished.termination), (AttemptState::Failed, Some(Termination::Exited(3))));
}

#[test]
fn scripts_name_their_interpreter() {
    let ran = Run::new(&["/bin/script", "one"]).go();
    assert_eq!((ran.stdout.as_str(), ran.state()), ("script /bin/script one\n", AttemptState::Succeeded));
}

#[test]
fn what_can_not_be_started_is_told() {
    for (program, code, reason) in [
        ("/bin/nothing", 127, "not found"),
        ("nothing", 127, "not found"),
        ("/bin/plain", 126, "permission denied"),
        ("/bin/foreign", 126, "not a program for this machine"),
    ] {
        let ran = Run::new(&[program]).go();
        assert_eq!(ran.finished.termination, Some(Termination::Exited(code)), "{program}: {ran:?}");
        assert!(ran.reason().contains(reason), "{program}: {ran:?}");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    }
}

#[test]
fn a_signal_of_its_own_making_ends_a_job() {
    let ran = Run::shell("kill -SEGV $$").go();
    assert_eq!(
        (ran.state(), ran.finished.termination),
        (AttemptState::Signaled, Some(Termination::Signaled(11)))
    );
    assert!(ran.reason().contains("SIGSEGV"), "{ran:?}");
}

#[test]
fn children_that_are_left_behind_end_with_the_first_process() {
    let ran = Run::shell("sleep 1000 & sleep 1000 & exit 0").go();
    assert_eq!(ran.state(), AttemptState::Succeeded, "{ran:?}");
}

#[test]
fn processes_that_fork_without_end_end_with_the_job() {
    let forks = "(while :; do (:) & done) & (while :; do (:) & done) &";
    for _ in 0..5 {
        let ran = Run::shell(&format!("{forks} sleep 0.1; exit 0")).go();
        assert_eq!(ran.state(), AttemptState::Succeeded, "{ran:?}");
    }
    let ran = Run::shell(&format!("{forks} while :; do (:) & done"))
        .limits(|limits| limits.wall_time_ms = 300)
        .go();
    assert_eq!(ran.state(), AttemptState::TimedOut, "{ran:?}");
    // Only the sentry itself knows this: it ended in order, and was not killed for not ending.
    assert!(!ran.finished.top_syscalls.is_empty(), "{ran:?}");
}

#[test]
fn zombies_of_orphans_do_not_pile_up() {
    // Each subshell leaves an orphan that ends at once; the first process waits for none of them.
    let ran =
        Run::shell("for i in $(seq 1 30); do (sleep 0.01 &) ; done; sleep 0.5; ls -d /proc/[0-9]* | wc -l")
            .go();
    let left: u32 = ran.stdout.trim().parse().expect("a number");
    assert!(left < 8, "{ran:?}");
}

#[test]
fn a_fork_bomb_meets_the_limit() {
    let ran = Run::shell("n=0; while sleep 1000 & do n=$((n+1)); [ $n -lt 200 ] || break; done; echo never")
        .limits(|limits| limits.processes = 20)
        .go();
    assert!(ran.stderr.contains("temporarily unavailable"), "{ran:?}");
    assert!(!ran.stdout.contains("never"), "{ran:?}");
}

#[test]
fn limits_end_a_job_and_are_told() {
    let wall = Run::shell("while :; do :; done").limits(|limits| limits.wall_time_ms = 500).go();
    assert_eq!(wall.state(), AttemptState::TimedOut, "{wall:?}");
    assert!(wall.reason().contains("wall"), "{wall:?}");
    let cpu = Run::shell("while :; do :; done").limits(|limits| limits.cpu_time_ms = 300).go();
    assert_eq!(cpu.state(), AttemptState::TimedOut, "{cpu:?}");
    assert!(cpu.reason().contains("cpu"), "{cpu:?}");
    let memory =
        Run::shell("x=x; while :; do x=$x$x; done").limits(|limits| limits.memory_bytes = 32 << 20).go();
    assert_eq!(memory.state(), AttemptState::OutOfMemory, "{memory:?}");
}

#[test]
fn inputs_go_in_and_outputs_come_out() {
    let ran = Run::shell("cat /work/in > /work/out.txt; /work/in; echo more >> /work/out.txt")
        .input("/work/in", b"#!/bin/sh\necho ran\n")
        .output("/work/*.txt")
        .go();
    assert_eq!(ran.stdout, "ran\n", "{ran:?}");
    assert_eq!(ran.outputs, [("/work/out.txt".to_owned(), b"#!/bin/sh\necho ran\nmore\n".to_vec())]);
}

#[test]
fn calls_are_counted() {
    let ran = Run::shell("for i in $(seq 1 50); do kill -0 $$; done").go();
    let kills = ran.finished.top_syscalls.iter().find(|call| call.name == "kill");
    assert!(kills.is_some_and(|call| call.count >= 50), "{ran:?}");
    assert_eq!(ran.finished.unsupported_syscalls, [], "{ran:?}");
}

#[test]
fn the_job_sees_its_limits() {
    let ran =
        Run::shell("grep -c processor /proc/cpuinfo || cat /proc/cpuinfo | wc -l; head -n 1 /proc/meminfo")
            .limits(|limits| limits.memory_bytes = 64 << 20)
            .go();
    assert!(ran.stdout.contains("65536 kB"), "{ran:?}");
}

/// Python, from the Debian image that `cargo xtask test` makes: `BULKHEAD_TEST_EROFS` is its public EROFS file.
#[test]
fn python_with_processes_and_threads() {
    let Some(public) = std::env::var_os("BULKHEAD_TEST_EROFS") else {
        println!("skipped: python_with_processes_and_threads: BULKHEAD_TEST_EROFS names no image");
        return;
    };
    let program = "import subprocess, threading, multiprocessing\n\
        print(subprocess.run(['echo', 'sub'], capture_output=True, text=True).stdout, end='')\n\
        r = []\n\
        ts = [threading.Thread(target=r.append, args=(i,)) for i in range(10)]\n\
        [t.start() for t in ts]; [t.join() for t in ts]\n\
        print(sorted(r))\n\
        with multiprocessing.Pool(2) as p: print(p.map(abs, range(4)))\n";
    let ran =
        Run::new(&["python3", "-c", program]).image(ImageFiles { public: public.into(), private: None }).go();
    assert_eq!(ran.stdout, "sub\n[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n[0, 1, 2, 3]\n", "{ran:?}");
}
