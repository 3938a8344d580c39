//! What an attempt came to: a pure function of what was seen.

use bulkhead_types::{AttemptState, Limits, Termination, Usage};
use bulkhead_wire::ExitReport;

/// Why the launcher ended the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Its owner, or the node, asked for it.
    Cancelled,
    /// The wall time limit passed.
    WallTime,
    /// The CPU time limit was used up.
    CpuTime,
    /// It wrote more output than allowed.
    Output,
}

/// The terminal state and the reason for a person, of a job whose first process ended as `report` says.
pub(super) fn judge(
    report: &ExitReport,
    usage: &Usage,
    limits: &Limits,
    stop: Option<Stop>,
) -> (AttemptState, String) {
    if let Some(stop) = stop {
        return stopped(stop, usage, limits);
    }
    if report.termination == Termination::Exited(0) {
        return (AttemptState::Succeeded, with_events("exited with status 0".into(), usage, limits));
    }
    let how = how_it_ended(report);
    if usage.oom_kills > 0 {
        return (AttemptState::OutOfMemory, format!("{}; {how}", out_of_memory(usage, limits)));
    }
    if usage.disk_limit_hits > 0 {
        return (AttemptState::DiskLimit, format!("{}; {how}", disk_full(usage, limits)));
    }
    if !report.unsupported_syscalls.is_empty() {
        let names: Vec<_> = report.unsupported_syscalls.iter().map(|c| c.name.as_str()).collect();
        let text =
            format!("needs system calls that this sandbox does not have ({}); {how}", names.join(", "));
        return (AttemptState::Unsupported, text);
    }
    let state = match report.termination {
        Termination::Exited(_) => AttemptState::Failed,
        Termination::Signaled(_) => AttemptState::Signaled,
    };
    (state, how)
}

/// The same for a job that was ended together with its sandbox.
pub(super) fn stopped(stop: Stop, usage: &Usage, limits: &Limits) -> (AttemptState, String) {
    match stop {
        Stop::Cancelled => (AttemptState::Cancelled, "cancelled".to_owned()),
        Stop::WallTime => (
            AttemptState::TimedOut,
            format!("ran longer than its wall time limit of {}", seconds(limits.wall_time_ms)),
        ),
        Stop::CpuTime => {
            let used = (usage.cpu_user_us + usage.cpu_system_us) / 1000;
            let limit = seconds(limits.cpu_time_ms);
            (AttemptState::TimedOut, format!("used {} of cpu, its cpu time limit is {limit}", seconds(used)))
        }
        Stop::Output => (
            AttemptState::OutputLimit,
            format!("wrote more than its output limit of {}", bytes(limits.output_bytes)),
        ),
    }
}

pub(super) fn out_of_memory(usage: &Usage, limits: &Limits) -> String {
    let (kills, s) = (usage.oom_kills, if usage.oom_kills == 1 { "" } else { "es" });
    format!(
        "hit its memory limit of {}: {kills} process{s} killed, peak {}",
        bytes(limits.memory_bytes),
        bytes(usage.peak_memory_bytes)
    )
}

fn disk_full(usage: &Usage, limits: &Limits) -> String {
    format!(
        "hit its disk limit of {}: {} writes failed, peak {}",
        bytes(limits.disk_bytes),
        usage.disk_limit_hits,
        bytes(usage.peak_disk_bytes)
    )
}

/// A job that exited 0 is a success; what happened on the way is still told.
fn with_events(text: String, usage: &Usage, limits: &Limits) -> String {
    let mut parts = vec![text];
    if usage.oom_kills > 0 {
        parts.push(out_of_memory(usage, limits));
    }
    if usage.disk_limit_hits > 0 {
        parts.push(disk_full(usage, limits));
    }
    parts.join("; ")
}

fn how_it_ended(report: &ExitReport) -> String {
    match (&report.start_problem, report.termination) {
        (Some(problem), _) => problem.clone(),
        (None, Termination::Exited(code)) => format!("exited with status {code}"),
        (None, Termination::Signaled(signal)) => match signal_name(signal) {
            Some(name) => format!("ended by signal {signal} ({name})"),
            None => format!("ended by signal {signal}"),
        },
    }
}

fn signal_name(signal: u8) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL, illegal instruction",
        5 => "SIGTRAP",
        6 => "SIGABRT, aborted",
        7 => "SIGBUS, bus error",
        8 => "SIGFPE, arithmetic error",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV, invalid memory access",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Milliseconds as seconds, without needless zeroes.
