//! Small files of a process: status, stat, limits and the like.

use std::fmt::Write;
use std::time::Duration;

use super::TaskStatus;
use super::process::View;
use crate::errno::Errno;

/// Clock ticks of a second (USER_HZ).
const TICKS: u128 = 100;
/// Bytes of a page.
const PAGE: u64 = 4096;

fn ticks(time: Duration) -> u64 {
    (time.as_nanos() * TICKS / 1_000_000_000) as u64
}

fn task(view: &View) -> Result<TaskStatus, Errno> {
    view.process.status(view.tid).ok_or(Errno::ESRCH)
}

/// A name as Linux shows it: line breaks and backslashes are escaped.
fn escaped(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// /proc/PID/comm.
pub(super) fn name(view: &View) -> Result<Vec<u8>, Errno> {
    let mut name = task(view)?.name;
    name.push(b'\n');
    Ok(name)
}

/// Writing to /proc/PID/comm.
pub(super) fn set_name(view: &View, data: &[u8]) -> Result<(), Errno> {
    let end = data.iter().position(|byte| matches!(byte, b'\n' | 0)).unwrap_or(data.len());
    view.process.set_name(view.tid, &data[..end.min(15)]);
    Ok(())
}

fn state_name(state: u8) -> &'static str {
    match state {
        b'R' => "running",
        b'D' => "disk sleep",
        b'T' => "stopped",
        b't' => "tracing stop",
        b'Z' => "zombie",
        b'X' => "dead",
        _ => "sleeping",
    }
}

/// /proc/PID/status.
pub(super) fn status(view: &View) -> Result<Vec<u8>, Errno> {
    let task = task(view)?;
    let credentials = view.process.credentials();
    let pid = view.process.pid();
    let mut out = String::new();
    let umask = view.process.fs().map_or(0o022, |fs| fs.umask());
    let _infallible = write!(
        out,
        "Name:\t{}\nUmask:\t{umask:04o}\nState:\t{} ({})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\n\
         TracerPid:\t0\nUid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t{} \n\
         NStgid:\t{pid}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n",
        escaped(&task.name),
        char::from(task.state),
        state_name(task.state),
        view.tid,
        task.parent,
        credentials.uid,
        credentials.euid,
        credentials.suid,
        credentials.fsuid,
        credentials.gid,
        credentials.egid,
        credentials.sgid,
        credentials.fsgid,
        view.process.files().map_or(0, |files| files.size()),
        credentials.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        view.tid,
        task.group,
        task.session,
    );
    if task.state != b'Z' {
        memory_lines(&task, &mut out);
    }
    let _infallible = write!(
        out,
        "Threads:\t{}\nSigQ:\t0/1024\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\n\
         SigCgt:\t{:016x}\nCapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\n\
         CapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t0\n",
        task.threads,
        task.pending,
        task.shared_pending,
        task.blocked,
        task.ignored,
        task.caught,
        credentials.inheritable,
        credentials.permitted,
        credentials.effective,
        credentials.bounding,
        credentials.ambient,
        u8::from(task.no_new_privileges),
        task.seccomp,
    );
    let cpus = view.shared.source.system().cpus.max(1);
    let _infallible = write!(
        out,
        "Cpus_allowed:\t{:x}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
        u64::MAX >> (64 - cpus.min(64)),
        super::system::cpu_list(cpus),
        task.voluntary_switches,
        task.involuntary_switches,
    );
    Ok(out.into_bytes())
}

fn memory_lines(task: &TaskStatus, out: &mut String) {
    let kib = |bytes: u64| bytes / 1024;
    let peak = task.peak_resident_bytes.max(task.resident_bytes);
    let rows = [
        ("VmPeak", task.virtual_bytes),
        ("VmSize", task.virtual_bytes),
        ("VmLck", 0),
        ("VmPin", 0),
        ("VmHWM", peak),
        ("VmRSS", task.resident_bytes),
        ("RssAnon", task.resident_bytes),
        ("RssFile", 0),
        ("RssShmem", 0),
        ("VmData", task.virtual_bytes),
        ("VmStk", 132 << 10),
        ("VmExe", 0),
        ("VmLib", 0),
        ("VmPTE", 0),
        ("VmSwap", 0),
    ];
    for (name, bytes) in rows {
        let _infallible = writeln!(out, "{name}:\t{:8} kB", kib(bytes));
    }
}

