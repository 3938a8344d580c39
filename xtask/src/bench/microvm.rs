//! `bench microvm`: from power-on to a job in a guest, what its kernel costs there, and what its VMM costs the host.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::microvm_peer;
use super::row::{Row, median};
use super::start::Folder;
use crate::{guest, image, run};

/// Goals, of the product's kernel.
const BOOT_MILLIONS: f64 = 10.0;
const OVERHEAD_MIB: f64 = 4.0;
/// Rows of exits; the rest is summed.
const EXIT_ROWS: usize = 8;
/// Runs of what the guest measures of itself; it repeats each thing by itself too.
const INSIDE_RUNS: usize = 3;

/// Limits of the jobs between which a machine's own needs are measured, in MiB.
const LIMITS: [u32; 2] = [64, 512];
/// Prints, in KiB: the machine's memory, what of it is available, and what the job itself has of the rest.
const HELD: &str = "\
dmesg | sed -n 's/.*Memory: [0-9]*K.\\([0-9]*\\)K available.*/\\1/p'
sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo
sed -n 's/^\\(anon\\|kernel\\) //p' /sys/fs/cgroup/memory.stat
";

/// Times a system call and fork+exec+wait by the guest's own clock, and prints both in microseconds.
const INSIDE: &str = "\
import os, time
def per(count, body):
    begin = time.perf_counter()
    for _ in range(count): body()
    return (time.perf_counter() - begin) / count * 1e6
def spawn():
    pid = os.posix_spawn('/bin/busybox', ['true'], {})
    os.waitpid(pid, 0)
spawn()
print(per(300, os.getppid), per(10, spawn))
";

#[derive(Debug, Deserialize)]
struct Report {
    state: String,
    machine: Option<Machine>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    power_on_to_ready_us: u64,
    boot_instructions: Option<u64>,
    own_memory_bytes: u64,
    exits: Vec<Exit>,
}

#[derive(Debug, Deserialize)]
struct Exit {
    reason: String,
    device: Option<String>,
    boot: u64,
}

/// One machine that ran a program.
struct Ran {
    machine: Machine,
    stdout: String,
}

/// Measures `runs` boots, and what a guest says of itself.
pub(super) fn measure(runs: usize) -> Result<Vec<Row>> {
    let place = guest::install()?;
    let folder = Folder::new("microvm")?;
    image::import(&folder.0)?;
    let mut boots = Vec::with_capacity(runs);
    for _ in 0..runs {
        boots.push(machine(&folder.0, "512M", &["/bin/true"])?.machine);
    }
    let mut rows = boot_rows(&boots);
    rows.extend(inside(&folder.0)?);
    rows.extend(held(&folder.0)?);
    rows.extend(microvm_peer::rows(&place, seconds_of(&boots)));
    Ok(rows)
}