fn seconds(ms: u64) -> String {
    match ms % 1000 {
        0 => format!("{} s", ms / 1000),
        rest => format!("{}.{} s", ms / 1000, format!("{rest:03}").trim_end_matches('0')),
    }
}

/// Bytes in the largest unit that divides them to at least one, with one decimal where it is not whole.
fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, size) in UNITS {
        if n >= size {
            let tenths = (n % size) * 10 / size;
            return if tenths == 0 {
                format!("{} {name}", n / size)
            } else {
                format!("{}.{tenths} {name}", n / size)
            };
        }
    }
    format!("{n} bytes")
}

#[cfg(test)]
mod tests {
    use bulkhead_types::SyscallCount;

    use super::*;

    fn report(termination: Termination) -> ExitReport {
        ExitReport {
            termination,
            start_problem: None,
            usage: Usage::default(),
            top_syscalls: Vec::new(),
            unsupported_syscalls: Vec::new(),
        }
    }

    fn state(report: &ExitReport, usage: &Usage, stop: Option<Stop>) -> AttemptState {
        let (state, reason) = judge(report, usage, &Limits::default(), stop);
        assert!(!reason.is_empty());
        state
    }

    #[test]
    fn a_limit_counts_only_when_the_job_did_not_exit_0() {
        let hits = Usage { oom_kills: 1, disk_limit_hits: 2, ..Usage::default() };
        assert_eq!(state(&report(Termination::Exited(0)), &hits, None), AttemptState::Succeeded);
        assert_eq!(state(&report(Termination::Exited(1)), &hits, None), AttemptState::OutOfMemory);
        assert_eq!(state(&report(Termination::Signaled(9)), &hits, None), AttemptState::OutOfMemory);
        let disk = Usage { oom_kills: 0, ..hits };
        assert_eq!(state(&report(Termination::Exited(1)), &disk, None), AttemptState::DiskLimit);
        let (_, reason) = judge(&report(Termination::Exited(0)), &hits, &Limits::default(), None);
        assert!(reason.contains("memory limit of 512 MiB: 1 process killed"), "{reason}");
    }

    #[test]
    fn what_the_launcher_stopped_is_what_it_was_stopped_for() {
        for (stop, want, word) in [
            (Stop::Cancelled, AttemptState::Cancelled, "cancelled"),
            (Stop::WallTime, AttemptState::TimedOut, "wall time limit of 600 s"),
            (Stop::CpuTime, AttemptState::TimedOut, "cpu time limit is 600 s"),
            (Stop::Output, AttemptState::OutputLimit, "output limit of 16 MiB"),
        ] {
            for termination in [Termination::Exited(0), Termination::Signaled(15), Termination::Signaled(9)] {
                let (state, reason) =
                    judge(&report(termination), &Usage::default(), &Limits::default(), Some(stop));
                assert_eq!(state, want);
                assert!(reason.contains(word), "{reason}");
            }
        }
    }

    #[test]
    fn ends_by_itself() {
        let none = Usage::default();
        assert_eq!(state(&report(Termination::Exited(3)), &none, None), AttemptState::Failed);
        assert_eq!(state(&report(Termination::Signaled(11)), &none, None), AttemptState::Signaled);
        let mut lacking = report(Termination::Exited(1));
        lacking.unsupported_syscalls.push(SyscallCount { name: "frob".into(), count: 1 });
        assert_eq!(state(&lacking, &none, None), AttemptState::Unsupported);
        lacking.termination = Termination::Exited(0);
        assert_eq!(state(&lacking, &none, None), AttemptState::Succeeded);
        let missing = ExitReport {
            start_problem: Some("/bin/x: no such file".into()),
            ..report(Termination::Exited(127))
        };
        assert_eq!(
            judge(&missing, &none, &Limits::default(), None),
            (AttemptState::Failed, "/bin/x: no such file".into())
        );
    }

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(
            (bytes(1 << 20), bytes(1536), bytes(5)),
            ("1 MiB".into(), "1.5 KiB".into(), "5 bytes".into())
        );
        assert_eq!(
            (seconds(1500), seconds(60_000), seconds(5)),
            ("1.5 s".into(), "60 s".into(), "0.005 s".into())
        );
    }
}
