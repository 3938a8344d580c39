//! One attempt from its lease to its spooled outcome.

mod collect;
mod fetch;
mod inputs;
mod pump;
mod resolve;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_image::ImageMeta;
use bulkhead_proto::worker::Lease;
use bulkhead_sandbox::{Backend, CreateRequest, Finished, Job, SandboxError, chain};
use bulkhead_types::{AttemptOutcome, AttemptState, Digest, JobSpec, Limits, OutputFile, SandboxId, bounds};

use crate::attach::Client;
use crate::attempt::{Attempt, Stop};
use crate::cache::Owner;
use crate::worker::Node;

use collect::Collector;
use fetch::{Blobs, Fetcher, HeldImage};
use pump::{JobEnds, Pump};
use resolve::{Resolved, resolve};

pub(crate) use fetch::is_transient;

/// A sandbox that has not come back this long after its job's start, wall time and grace period is given up: inputs,
/// stopping and collecting outputs take a part of it.
const OVERDUE: Duration = Duration::from_secs(300);

/// Why an attempt did not run to an end of its own.
#[derive(Debug)]
enum Problem {
    /// What the job's owner has to change.
    Job(String),
    /// What the node failed at; another may do better.
    Node(String),
}

impl Problem {
    fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Node(format!("{what}: {error}"))
    }
}

/// Runs the lease and spools its outcome, whatever happens.
pub(crate) async fn run(node: Arc<Node>, client: Client, attempt: Arc<Attempt>, lease: Lease) {
    let prepared = tokio::select! {
        prepared = prepare(&node, client, &attempt, lease) => prepared,
        () = attempt.stopped() => Err(Problem::Node("ended before its sandbox was made".into())),
    };
    let outcome = match prepared {
        Ok(prepared) => execute(&attempt, prepared).await,
        Err(problem) => failed(&attempt, &problem),
    };
    let outcome = as_stopped(attempt.stopping(), outcome);
    tracing::info!(attempt = %attempt.name, state = %outcome.state, reason = outcome.reason, "attempt ended");
    attempt.finish(outcome);
}

/// Everything that the sandbox needs.
struct Prepared {
    backend: Arc<dyn Backend>,
    spec: JobSpec,
    resolved: Resolved,
    image: HeldImage,
    blobs: Blobs,
}

async fn prepare(node: &Node, client: Client, attempt: &Attempt, lease: Lease) -> Result<Prepared, Problem> {
    let malformed = |what: &str| Problem::Node(format!("the server sent {what} that can't be read"));
    let spec: JobSpec = serde_json::from_slice(&lease.spec_json).map_err(|_| malformed("a specification"))?;
    let backend = node.backends.get(&lease.backend).map_err(Problem::Node)?;
    let digest: Digest = lease.image_digest.parse().map_err(|_| malformed("an image digest"))?;
    let owner = Owner::parse(&lease.image_owner).ok_or_else(|| malformed("an image owner"))?;
    let meta = ImageMeta::from_json(&lease.image_config_json).map_err(|error| {
        Problem::Node(format!("the server sent an image description that is bad: {error}"))
    })?;
    if meta.digest() != digest {
        return Err(Problem::Node("the image's description does not have the image's digest".into()));
    }
    let resolved = resolve(&spec, &meta.config, hostname(attempt))?;
    let fetcher = Fetcher { cache: &node.cache, client, attempt };
    let image = fetcher.image(&digest, owner, &meta).await?;
    let blobs = fetcher.blobs(inputs::needed(&spec)).await?;
    Ok(Prepared { backend, spec, resolved, image, blobs })
}

/// The job's last twelve hexadecimal digits: random ones, where the first tell only the time.
fn hostname(attempt: &Attempt) -> String {
    let simple = attempt.name.key.job.as_uuid().simple().to_string();
    format!("job-{}", &simple[simple.len() - 12..])
}

async fn execute(attempt: &Arc<Attempt>, prepared: Prepared) -> AttemptOutcome {
    let limits = prepared.spec.limits;
    let longest = limits.wall_time()
        + Duration::from_millis(prepared.spec.grace_period_ms)
        + prepared.backend.start_timeout()
        + OVERDUE;
    let (send, ended) = tokio::sync::oneshot::channel();
    let in_thread = Arc::clone(attempt);
    // A thread of its own: the calls block, and the sandbox's processes die with the thread that made them.
    let spawned = std::thread::Builder::new().name("sandbox".into()).spawn(move || {
        // Nobody waits any more if the attempt was given up as overdue.
        let _ = send.send(in_sandbox(&in_thread, prepared));
    });
    if let Err(error) = spawned {
        return failed(attempt, &Problem::Node(format!("no thread for the sandbox: {error}")));
    }
    match tokio::time::timeout(longest, ended).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => failed(attempt, &Problem::Node("the sandbox's thread died".into())),
        Err(_) => {
            tracing::error!(attempt = %attempt.name, "the sandbox did not come back");
            attempt.stop(Stop::Lost("overdue".into()));
            let reason = format!("the sandbox did not end {} s after its limits", OVERDUE.as_secs());
            failed(attempt, &Problem::Node(reason))
        }
    }
}

