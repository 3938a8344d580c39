//! Starts and ends of attempts: written in batches, accepted only from the lease that is current.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_types::{
    AttemptKey, AttemptOutcome, AttemptState, JobId, JobState, NodeId, StreamTotals, Transition, Usage, next,
};
use sqlx::PgTransaction;
use sqlx::types::Json;
use uuid::Uuid;

use super::queue::micros;
use super::{FleetStore, WRITE_BATCH};
use crate::StoreError;
use crate::notify::Change;
use crate::records::{attempt_number, from_db, parse, to_db, without_nul};
use crate::sql::{leases, results as sql};

/// Attempts that may fail to reach their node before they count as lost: bounds a job that no connection survives.
const MAX_UNDELIVERED: i32 = 10;

/// The job's first instruction ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptStart {
    /// The node that says so: it must be the lease's.
    pub node: NodeId,
    /// The attempt.
    pub key: AttemptKey,
    /// How long ago.
    pub age: Duration,
}

/// An attempt has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// The node that says so: it must be the lease's. None: the scheduler itself.
    pub node: Option<NodeId>,
    /// The attempt.
    pub key: AttemptKey,
    /// How.
    pub report: EndReport,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum EndReport {
    /// As its node says.
    Outcome(Box<AttemptOutcome>),
    /// Its node is gone, or has lost it; why, for a person.
    Lost(String),
    /// It never reached its node, so it doesn't count against the job's attempts; why, for a person.
    Undelivered(String),
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The job has ended in this state.
    Final(JobState),
    /// The job waits for another attempt.
    Again,
    /// The report was not of the current attempt: nothing has changed.
    Stale,
}

impl FleetStore {
    /// Writes starts, then ends, in one transaction; at most [`WRITE_BATCH`] of each, at most one of each per job.
    /// Answers with what became of each end, in order.
    ///
    /// An end waits for the disk. Starts alone don't: whatever follows of the attempt flushes them too (the log is
    /// written in order), and one that a crash of PostgreSQL takes back is missed with the node's next heartbeat
    /// ([`LeaseStatus::started`](super::LeaseStatus)) and written again.
    ///
    /// # Errors
    /// Only the database's; nothing is then written, and the same call may be made again.
    #[tracing::instrument(level = "debug", skip_all, fields(starts = starts.len(), ends = ends.len()))]
    pub async fn attempts_write(
        &self,
        starts: &[AttemptStart],
        ends: &[AttemptEnd],
    ) -> Result<Vec<Ended>, StoreError> {
        debug_assert!(starts.len() <= WRITE_BATCH && ends.len() <= WRITE_BATCH);
        let mut tx = if ends.is_empty() { self.begin_unflushed().await? } else { self.pool.begin().await? };
        let mut ids: Vec<Uuid> = starts.iter().map(|start| start.key.job.as_uuid()).collect();
        ids.extend(ends.iter().map(|end| end.key.job.as_uuid()));
        let rows: Vec<LockedJob> = sqlx::query_as(leases::JOBS_LOCK).bind(&ids).fetch_all(&mut *tx).await?;
        let mut jobs: HashMap<JobId, LockedJob> =
            rows.into_iter().map(|job| (JobId::from_uuid(job.id), job)).collect();
        write_starts(&mut tx, &mut jobs, starts).await?;
        let answers = write_ends(&mut tx, &jobs, ends).await?;
        tx.commit().await?;
        self.notifier.tell(starts.iter().map(|start| Change::Job(start.key.job)));
        self.notifier.tell(ends.iter().zip(&answers).filter_map(|(end, answer)| match answer {
            Ended::Final(_) => Some(Change::Ended(end.key.job)),
            Ended::Again => Some(Change::Job(end.key.job)),
            Ended::Stale => None,
        }));
        if answers.iter().any(|answer| *answer != Ended::Stale) {
            self.notifier.tell([Change::Queue]);
        }
        Ok(answers)
    }
}

/// A job as it is, locked until the transaction ends.
#[derive(sqlx::FromRow)]
struct LockedJob {
    id: Uuid,
    state: String,
    token: i64,
    attempt_count: i32,
    undelivered_count: i32,
    max_attempts: i32,
    retry_on_lost: bool,
    retry_on_failure: bool,
    cancelled: bool,
    /// Who holds the current lease.
    node: Option<String>,
}

impl LockedJob {
    /// Whether a report of `node` (none: of the scheduler) about `key` is about the current attempt.
    fn is_at(&self, key: AttemptKey, node: Option<&NodeId>) -> bool {
        from_db(self.token) == key.token
            && attempt_number(self.attempt_count) == key.attempt
            && node.is_none_or(|node| self.node.as_deref() == Some(node.as_str()))
    }

    /// Whether the policy allows another attempt after one that ended so.
    fn allows_retry(&self, report: &EndReport) -> bool {
        let undelivered = self.undelivered_count + i32::from(matches!(report, EndReport::Undelivered(_)));
        if self.cancelled || self.attempt_count - undelivered >= self.max_attempts {
            return false;
        }
        match report {
            EndReport::Undelivered(_) => self.undelivered_count < MAX_UNDELIVERED,
            EndReport::Lost(_) => self.retry_on_lost,
            EndReport::Outcome(outcome) => match outcome.state {
                AttemptState::Succeeded | AttemptState::Cancelled => false,
                AttemptState::Lost => self.retry_on_lost,
                _ => self.retry_on_failure,
            },
        }
    }
}