/// Runs a program in a machine of this memory limit.
fn machine(data: &Path, memory: &str, program: &[&str]) -> Result<Ran> {
    let report = data.join("report.json");
    let mut command = Command::new(run::product("bulkhead")?);
    command.args(["sandbox", "microvm", "--image", "demo", "--data-dir"]).arg(data);
    command
        .args(["--memory", memory])
        .arg("--report")
        .arg(&report)
        .arg("--")
        .args(program)
        .stdin(Stdio::null());
    let output = command.output().context("bulkhead could not be started")?;
    if !output.status.success() {
        bail!(
            "bulkhead sandbox microvm: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = std::fs::read(&report).context("the report of a microVM")?;
    let report: Report = serde_json::from_slice(&text).context("the report of a microVM")?;
    let machine =
        report.machine.with_context(|| format!("a microVM that ended {} counted nothing", report.state))?;
    Ok(Ran { machine, stdout: String::from_utf8_lossy(&output.stdout).into_owned() })
}

fn seconds_of(boots: &[Machine]) -> f64 {
    median(&mut boots.iter().map(|boot| boot.power_on_to_ready_us as f64 / 1e6).collect::<Vec<_>>())
}

fn boot_rows(boots: &[Machine]) -> Vec<Row> {
    let of = |pick: &dyn Fn(&Machine) -> f64| median(&mut boots.iter().map(pick).collect::<Vec<_>>());
    let note = format!("median of {}", boots.len());
    let counted = boots.iter().all(|boot| boot.boot_instructions.is_some());
    let instructions = counted.then(|| of(&|boot| boot.boot_instructions.unwrap_or(0) as f64 / 1e6));
    let why = if counted {
        "KVM's insn_emulation; by part: docs/microvm.md, The guest's kernel (bulkhead-vmm --profile); "
    } else {
        "this KVM emulates nothing: hardware runs the guest; "
    };
    let mut rows = vec![
        Row {
            goal: Some(BOOT_MILLIONS),
            ..Row::new("boot_instructions", "million", instructions, &format!("{why}{note}"))
        },
        Row::new(
            "power_on_to_ready",
            "s",
            Some(seconds_of(boots)),
            &format!("first instruction to agent; {note}"),
        ),
        Row::new(
            "exits until ready",
            "count",
            Some(of(&|boot| boot.exits.iter().map(|e| e.boot).sum::<u64>() as f64)),
            &note,
        ),
    ];
    let mut by_name: BTreeMap<String, f64> = BTreeMap::new();
    for exit in boots.first().map(|boot| boot.exits.as_slice()).unwrap_or_default() {
        let device = exit.device.as_deref().map(|device| format!(" {device}")).unwrap_or_default();
        *by_name.entry(format!("exits: {}{device}", exit.reason)).or_default() += exit.boot as f64;
    }
    let mut by_count: Vec<(String, f64)> = by_name.into_iter().filter(|(_, count)| *count > 0.0).collect();
    by_count.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rest: f64 = by_count.iter().skip(EXIT_ROWS).map(|(_, count)| count).sum();
    by_count.truncate(EXIT_ROWS);
    rows.extend(
        by_count
            .iter()
            .map(|(name, count)| Row::new(name, "count", Some(*count), "until ready; of the first run")),
    );
    if rest > 0.0 {
        rows.push(Row::new("exits: others", "count", Some(rest), "until ready; of the first run"));
    }
    let overhead = of(&|boot| boot.own_memory_bytes as f64 / f64::from(1 << 20));
    rows.push(Row {
        goal: Some(OVERHEAD_MIB),
        ..Row::new(
            "vmm_overhead",
            "MiB",
            Some(overhead),
            &format!("the VMM beyond the guest's memory, at the end; {note}"),
        )
    });
    rows
}

fn inside(data: &Path) -> Result<Vec<Row>> {
    let (mut calls, mut spawns) = (Vec::new(), Vec::new());
    for _ in 0..INSIDE_RUNS {
        let (call, spawn) = numbers(&machine(data, "64M", &["/usr/bin/python3", "-c", INSIDE])?.stdout)?;
        calls.push(call);
        spawns.push(spawn);
    }
    let mut native = Command::new("python3");
    let native = numbers(&run::output(native.args(["-c", INSIDE]))?)?;
    let note = format!("os.getppid of python3, by the guest's clock; median of {INSIDE_RUNS}");
    let spawn_note = "posix_spawn and wait of busybox true, by the guest's clock";
    Ok(vec![
        Row {
            native: Some(native.0),
            ..Row::new("guest system call", "us", Some(median(&mut calls)), &note)
        },
        Row {
            native: Some(native.1 / 1e3),
            ..Row::new("guest fork+exec", "ms", Some(median(&mut spawns) / 1e3), spawn_note)
        },
    ])
}

/// What a guest's kernel and its agent hold of the machine's memory beside the job, and how it grows with the machine.
fn held(data: &Path) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    for limit in LIMITS {
        let ran = machine(data, &format!("{limit}M"), &["/bin/sh", "-c", HELD])?;
        let kib: Vec<f64> = ran.stdout.lines().filter_map(|line| line.parse().ok()).collect();
        let [all, available, job @ ..] = &kib[..] else {
            bail!("the guest printed {:?} instead of its memory", ran.stdout)
        };
        // The job's own is in bytes.
        found.push((all - available) / 1024.0 - job.iter().sum::<f64>() / f64::from(1 << 20));
    }
    let [small, large] = found[..] else { bail!("two machines were measured") };
    let each = (large - small) * 1024.0 / f64::from(LIMITS[1] - LIMITS[0]);
    let note = "of the machine's memory, not available and not the job's: kernel, page structures, agent";
    Ok(vec![
        Row::new(&format!("guest's own memory, job of {} MiB", LIMITS[0]), "MiB", Some(small), note),
        Row::new(&format!("guest's own memory, job of {} MiB", LIMITS[1]), "MiB", Some(large), note),
        Row::new("guest's own memory for each MiB", "KiB", Some(each), "by the two above"),
    ])
}

fn numbers(text: &str) -> Result<(f64, f64)> {
    let words = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    match words.as_deref() {
        Ok([call, spawn]) => Ok((*call, *spawn)),
        _ => bail!("the guest printed {text:?} instead of two numbers"),
    }
}
