//! What a sandbox costs while its job does nothing, and how much its own side takes at most.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::contender::{Contender, Place};
use super::row::Row;

const MIB: f64 = (1 << 20) as f64;
/// How long a contender is watched while it is idle.
const WATCHED: Duration = Duration::from_secs(10);
/// What a sandbox may need beyond the image and the job, in MiB.
const PSS_GOAL: f64 = 4.0;
/// What the node reserves for a sandbox's own side (`RESERVE_BYTES` of the launcher), in MiB.
const RESERVE: f64 = 64.0;
/// Says that it is there, and waits.
const IDLE: &str = "echo there; exec sleep 1000";
/// A job that keeps its sandbox's own side busy: many processes, files, pipes with something in them, and threads.
const BUSY: &str = r#"
import os, threading, time
os.makedirs("/tmp/many")
for i in range(20000):
    with open(f"/tmp/many/{i}", "w") as f: f.write("x" * (i % 300))
kept = [open(f"/tmp/many/{i}") for i in range(900)]
pipes = []
for i in range(40):
    r, w = os.pipe(); os.write(w, b"x" * 65536); pipes += [r, w]
children = []
for i in range(250):
    pid = os.fork()
    if pid == 0: time.sleep(1000)
    children.append(pid)
for i in range(50): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
for name in os.listdir("/tmp/many"): os.stat("/tmp/many/" + name)
print("there", flush=True)
time.sleep(1000)
"#;

/// A contender that runs, killed and cleaned up when it is dropped.
struct Running {
    child: Child,
    contender: Contender,
    /// Ends what the contender would leave.
    end: Option<Command>,
}

impl Running {
    /// Starts a program and waits until it says that it is there.
    fn start(contender: Contender, place: &Place, program: &[&str]) -> Result<Self> {
        let mut command = contender.command(place, program, 0)?;
        let child = command.stderr(Stdio::null()).spawn();
        let mut child = child.with_context(|| format!("{} could not be started", contender.name()))?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let end = contender.removal(place, 0);
        let running = Self { child, contender, end };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("it can't be read")?;
        if line.trim() != "there" {
            bail!("{} did not run the program", contender.name());
        }
        Ok(running)
    }

