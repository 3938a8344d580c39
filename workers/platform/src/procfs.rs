//! What the host's /proc tells about a stub.

use std::fs;

use crate::layout;
use crate::stub::{Mapping, Usage};

pub(crate) fn usage(pid: i32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the command name, which may hold anything: field 3 on.
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Some(Usage {
        cpu_ns: cpu_ns(pid),
        user_ticks: field(14),
        system_ticks: field(15),
        resident: kib("VmRSS:"),
        peak_resident: kib("VmHWM:"),
        minor_faults: field(10),
        major_faults: field(12),
    })
}

/// Whether a thread waits in the host's kernel.
pub(crate) fn sleeps(pid: i32, tid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
}

/// Processor time of one thread, in nanoseconds.
pub(crate) fn thread_cpu_ns(pid: i32, tid: i32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time of all threads, also of those that are gone, in nanoseconds.
pub(crate) fn cpu_ns(pid: i32) -> u64 {
    crate::host::process_cpu_ns(pid).unwrap_or_else(|| living_cpu_ns(pid))
}

/// Sum over the living threads.
fn living_cpu_ns(pid: i32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let on_cpu = |task: fs::DirEntry| -> Option<u64> {
        let line = fs::read_to_string(task.path().join("schedstat")).ok()?;
        line.split_whitespace().next()?.parse().ok()
    };
    tasks.flatten().filter_map(on_cpu).sum()
}

/// Every mapping of the process but the stub's own.
pub(crate) fn maps(pid: i32) -> Option<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    Some(text.lines().filter_map(parse).filter(|mapping| !layout::is_hidden(mapping.start)).collect())
}

pub(crate) fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes().try_into().ok()?;
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        permissions,
        offset: hex(offset)?,
        device: (hex(major)? as u32, hex(minor)? as u32),
        inode: inode.parse().ok()?,
        name: fields.next().unwrap_or("").trim_start().to_owned(),
    })
}