async fn write_starts(
    tx: &mut PgTransaction<'_>,
    jobs: &mut HashMap<JobId, LockedJob>,
    starts: &[AttemptStart],
) -> Result<(), StoreError> {
    let (mut ids, mut tokens, mut ages) = (Vec::new(), Vec::new(), Vec::new());
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for start in starts {
        let Some(job) = jobs.get_mut(&start.key.job).filter(|job| job.is_at(start.key, Some(&start.node)))
        else {
            continue;
        };
        let Ok(running) = next(parse(&job.state, "state")?, Transition::Start) else { continue };
        ids.push(job.id);
        tokens.push(job.token);
        old.push(std::mem::replace(&mut job.state, running.to_string()));
        new.push(running.as_str());
        ages.push(micros(start.age));
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(sql::START)
        .bind(ids)
        .bind(tokens)
        .bind(old)
        .bind(new)
        .bind(ages)
        .bind(micros(OVERTIME))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// How long after its wall time and grace period an attempt is given up although its node is well: the time to
/// collect and upload outputs.
const OVERTIME: Duration = Duration::from_secs(300);

/// The columns of one FINISH statement.
#[derive(Default)]
struct Finishes<'a> {
    jobs: Vec<Uuid>,
    tokens: Vec<i64>,
    old: Vec<&'a str>,
    new: Vec<&'static str>,
    results: Vec<&'static str>,
    outcomes: Vec<Json<AttemptOutcome>>,
    reasons: Vec<String>,
    walls: Vec<i64>,
    ended: Vec<bool>,
    avoid: Vec<bool>,
    undelivered: Vec<bool>,
    blob_jobs: Vec<Uuid>,
    blobs: Vec<Vec<u8>>,
}

async fn write_ends(
    tx: &mut PgTransaction<'_>,
    jobs: &HashMap<JobId, LockedJob>,
    ends: &[AttemptEnd],
) -> Result<Vec<Ended>, StoreError> {
    let mut finishes = Finishes::default();
    let mut answers = Vec::with_capacity(ends.len());
    for end in ends {
        let repeated = finishes.jobs.contains(&end.key.job.as_uuid());
        match jobs.get(&end.key.job).filter(|job| !repeated && job.is_at(end.key, end.node.as_ref())) {
            Some(job) => answers.push(finishes.add(job, end)?),
            None => answers.push(Ended::Stale),
        }
    }
    if !finishes.jobs.is_empty() {
        let rows: Vec<Uuid> = finishes.execute(tx).await?;
        // The rows are locked and were checked: anything else is a defect, and nothing may be acknowledged.
        if rows.len() != finishes.jobs.len() {
            return Err(StoreError::corrupt("lease: a job under way has none"));
        }
    }
    if !finishes.blobs.is_empty() {
        sqlx::query(sql::RESULT_BLOBS)
            .bind(&finishes.blob_jobs)
            .bind(&finishes.blobs)
            .execute(&mut **tx)
            .await?;
    }
    Ok(answers)
}

impl<'a> Finishes<'a> {
    fn add(&mut self, job: &'a LockedJob, end: &AttemptEnd) -> Result<Ended, StoreError> {
        let outcome = final_outcome(job, &end.report);
        let retry = job.allows_retry(&end.report);
        let state: JobState = parse(&job.state, "state")?;
        let Ok(new) = next(state, Transition::Finish { outcome: outcome.state, retry }) else {
            return Ok(Ended::Stale);
        };
        let undelivered = matches!(end.report, EndReport::Undelivered(_));
        self.jobs.push(job.id);
        self.tokens.push(job.token);
        self.old.push(&job.state);
        self.new.push(new.as_str());
        self.results.push(outcome.state.as_str());
        self.reasons.push(outcome.reason.clone());
        self.walls.push(to_db(outcome.usage.wall_us));
        self.ended.push(new.is_terminal());
        self.avoid.push(!new.is_terminal() && !undelivered);
        self.undelivered.push(undelivered);
        for output in &outcome.outputs {
            self.blob_jobs.push(job.id);
            self.blobs.push(output.digest.as_bytes().to_vec());
        }
        self.outcomes.push(Json(outcome));
        Ok(if new.is_terminal() { Ended::Final(new) } else { Ended::Again })
    }

    async fn execute(&self, tx: &mut PgTransaction<'_>) -> Result<Vec<Uuid>, StoreError> {
        Ok(sqlx::query_scalar(sql::FINISH)
            .bind(&self.jobs)
            .bind(&self.tokens)
            .bind(&self.old)
            .bind(&self.new)
            .bind(&self.results)
            .bind(&self.outcomes)
            .bind(&self.reasons)
            .bind(&self.walls)
            .bind(&self.ended)
            .bind(&self.avoid)
            .bind(&self.undelivered)
            .fetch_all(&mut **tx)
            .await?)
    }
}

/// The outcome as it is written: one that was lost after its owner asked for its end is cancelled.
fn final_outcome(job: &LockedJob, report: &EndReport) -> AttemptOutcome {
    let lost = |reason: &str| AttemptOutcome {
        state: if job.cancelled { AttemptState::Cancelled } else { AttemptState::Lost },
        termination: None,
        reason: if job.cancelled { format!("cancelled; {reason}") } else { reason.to_owned() },
        usage: Usage::default(),
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
        outputs: Vec::new(),
        output_problems: Vec::new(),
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    };
    let mut outcome = match report {
        EndReport::Lost(reason) | EndReport::Undelivered(reason) => lost(reason),
        EndReport::Outcome(outcome) => outcome.as_ref().clone(),
    };
    if job.cancelled && outcome.state == AttemptState::Lost {
        outcome.state = AttemptState::Cancelled;
    }
    outcome.reason = without_nul(&outcome.reason);
    for problem in &mut outcome.output_problems {
        *problem = without_nul(problem);
    }
    for call in outcome.top_syscalls.iter_mut().chain(&mut outcome.unsupported_syscalls) {
        call.name = without_nul(&call.name);
    }
    outcome
}
