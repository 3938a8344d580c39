//! How long jobs take as their submitter sees it, and where the time goes.
//!
//! `latency ENDPOINT TOKEN_FILE TENANT IMAGE JOBS CLIENTS PROGRAM [ARGUMENT...]` runs so many jobs with so many clients
//! and prints one JSON object: `jobs`, `clients`, `seconds` for all of them, and for each phase its values in
//! milliseconds, sorted. A client submits its next job when it has the result of the last.
//!
//! The phases of one job: `total` is from before the submission to the result in hand; `submit` until the service has
//! stored the job, `queue` until a node has the lease, `start` until the program runs, `run` until it has ended,
//! `answer` until the result is in hand. The service is on this machine, so that one clock measures all.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bulkhead_client::{Client, Connection, v1};

/// Jobs that nobody measures: they fill the node's cache and open connections.
const WARM: usize = 5;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Milliseconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

/// What a client needs to submit.
struct Work {
    client: Client,
    parent: String,
    spec: v1::JobSpec,
}

macro_rules! moment {
    ($time:expr) => {
        $time.as_ref().map(|time| time.seconds as f64 * 1000.0 + f64::from(time.nanos) / 1e6)
    };
}

impl Work {
    /// Runs one job and returns its phases, in milliseconds.
    async fn one(&self) -> Result<[(&'static str, f64); 6], Failure> {
        let (submitted, begin) = (now(), Instant::now());
        let created = self.client.create_job(&self.parent, self.spec.clone()).await?;
        let job = self.client.wait_job(&created.name).await?;
        let (total, answered) = (begin.elapsed().as_secs_f64() * 1000.0, now());
        if job.state() != v1::State::Succeeded {
            return Err(format!("{} ended {}: {}", job.name, job.state().as_str_name(), job.reason).into());
        }
        let attempt = job.attempts.last().ok_or("a job that succeeded has an attempt")?;
        let missing = "the service did not say when something happened";
        let created = moment!(job.create_time).ok_or(missing)?;
        let leased = moment!(attempt.lease_time).ok_or(missing)?;
        let started = moment!(attempt.start_time).ok_or(missing)?;
        let ended = moment!(attempt.end_time).ok_or(missing)?;
        Ok([
            ("total", total),
            ("submit", created - submitted),
            ("queue", leased - created),
            ("start", started - leased),
            ("run", ended - started),
            ("answer", answered - ended),
        ])
    }
}

async fn measure(work: Arc<Work>, jobs: usize, clients: usize) -> Result<serde_json::Value, Failure> {
    for _ in 0..WARM {
        work.one().await?;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let tasks = (0..clients).map(|_| {
        let (work, next) = (Arc::clone(&work), Arc::clone(&next));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < jobs {
                seen.push(work.one().await?);
            }
            Ok::<_, Failure>(seen)
        })
    });
    let mut phases: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for task in tasks.collect::<Vec<_>>() {
        for (phase, value) in task.await??.into_iter().flatten() {
            phases.entry(phase).or_default().push(value);
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    phases.values_mut().for_each(|values| values.sort_by(f64::total_cmp));
    Ok(serde_json::json!({ "jobs": jobs, "clients": clients, "seconds": seconds, "phases": phases }))
}

async fn run(arguments: Vec<String>) -> Result<(), Failure> {
    let [endpoint, token, tenant, image, jobs, clients, argv @ ..] = arguments.as_slice() else {
        return Err("use: latency ENDPOINT TOKEN_FILE TENANT IMAGE JOBS CLIENTS PROGRAM [ARGUMENT...]".into());
    };
    let token = std::fs::read_to_string(token)?.trim().to_owned();
    let client = Client::new(&Connection { token: Some(token), ..Connection::to(endpoint) })?;
    let spec = v1::JobSpec {
        image: Some(v1::job_spec::Image::ImageName(image.clone())),
        argv: argv.to_vec(),
        ..Default::default()
    };
    let work = Arc::new(Work { client, parent: format!("tenants/{tenant}"), spec });
    println!("{}", measure(work, jobs.parse()?, clients.parse()?).await?);
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::FAILURE
        }
    }
}
