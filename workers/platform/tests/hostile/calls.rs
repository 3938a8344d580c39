//! Attacks by system calls that are not what they seem.

use std::sync::Arc;

use bulkhead_platform::{Call, GuestThread, Registers};

use super::support::kernel::{End, Mini, Ordinary, Policy, TEST_CALL, boot};
use super::{assert_unharmed, attack, config};

/// Checks a path and then lets the host's kernel open it: what no kernel may do.
struct NaiveOpen;

impl Policy for NaiveOpen {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        match call.nr {
            TEST_CALL => {
                let pid = thread.stub().pid();
                let link = std::fs::read_link(format!("/proc/{pid}/fd/{}", call.args[0]));
                let is_zero = link.is_ok_and(|path| path.as_os_str() == "/dev/zero");
                thread.ret(is_zero.into());
            }
            nr if nr == libc::SYS_openat as u64 => match thread.memory().read_cstr(call.args[1], 64) {
                Ok(path) if path == b"/dev/null" => {
                    kernel.note("checked");
                    thread.native();
                }
                _ => thread.ret(-i64::from(libc::EACCES)),
            },
            _ => return false,
        }
        true
    }
}

pub(crate) fn path_changed() {
    let kernel = boot(config(None), NaiveOpen);
    let (end, printed) = attack(&kernel, "path", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "never\n"));
    assert!(kernel.noted("checked"), "no path has passed the check");
    assert_unharmed(&kernel);
}

pub(crate) fn path_changed_escapes() {
    let kernel = boot(config(Some("continue only native")), NaiveOpen);
    let (end, printed) = attack(&kernel, "path", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(1), "zero\n"));
}

pub(crate) fn other_tables() {
    let kernel = boot(config(None), Ordinary);
    let (end, printed) = attack(&kernel, "abi", &[]);
    let expected = "chdir -38\nexecve -38\nopen -38\nx32 yield -38\nx32 openat -38\nminus one -38\n";
    assert_eq!((end, printed.as_str()), (End::Exited(0), expected));
    assert_unharmed(&kernel);
}

pub(crate) fn other_tables_escape() {
    let kernel = boot(config(Some("architecture first")), Ordinary);
    let (_, printed) = attack(&kernel, "abi", &[]);
    // The host has changed the directory, and looked for the program.
    assert!(printed.starts_with("chdir 0\nexecve -2\n"), "{printed}");
}

/// Answers ENOSYS to everything, and notes what the guest reports.
struct Nothing;

impl Policy for Nothing {
    fn call(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let ours = call.nr != libc::SYS_exit_group as u64;
        if ours {
            thread.ret(-i64::from(libc::ENOSYS));
        }
        ours
    }

    fn trapped(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call, _registers: &Registers) -> bool {
        if (call.nr, call.args[0]) == (libc::SYS_tgkill as u64, 7777) {
            kernel.note(format!("{} {}", call.args[1], call.args[2] as i64));
        }
        thread.ret(0);
        true
    }
}

pub(crate) fn calls_on_no_list() {
    let kernel = boot(config(None), Nothing);
    let (end, _) = attack(&kernel, "rest", &[]);
    assert_eq!(end, End::Exited(0));
    let notes = kernel.notes.lock().expect("notes").clone();
    let expected: Vec<String> = (1..=12).map(|what| format!("{what} -38")).collect();
    assert_eq!(notes, expected);
}

pub(crate) fn calls_on_no_list_escape() {
    let kernel = boot(config(Some("notify the rest")), Nothing);
    attack(&kernel, "rest", &[]);
    let notes = kernel.notes.lock().expect("notes").clone();
    assert_eq!(notes.len(), 12, "{notes:?}");
    // The host has opened a file, made a socket, told its parent's pid.
    for (at, what) in [(0, "1 "), (5, "6 "), (8, "9 ")] {
        let value: i64 = notes[at].strip_prefix(what).expect("the report").parse().expect("a number");
        assert!(value >= 0, "{notes:?}");
    }
}

const ARGUMENTS: &str = "shared anonymous 0\nhuge 0\nlocked 0\nmmap high flags 0\nmmap high prot 0\n\
    mergeable -1\npoison -1\noffline -1\npageout -1\ndontneed 0\nxcomp -38\nshadow stack -38\ncpuid -38\n\
    pi futex -1\nmembarrier -38\ncpu clock -38\ngrows down -1\nimage 0\n";

pub(crate) fn bad_arguments() {
    let kernel = boot(config(None), Ordinary);
    let (end, printed) = attack(&kernel, "arguments", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), ARGUMENTS));
    assert_unharmed(&kernel);
}

pub(crate) fn bad_arguments_escape() {
    let kernel = boot(config(Some("native arguments")), Ordinary);
    let (_, printed) = attack(&kernel, "arguments", &[]);
    assert!(printed.starts_with("shared anonymous 1\n"), "{printed}");
    // Among them a lock that was taken in the name of a host thread.
    assert!(printed.contains("pi futex 0\n") && printed.contains("cpu clock 0\n"), "{printed}");
}
