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
/// What the node reserves for a sandbox's own side, in MiB: the hard bound that the peaks are held against.
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
}

impl Running {
    /// Starts a program and waits until it says that it is there.
    fn start(contender: Contender, place: &Place, program: &[&str]) -> Result<Self> {
        let mut command = contender.command(place, program, 0)?;
        let child = command.stderr(Stdio::null()).spawn();
        let mut child = child.with_context(|| format!("{} could not be started", contender.name()))?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let running = Self { child, contender };
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
        // A request, not SIGKILL: what a sandbox has on the host is its launcher's to remove.
        let pid = self.child.id().to_string();
        let _told = Command::new("kill").args(["-TERM", &pid]).status();
        if self.contender == Contender::Bubblewrap {
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
            of_image = folders.iter().any(|folder| line.contains(folder.as_ref())) || line.contains("/usr/lib/");
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

/// A file of a control group of our sandbox's own side, as a number; of either version of control groups.
fn own_group(pid: u32, files: [&str; 2]) -> Option<f64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup".to_owned(), files[1]),
            "memory" => ("/sys/fs/cgroup/memory".to_owned(), files[0]),
            _ => return None,
        };
        let file = PathBuf::from(root).join(path).join(file);
        fs::read_to_string(file).ok()?.trim().parse().ok()
    })
}

/// The rows `idle_pss`, `idle_cpu` and those of the own side's peak.
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
    rows.push(peak("own side's peak, idle", &idle, "sentry's control group with its kernel memory; goal: the reserve"));
    drop(running);
    let busy = Running::start(Contender::Ours, place, &["/usr/bin/python3", "-c", BUSY])?;
    let note = "250 processes, 50 threads, 20,000 files, 900 open, 40 full pipes; goal: the reserve";
    rows.push(peak("own side's peak, busy", &busy.processes(), note));
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

fn peak(name: &str, processes: &[u32], note: &str) -> Row {
    let sentry = processes.first();
    let bytes = sentry.and_then(|pid| own_group(*pid, ["memory.max_usage_in_bytes", "memory.peak"]));
    Row {
        name: name.to_owned(),
        unit: "MiB",
        ours: bytes.map(|bytes| bytes / MIB),
        native: None,
        peer: None,
        peer_name: None,
        ratio: None,
        goal: Some(RESERVE),
        note: note.to_owned(),
    }
}
