//! Processes, as /proc shows them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Ends a process at once; one that has gone is no error.
pub(crate) fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 1).expect("a process of ours");
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("process {pid:?} can't be killed: {error}"),
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state.as_str(), "Z" | "X"))
}

/// State and parent.
fn stat(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the last one closes it.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// All processes whose parent is `pid`, zombies included.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|child| stat(*child).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// A process's command line, words apart by spaces; empty for one that has gone.
pub(crate) fn command_of(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()
}

/// What a process has open: for each kind (a file's path, `socket`, `pipe`, ...) how many.
pub(crate) fn descriptors(pid: i32) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return counts };
    for target in entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let text = target.display().to_string();
        let kind = text.split(":[").next().unwrap_or(&text);
        // A sandbox's control groups have its id in their names.
        let plain = |part: &&str| uuid::Uuid::try_parse(part).is_err();
        let kind = kind.split('/').filter(plain).collect::<Vec<_>>().join("/");
        *counts.entry(kind).or_insert(0) += 1;
    }
    counts
}