    /// All processes that it has started.
    fn processes(&self) -> Vec<u32> {
        let parents = parents();
        let mut found = vec![self.child.id()];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(parents.iter().filter(|(_, its)| **its == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        found.remove(0);
        found
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.contender == Contender::Ours {
            // A request, not SIGKILL: what a sandbox has on the host is its launcher's to remove.
            let pid = self.child.id().to_string();
            let _told = Command::new("kill").args(["-TERM", &pid]).status();
        } else {
            if let Some(end) = &mut self.end {
                let _removed = end.stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
            let _dead = self.child.kill();
        }
        let _ended = self.child.wait();
    }
}

/// Each process's parent.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// Proportional memory of a process: of everything but the image's files, and of those, in bytes.
fn proportional(pid: u32, place: &Place) -> (f64, f64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let folders = [place.root.to_string_lossy(), place.data.to_string_lossy()];
    let (mut own, mut image, mut of_image) = (0.0, 0.0, false);
    for line in maps.lines() {
        if let Some(rest) = line.strip_prefix("Pss:") {
            let kib: f64 = rest.trim_end_matches("kB").trim().parse().unwrap_or(0.0);
            *(if of_image { &mut image } else { &mut own }) += kib * 1024.0;
        } else if line.split_whitespace().next().is_some_and(|first| first.contains('-')) {
            of_image =
                folders.iter().any(|folder| line.contains(folder.as_ref())) || line.contains("/usr/lib/");
        }
    }
    (own, image)
}

/// Nanoseconds that the processes' threads have run.
fn ran(pids: &[u32]) -> f64 {
    let threads = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    let times = threads.flat_map(|entries| entries.flatten()).filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    times.sum()
}

/// What our sandbox's own side holds and nobody can take from it (its heap, and the host's kernel's memory for it), in
/// bytes, by its control group of either version. Its page cache is left out: that gives way at the limit.
fn held(pid: u32) -> Option<f64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = |controllers: &str| {
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        lines.find_map(|mut parts| (parts.next()? == controllers).then(|| parts.next()).flatten())
    };
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    let stat = |text: &str, key: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    };
    if let Some(path) = path("memory") {
        let group = PathBuf::from("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
        let kernel: f64 = read(group.join("memory.kmem.usage_in_bytes"))?.trim().parse().ok()?;
        return Some(stat(&read(group.join("memory.stat"))?, "rss")? + kernel);
    }
    let group = PathBuf::from("/sys/fs/cgroup").join(path("")?.trim_start_matches('/'));
    let text = read(group.join("memory.stat"))?;
    Some(stat(&text, "anon")? + stat(&text, "kernel").or_else(|| stat(&text, "slab"))?)
}

/// The rows `idle_pss`, `idle_cpu` and those of the own side.
pub(super) fn measure(place: &Place) -> Result<Vec<Row>> {
    let contenders = [Contender::Ours, Contender::Bubblewrap, Contender::Runsc];
    let mut running = Vec::new();
    let mut missing = Vec::new();
    for contender in contenders {
        match Running::start(contender, place, &["/bin/sh", "-c", IDLE]) {
            Ok(started) => running.push(started),
            Err(error) if contender == Contender::Ours => return Err(error),
            Err(error) => missing.push((contender, format!("missing: {error:#}"))),
        }
    }
    let processes: Vec<Vec<u32>> = running.iter().map(Running::processes).collect();
    let before: Vec<f64> = processes.iter().map(|pids| ran(pids)).collect();
    std::thread::sleep(WATCHED);
    let mut figures = Vec::new();
    for ((contender, pids), before) in running.iter().map(|r| r.contender).zip(&processes).zip(before) {
        let cpu = (ran(pids) - before) / 1e6;
        let memory: Vec<(f64, f64)> = pids.iter().map(|pid| proportional(*pid, place)).collect();
        let own: f64 = memory.iter().map(|(own, _)| own).sum();
        let image: f64 = memory.iter().map(|(_, image)| image).sum();
        figures.push((contender, own / MIB, image / MIB, cpu, pids.len()));
    }
    let mut rows = compared(&figures, &missing);
    let idle = running.first().map(Running::processes).unwrap_or_default();
    rows.push(own_side(
        "own side, idle",
        &idle,
        "heap and kernel memory of the sentry's control group; goal: the reserve",
    ));
    drop(running);
    let busy = Running::start(Contender::Ours, place, &["/usr/bin/python3", "-c", BUSY])?;
    let note = "250 processes, 50 threads, 20,000 files, 900 open, 40 full pipes; goal: the reserve";
    rows.push(own_side("own side, busy", &busy.processes(), note));
    Ok(rows)
}

/// Name, memory of its own and of the image in MiB, milliseconds of processor time, processes.
type Figures = (Contender, f64, f64, f64, usize);

fn compared(figures: &[Figures], missing: &[(Contender, String)]) -> Vec<Row> {
    let Some((ours, peers)) = figures.split_first() else { return Vec::new() };
    let note = format!(
        "{} processes, image's pages {:.1} MiB more; runtime and idle program, without the launcher",
        ours.4, ours.2
    );
    let mut rows = Vec::new();
    for (name, unit, goal, pick) in [
        ("idle_pss", "MiB", PSS_GOAL, (|f: &Figures| f.1) as fn(&Figures) -> f64),
        ("idle_cpu", "ms in 10 s", 0.0, |f: &Figures| f.3),
    ] {
        let row = |peer: Contender, value: Option<f64>, note: &str| Row {
            name: name.to_owned(),
            unit,
            ours: Some(pick(ours)),
            native: None,
            peer: value,
            peer_name: Some(peer.name().to_owned()),
            // Nothing is infinitely better than something.
            ratio: value.filter(|_| pick(ours) > 0.0).map(|value| value / pick(ours)),
            goal: Some(goal),
            note: note.to_owned(),
        };
        rows.extend(peers.iter().map(|peer| row(peer.0, Some(pick(peer)), &note)));
        rows.extend(missing.iter().map(|(peer, why)| row(*peer, None, why)));
    }
    rows
}

fn own_side(name: &str, processes: &[u32], note: &str) -> Row {
    Row {
        name: name.to_owned(),
        unit: "MiB",
        ours: processes.first().and_then(|sentry| held(*sentry)).map(|bytes| bytes / MIB),
        native: None,
        peer: None,
        peer_name: None,
        ratio: None,
        goal: Some(RESERVE),
        note: note.to_owned(),
    }
}
