//! What the store answers with.

use std::collections::BTreeMap;

use bulkhead_types::{
    AttemptOutcome, AttemptState, BackendOffer, Digest, JobId, JobSpec, JobState, NodeCapacity, NodeId,
    OutputStream, Priority, SandboxOverhead, TenantId, Timestamp,
};

use crate::StoreError;

/// A tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantRecord {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub display_name: String,
    /// Share of the fleet relative to other tenants.
    pub weight: f64,
    /// Most of its jobs that wait or run at once.
    pub max_active_jobs: u64,
    /// Most that its blobs and images have together, in bytes.
    pub max_stored_bytes: u64,
    /// What they have now, in bytes.
    pub stored_bytes: u64,
    /// When it was created.
    pub created: Timestamp,
}

/// A job with its attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its owner.
    pub tenant: TenantId,
    /// Where it is in its life.
    pub state: JobState,
    /// What was asked for; secret values are empty, and in lists inline contents are empty too.
    pub spec: JobSpec,
    /// The image that the reference meant when the job was created.
    pub image_digest: Digest,
    /// Why it is in this state, for a person; empty if there is nothing to say.
    pub reason: String,
    /// When its owner asked for its end.
    pub cancel_requested: Option<Timestamp>,
    /// When it was created.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When it reached its terminal state.
    pub ended: Option<Timestamp>,
    /// Number of its newest event.
    pub event_seq: u64,
    /// In order, from the first.
    pub attempts: Vec<AttemptRecord>,
}

/// One attempt of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// From 1.
    pub attempt: u32,
    /// Where it ran.
    pub node: NodeId,
    /// Its fencing token.
    pub token: u64,
    /// How it ended; none while it is under way.
    pub outcome: Option<AttemptOutcome>,
    /// When the node was promised.
    pub leased: Timestamp,
    /// When the job's first instruction ran.
    pub started: Option<Timestamp>,
    /// When its end was accepted.
    pub finished: Option<Timestamp>,
}

/// A change of a job's state.
#[derive(Debug, Clone, PartialEq)]
pub struct JobEvent {
    /// From 1, without gaps.
    pub seq: u64,
    /// The state that the job took.
    pub state: JobState,
    /// The newest attempt at that time; 0 before the first.
    pub attempt: u32,
    /// Why, for a person; the node's name for LEASED.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What is stored of one output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamRecord {
    /// The attempt.
    pub attempt: u32,
    /// Which stream.
    pub stream: OutputStream,
    /// Durable so far, in bytes.
    pub stored_bytes: u64,
    /// The whole stream as a blob, once sealed.
    pub digest: Option<Digest>,
}

/// What a watcher needs to know to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct JobProgress {
    /// The job's state now.
    pub state: JobState,
    /// Number of its newest event.
    pub event_seq: u64,
    /// Its newest attempt; 0 before the first.
    pub attempt: u32,
    /// Events after the one that was asked for, at most [`crate::MAX_EVENTS`].
    pub events: Vec<JobEvent>,
    /// The streams of all its attempts.
    pub streams: Vec<StreamRecord>,
}

/// A part of an output stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSlice {
    /// The bytes from the offset that was asked for; empty if they are not in the database.
    pub bytes: Vec<u8>,
    /// Durable so far, in bytes: what lies between is in the stream's file or blob.
    pub stored_bytes: u64,
    /// The whole stream as a blob, once sealed.
    pub digest: Option<Digest>,
}

/// A blob that a tenant has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRecord {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When the tenant first had it.
    pub created: Timestamp,
}

/// An image, a tenant's own or the operator's.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRecord {
    /// None: the operator shares it with all tenants.
    pub owner: Option<TenantId>,
    /// Its name within its owner.
    pub name: bulkhead_types::ImageName,
    /// Of the EROFS file.
    pub digest: Digest,
    /// Of the EROFS file, in bytes.
    pub size_bytes: u64,
    /// The image's own defaults (entrypoint, environment, user, directory), as the importer wrote them.
    pub config: serde_json::Value,
    /// When the name last got its digest.
    pub created: Timestamp,
}

/// A node as it described itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// What it can promise.
    pub capacity: NodeCapacity,
    /// What a sandbox costs it beyond a job's limits.
    pub overhead: SandboxOverhead,
    /// `SENTRY`, `MICROVM`.
    pub backends: Vec<String>,
    /// What it says of each kind of sandbox.
    pub offers: Vec<BackendOffer>,
    /// For operators.
    pub labels: BTreeMap<String, String>,
    /// Of its software.
    pub version: String,
    /// Whether it gets no new jobs.
    pub draining: bool,
    /// When it was first heard of.
    pub created: Timestamp,
    /// When it was last heard of.
    pub last_heartbeat: Timestamp,
}