/// /proc/PID/stat.
pub(super) fn stat(view: &View) -> Result<Vec<u8>, Errno> {
    let task = task(view)?;
    let mut out = format!("{} (", view.tid).into_bytes();
    out.extend_from_slice(&task.name);
    let fields = [
        i64::from(task.parent),
        i64::from(task.group),
        i64::from(task.session),
        0,
        -1,
        0x0040_0000,
        task.minor_faults as i64,
        0,
        task.major_faults as i64,
        0,
        ticks(task.user_time) as i64,
        ticks(task.system_time) as i64,
        ticks(task.children_user_time) as i64,
        ticks(task.children_system_time) as i64,
        i64::from(20 + task.nice),
        i64::from(task.nice),
        i64::from(task.threads),
        0,
        ticks(task.started) as i64,
        task.virtual_bytes as i64,
        (task.resident_bytes / PAGE) as i64,
    ];
    let mut text = format!(") {}", char::from(task.state));
    for field in fields {
        let _infallible = write!(text, " {field}");
    }
    // rsslim, then addresses that only the owner may see, then signals.
    let _infallible = write!(
        text,
        " {} 1 1 0 0 0 {} {} {} {} {} 0 0 {} 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
        u64::MAX,
        task.pending & 0x7fff_ffff,
        task.blocked & 0x7fff_ffff,
        task.ignored & 0x7fff_ffff,
        task.caught & 0x7fff_ffff,
        u8::from(task.waits_in.is_some()),
        task.exit_signal,
    );
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
    Ok(out)
}

/// /proc/PID/statm.
pub(super) fn statm(view: &View) -> Result<Vec<u8>, Errno> {
    let task = task(view)?;
    let (size, resident) = (task.virtual_bytes / PAGE, task.resident_bytes / PAGE);
    Ok(format!("{size} {resident} 0 1 0 {size} 0\n").into_bytes())
}

/// /proc/PID/schedstat.
pub(super) fn schedule(view: &View) -> Result<Vec<u8>, Errno> {
    let task = task(view)?;
    let switches = task.voluntary_switches + task.involuntary_switches;
    Ok(format!("{} 0 {switches}\n", (task.user_time + task.system_time).as_nanos()).into_bytes())
}

/// /proc/PID/io.
pub(super) fn input_output(view: &View) -> Result<Vec<u8>, Errno> {
    let (read, written, reads, writes) = view.process.input_output();
    Ok(format!(
        "rchar: {read}\nwchar: {written}\nsyscr: {reads}\nsyscw: {writes}\nread_bytes: 0\nwrite_bytes: 0\n\
         cancelled_write_bytes: 0\n"
    )
    .into_bytes())
}

/// /proc/PID/limits.
pub(super) fn limits(view: &View) -> Result<Vec<u8>, Errno> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let shown = |value: u64| if value == u64::MAX { "unlimited".into() } else { value.to_string() };
    let mut out = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in NAMES.iter().zip(view.process.limits()) {
        let _infallible = writeln!(out, "{name:<26}{:<21}{:<21}{unit:<10}", shown(soft), shown(hard));
    }
    Ok(out.into_bytes())
}

/// /proc/PID/mounts.
pub(super) fn mounts(view: &View) -> Result<Vec<u8>, Errno> {
    let vfs = view.shared.vfs()?;
    let line = |mount: &crate::vfs::MountLine| {
        format!("{} {} {} {} 0 0\n", mount.source, mount.target, mount.kind, mount.options)
    };
    Ok(vfs.mounts().iter().map(line).collect::<String>().into_bytes())
}

/// /proc/PID/mountinfo.
pub(super) fn mount_info(view: &View) -> Result<Vec<u8>, Errno> {
    let vfs = view.shared.vfs()?;
    let parent = |target: &str| match target {
        "/" => 1,
        "/dev/shm" => 0x21,
        _ => 0x20,
    };
    let line = |mount: &crate::vfs::MountLine| {
        format!(
            "{} {} 0:{} / {} {} - {} {} rw\n",
            mount.device,
            parent(mount.target),
            mount.device,
            mount.target,
            mount.options,
            mount.kind,
            mount.source
        )
    };
    Ok(vfs.mounts().iter().map(line).collect::<String>().into_bytes())
}

/// /proc/PID/oom_score_adj.
pub(super) fn oom_score_adj(view: &View) -> Result<Vec<u8>, Errno> {
    Ok(format!("{}\n", view.process.oom_score_adjustment()).into_bytes())
}

fn parse(data: &[u8]) -> Result<i32, Errno> {
    std::str::from_utf8(data).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)
}

/// Writing to /proc/PID/oom_score_adj.
pub(super) fn set_oom_score_adj(view: &View, data: &[u8]) -> Result<(), Errno> {
    let value = parse(data)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    if value < view.process.oom_score_adjustment() && view.process.credentials().euid != 0 {
        return Err(Errno::EACCES);
    }
    view.process.set_oom_score_adjustment(value);
    Ok(())
}

/// /proc/PID/oom_adj, the old form.
pub(super) fn oom_adj(view: &View) -> Result<Vec<u8>, Errno> {
    Ok(format!("{}\n", view.process.oom_score_adjustment() * 17 / 1000).into_bytes())
}

/// Writing to /proc/PID/oom_adj.
pub(super) fn set_oom_adj(view: &View, data: &[u8]) -> Result<(), Errno> {
    let value = parse(data)?;
    if !(-17..=15).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let scaled = if value == 15 { 1000 } else { value * 1000 / 17 };
    set_oom_score_adj(view, scaled.to_string().as_bytes())
}
