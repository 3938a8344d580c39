//! A job from submit to result, through the API, PostgreSQL, the scheduler and the worker, and where the time goes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::row::Row;
use crate::service::{DataDirectory, Service, TENANT_SCOPES, token};
use crate::{build, image, run};

const TENANT: &str = "bench";
/// Jobs with one client, for each run of the other contenders.
const JOBS_PER_RUN: usize = 10;
/// What the way through the service may cost beside the sandbox itself, in milliseconds.
const GOAL: f64 = 10.0;
/// Clients at once, for the rate.
const CLIENTS: usize = 8;

/// The phases of a job, in order, as the driver names them.
const PHASES: [(&str, &str); 5] = [
    ("submit", "submission until the job is in PostgreSQL"),
    ("queue", "until a node has the lease"),
    ("start", "until the program runs: message, image, inputs, sandbox"),
    ("run", "the program, to its end"),
    ("answer", "teardown, result into PostgreSQL, to the client"),
];

/// Measures with one client and with many. `cold` is the median of a cold sandbox, in milliseconds.
pub(super) fn measure(runs: usize, cold: Option<f64>) -> Result<Vec<Row>> {
    // With the whole workspace, as the product is built: other features would compile its dependencies again.
    let what = ["build", "--release", "--locked", "--workspace", "--bins", "--example", "latency"];
    run::checked(build::cargo().args(what))?;
    let data = DataDirectory::new("bench", false)?;
    image::import(&data.path)?;
    let mut service = Service::start(&data.path)?;
    let rows = drive(&service, &data.path, runs * JOBS_PER_RUN, cold);
    service.stop()?;
    rows
}

fn drive(service: &Service, data: &Path, jobs: usize, cold: Option<f64>) -> Result<Vec<Row>> {
    let operator = token(data, "operator", "operator")?;
    let mut create = Command::new(run::product("bulkhead")?);
    create.args(["tenant", "create", TENANT, "--server", &service.address]);
    create.arg("--token").arg(format!("@{}", operator.display()));
    run::output(&mut create)?;
    let token = token(data, TENANT, TENANT_SCOPES)?;
    let latency = |jobs: usize, clients: usize| -> Result<Value> {
        let mut driver = Command::new(run::product("examples/latency")?);
        driver.arg(format!("http://{}", service.address)).arg(&token);
        driver.args([TENANT, "demo", &jobs.to_string(), &clients.to_string(), "/bin/true"]);
        serde_json::from_str(&run::output(&mut driver)?).context("the driver did not print JSON")
    };
    let (one, many) = (latency(jobs, 1)?, latency(jobs * 2, CLIENTS)?);
    let total = values(&one, "total");
    let note = format!("{jobs} jobs, one client");
    let goal = cold.map(|cold| cold + GOAL);
    let mut rows = vec![
        Row { goal, ..Row::new("submit to result of true, p50", "ms", at(&total, 0.5), &note) },
        Row::new("submit to result of true, p99", "ms", at(&total, 0.99), &note),
    ];
    for (phase, meaning) in PHASES {
        rows.push(Row::new(&format!("  of it {phase}, p50"), "ms", at(&values(&one, phase), 0.5), meaning));
    }
    let rate = many["jobs"].as_f64().zip(many["seconds"].as_f64()).map(|(jobs, seconds)| jobs / seconds);
    let note = format!("{} jobs, {CLIENTS} clients", jobs * 2);
    rows.push(Row::new("jobs of true through the service", "1/s", rate, &note));
    let total = values(&many, "total");
    rows.push(Row::new("submit to result of true, p50", "ms", at(&total, 0.5), &note));
    rows.push(Row::new("submit to result of true, p99", "ms", at(&total, 0.99), &note));
    Ok(rows)
}

/// The values of a phase, sorted as the driver printed them.
fn values(measured: &Value, phase: &str) -> Vec<f64> {
    let values = measured["phases"][phase].as_array();
    values.map(|values| values.iter().filter_map(Value::as_f64).collect()).unwrap_or_default()
}

/// The value that so large a part of the others does not exceed.
fn at(sorted: &[f64], part: f64) -> Option<f64> {
    let index = (part * sorted.len() as f64) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied()
}