impl NodeRecord {
    /// What a sandbox of this kind costs the node; none if it has none.
    pub fn offered(&self, name: &str) -> Option<SandboxOverhead> {
        let offer = self.offers.iter().find(|offer| offer.name == name && offer.unavailable.is_none());
        offer.map(|offer| offer.overhead)
    }
}

/// `u64` as PostgreSQL keeps it; everything that we store is far below 2^63.
pub(crate) fn to_db(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Back again; the schema keeps such columns from being negative.
pub(crate) fn from_db(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A number of an attempt.
pub(crate) fn attempt_number(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

pub(crate) fn digest(bytes: &[u8]) -> Result<Digest, StoreError> {
    let bytes = bytes.try_into().map_err(|e| StoreError::corrupt_by("digest", e))?;
    Ok(Digest::from_bytes(bytes))
}

/// A column that holds an id, name or state.
pub(crate) fn parse<T>(text: &str, what: &'static str) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|e: T::Err| StoreError::corrupt_by(what, e))
}

pub(crate) fn priority_number(priority: Priority) -> i16 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

pub(crate) fn priority_of(number: i16) -> Priority {
    match number {
        i16::MIN..=0 => Priority::Low,
        1 => Priority::Normal,
        2.. => Priority::High,
    }
}

pub(crate) fn stream_number(stream: OutputStream) -> i16 {
    match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    }
}

pub(crate) fn stream_of(number: i16) -> Result<OutputStream, StoreError> {
    match number {
        1 => Ok(OutputStream::Stdout),
        2 => Ok(OutputStream::Stderr),
        _ => Err(StoreError::corrupt("stream number")),
    }
}

/// PostgreSQL's text holds no NUL; reasons come from nodes and may.
pub(crate) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[derive(sqlx::FromRow)]
pub(crate) struct JobRow {
    pub(crate) id: uuid::Uuid,
    pub(crate) tenant: String,
    pub(crate) state: String,
    pub(crate) spec: sqlx::types::Json<JobSpec>,
    pub(crate) image_digest: Vec<u8>,
    pub(crate) event_seq: i64,
    pub(crate) reason: String,
    pub(crate) cancel_requested_us: Option<i64>,
    pub(crate) created_us: i64,
    pub(crate) updated_us: i64,
    pub(crate) ended_us: Option<i64>,
}

impl JobRow {
    pub(crate) fn into_record(self) -> Result<JobRecord, StoreError> {
        Ok(JobRecord {
            id: JobId::from_uuid(self.id),
            tenant: parse(&self.tenant, "tenant")?,
            state: parse(&self.state, "state")?,
            spec: self.spec.0,
            image_digest: digest(&self.image_digest)?,
            reason: self.reason,
            cancel_requested: self.cancel_requested_us.map(Timestamp::from_micros),
            created: Timestamp::from_micros(self.created_us),
            updated: Timestamp::from_micros(self.updated_us),
            ended: self.ended_us.map(Timestamp::from_micros),
            event_seq: from_db(self.event_seq),
            attempts: Vec::new(),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct AttemptRow {
    pub(crate) job: uuid::Uuid,
    attempt: i32,
    node: String,
    token: i64,
    state: Option<String>,
    outcome: Option<sqlx::types::Json<AttemptOutcome>>,
    leased_us: i64,
    started_us: Option<i64>,
    finished_us: Option<i64>,
}

impl AttemptRow {
    pub(crate) fn into_record(self) -> Result<AttemptRecord, StoreError> {
        let outcome = self.outcome.map(|outcome| outcome.0);
        let state = self.state.as_deref().map(|state| parse::<AttemptState>(state, "state")).transpose()?;
        if outcome.as_ref().map(|outcome| outcome.state) != state {
            return Err(StoreError::corrupt("attempt: state and outcome disagree"));
        }
        Ok(AttemptRecord {
            attempt: attempt_number(self.attempt),
            node: parse(&self.node, "node")?,
            token: from_db(self.token),
            outcome,
            leased: Timestamp::from_micros(self.leased_us),
            started: self.started_us.map(Timestamp::from_micros),
            finished: self.finished_us.map(Timestamp::from_micros),
        })
    }
}