/// Makes the sandbox, runs the job and returns when nothing of either is left.
fn in_sandbox(attempt: &Arc<Attempt>, prepared: Prepared) -> AttemptOutcome {
    let limits = prepared.spec.limits;
    let (pump, ends) = match Pump::start(attempt, limits.output_bytes) {
        Ok(started) => started,
        Err(error) => return failed(attempt, &Problem::Node(format!("no pipes for the job: {error}"))),
    };
    let ran = make_and_run(attempt, prepared, ends, &limits);
    pump.finish();
    match ran {
        Ok((finished, outputs)) => outcome_of(attempt, finished, outputs),
        Err(problem) => failed(attempt, &problem),
    }
}

fn make_and_run(
    attempt: &Arc<Attempt>,
    prepared: Prepared,
    ends: JobEnds,
    limits: &Limits,
) -> Result<(Finished, Vec<OutputFile>), Problem> {
    let Prepared { backend, mut spec, resolved, image, blobs } = prepared;
    let request = CreateRequest { id: SandboxId::generate(), limits: *limits };
    let sandbox = backend.create(&request).map_err(sandbox_problem)?;
    attempt.set_controller(sandbox.controller());
    let job = Job {
        image: image.files(),
        argv: resolved.argv,
        env: resolved.env,
        working_directory: resolved.working_directory,
        user: resolved.user,
        hostname: resolved.hostname,
        stdin: inputs::stdin(spec.stdin.take(), &blobs).map_err(Problem::io("opening standard input"))?,
        stdout: ends.stdout,
        stderr: ends.stderr,
        inputs: inputs::inputs(&mut spec, &blobs).map_err(Problem::io("opening inputs"))?,
        outputs: spec.outputs,
        grace_period_ms: spec.grace_period_ms.min(bounds::GRACE_PERIOD_MS),
    };
    let mut collector = Collector::new(Arc::clone(attempt), limits.disk_bytes);
    let mut finished = sandbox.run(job, &mut collector).map_err(sandbox_problem)?;
    let (outputs, problems) = collector.into_outputs(finished.output_problems);
    finished.output_problems = problems;
    Ok((finished, outputs))
}

fn sandbox_problem(error: SandboxError) -> Problem {
    match error {
        SandboxError::Input(_) => Problem::Job(error.to_string()),
        other => Problem::Node(chain(&other)),
    }
}

/// An attempt that the node or the job's description ended.
fn failed(attempt: &Attempt, problem: &Problem) -> AttemptOutcome {
    match problem {
        Problem::Job(reason) => attempt.spool.outcome(AttemptState::Failed, reason.clone()),
        Problem::Node(reason) => attempt.spool.lost(reason.clone()),
    }
}

fn outcome_of(attempt: &Attempt, finished: Finished, outputs: Vec<OutputFile>) -> AttemptOutcome {
    AttemptOutcome {
        termination: finished.termination,
        usage: finished.usage,
        outputs,
        output_problems: finished.output_problems,
        top_syscalls: finished.top_syscalls,
        unsupported_syscalls: finished.unsupported_syscalls,
        ..attempt.spool.outcome(finished.state, finished.reason)
    }
}

/// What the outcome is when the attempt was told to end: one that had ended by itself just before keeps its own.
fn as_stopped(stop: Option<Stop>, outcome: AttemptOutcome) -> AttemptOutcome {
    let by_stop = matches!(outcome.state, AttemptState::Cancelled | AttemptState::Lost);
    let (state, reason) = match stop {
        Some(Stop::Cancelled) if by_stop => (AttemptState::Cancelled, "cancelled".to_owned()),
        Some(Stop::Drained) if by_stop => (AttemptState::Lost, "the node was drained".to_owned()),
        // A kill looks to the sandbox like a limit: what it says then means nothing.
        Some(Stop::Lost(reason)) if outcome.state != AttemptState::Succeeded => (AttemptState::Lost, reason),
        _ => return outcome,
    };
    AttemptOutcome { state, reason, ..outcome }
}
