//! Where each millisecond of a cold sandbox goes, by what its launcher has reached when.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::contender::{Contender, Place};
use super::row::{Row, median};

/// From the milestone before to this one. The launcher tells these, but for the first and the last.
const PHASES: [(&str, &str, &str); 9] = [
    ("begun", "load", "exec of the command to its own first step"),
    ("asked", "prepare", "arguments, control groups' place"),
    ("furnished", "furnish", "groups with limits, uid, scratch; the sentry loads meanwhile"),
    ("ready", "lock in", "groups joined, namespaces, rights dropped, call list, first stub asked for"),
    ("started", "image", "image opened, file systems, threads"),
    ("exited", "run", "program loaded, run to its end"),
    ("ended", "end", "every process dead, namespaces gone"),
    ("removed", "remove", "groups, scratch directory, note"),
    ("over", "leave", "the launcher's own end"),
];

/// One row for each phase of `true`: the median of `runs` starts that tell their phases.
pub(super) fn measure(place: &Place, program: &[&str], runs: usize) -> Result<Vec<Row>> {
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..runs {
        for (reached, milliseconds) in once(place, program)? {
            times.entry(reached).or_default().push(milliseconds);
        }
    }
    let row = |(reached, name, note): &(&'static str, &str, &str)| Row {
        name: format!("  of it {name}, p50"),
        unit: "ms",
        ours: times.get_mut(reached).map(|times| median(times)),
        native: None,
        peer: None,
        peer_name: None,
        ratio: None,
        goal: None,
        note: (*note).to_owned(),
    };
    Ok(PHASES.iter().map(row).collect())
}

fn once(place: &Place, program: &[&str]) -> Result<Vec<(&'static str, f64)>> {
    let report = place.scratch.join("report.json");
    let mut command = Contender::reporting(place, program, &report)?;
    let spawned = now();
    let output = command.output().context("the sandbox could not be started")?;
    let over = now();
    if !output.status.success() {
        bail!("the sandbox ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let report = fs::read(&report).context("the sandbox wrote no report")?;
    let report: Value = serde_json::from_slice(&report).context("the report is no JSON")?;
    let milestones = report["milestones"].as_array().context("the report tells no milestones")?;
    let mut at: BTreeMap<&str, u64> = milestones
        .iter()
        .filter_map(|milestone| Some((milestone["reached"].as_str()?, milestone["at_ns"].as_u64()?)))
        .collect();
    at.insert("begun", report["begun_ns"].as_u64().context("the report tells no beginning")?);
    at.insert("over", over);
    let mut before = spawned;
    let mut phases = Vec::new();
    for (reached, ..) in PHASES {
        let then = *at.get(reached).with_context(|| format!("the report does not tell {reached}"))?;
        phases.push((reached, then.saturating_sub(before) as f64 / 1e6));
        before = then;
    }
    Ok(phases)
}

/// CLOCK_MONOTONIC, which the launcher's report uses too, in nanoseconds.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
