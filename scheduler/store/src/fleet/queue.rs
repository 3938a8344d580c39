//! The queue as its one leader sees it.

use std::time::Duration;

use bulkhead_types::{
    AttemptKey, Backend, Digest, JobId, JobSpec, JobState, NodeId, Priority, TenantId, Timestamp, Transition,
    next,
};
use sqlx::types::Json;
use sqlx::{ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use super::{FleetStore, NodeUsage, WRITE_BATCH, attempt_key, nodes};
use crate::notify::Change;
use crate::records::{digest, from_db, parse, priority_of, to_db, without_nul};
use crate::spec::{restore_inline, restore_secrets};
use crate::sql::queue as sql;
use crate::{SecretKey, StoreError};

/// The advisory lock of the leader; arbitrary, the same for all control processes of a database.
const LEADER_KEY: i64 = 0x6275_6c6b_6865_6164;

/// A waiting job, as much of it as placement needs.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueHead {
    /// The job.
    pub job: JobId,
    /// Its owner.
    pub tenant: TenantId,
    /// The owner's share relative to other tenants.
    pub weight: f64,
    /// Order inside the owner's queue.
    pub priority: Priority,
    /// Limit of its memory, in bytes.
    pub memory_bytes: u64,
    /// Its CPU bandwidth, in thousandths of a core.
    pub cpu_milli: u64,
    /// What its node keeps for it on the disk, in bytes: [`JobSpec::node_disk_bytes`].
    pub disk_bytes: u64,
    /// Nodes on which it failed before.
    pub avoid_nodes: Vec<NodeId>,
    /// What it asks to be run by.
    pub backend: Backend,
    /// When it was created.
    pub created: Timestamp,
}

/// What a tenant has under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantUsage {
    /// The tenant.
    pub tenant: TenantId,
    /// Reserved memory, in bytes.
    pub memory_bytes: u64,
    /// Reserved CPU, in thousandths of a core.
    pub cpu_milli: u64,
    /// Reserved disk, in bytes.
    pub disk_bytes: u64,
    /// Sandboxes.
    pub sandboxes: u64,
}

/// A job that is to go to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// The node.
    pub node: NodeId,
    /// What it reserves there: its limit and the sandbox's overhead, in bytes.
    pub memory_bytes: u64,
}

/// A job that is leased now.
#[derive(Debug)]
pub struct Claimed {
    /// The attempt and its fencing token.
    pub key: AttemptKey,
    /// The job's owner.
    pub tenant: TenantId,
    /// Where it goes.
    pub node: NodeId,
    /// With secret values; an error if they can't be opened.
    pub spec: Result<JobSpec, StoreError>,
    /// The image to run.
    pub image_digest: Digest,
}

/// The one scheduler that may lease jobs, as long as this connection lives: the lock and the claims are on the
/// same one, so that a leader that has lost its lock can't claim either.
pub struct Leader {
    connection: PgConnection,
    store: FleetStore,
}

impl FleetStore {
    /// Becomes the leader, if there is none.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn leader_try(&self) -> Result<Option<Leader>, StoreError> {
        let options = (*self.pool.connect_options()).clone();
        let mut connection = options.application_name("bulkhead leader").connect().await?;
        let leads: bool =
            sqlx::query_scalar(sql::LEADER_LOCK).bind(LEADER_KEY).fetch_one(&mut connection).await?;
        Ok(leads.then(|| Leader { connection, store: self.clone() }))
    }
}

impl Leader {
    /// A leader beside another one, which the lock forbids: for tests that the claims alone keep jobs apart.
    pub(crate) async fn rival(store: &FleetStore) -> Result<Self, StoreError> {
        let connection = store.pool.connect_options().connect().await?;
        Ok(Self { connection, store: store.clone() })
    }

    /// The first `per_tenant` waiting jobs of each tenant, in the tenant's order.
    ///
    /// # Errors
    /// Only the database's; the leadership is then over.
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn queue_heads(&mut self, per_tenant: u32) -> Result<Vec<QueueHead>, StoreError> {
        let rows: Vec<HeadRow> = sqlx::query_as(sql::QUEUE_HEADS)
            .bind(i64::from(per_tenant))
            .fetch_all(&mut self.connection)
            .await?;
        rows.into_iter().map(HeadRow::into_record).collect()
    }

    /// What each tenant has under way.
    ///
    /// # Errors
    /// Only the database's; the leadership is then over.
    pub async fn tenant_usage(&mut self) -> Result<Vec<TenantUsage>, StoreError> {
        let rows: Vec<(String, i64, i64, i64, i64)> =
            sqlx::query_as(sql::TENANT_USAGE).fetch_all(&mut self.connection).await?;
        rows.into_iter()
            .map(|(tenant, memory, cpu, disk, count)| {
                Ok(TenantUsage {
                    tenant: parse(&tenant, "tenant")?,
                    memory_bytes: from_db(memory),
                    cpu_milli: from_db(cpu),
                    disk_bytes: from_db(disk),
                    sandboxes: from_db(count),
                })
            })
            .collect()
    }

    /// The nodes heard of within `horizon`, with what is reserved on each, and the database's time.
    ///
    /// # Errors
    /// Only the database's; the leadership is then over.
    pub async fn node_usage(&mut self, horizon: Duration) -> Result<Vec<NodeUsage>, StoreError> {
        nodes::node_usage(&mut self.connection, horizon).await
    }

    /// Leases jobs to nodes: those that still wait. The lease ends after `lease` unless renewed, and the attempt is
    /// given up if it has not started within `start_within`. At most [`WRITE_BATCH`] at once.
    ///
    /// # Errors
    /// Only the database's; the leadership is then over, and nothing is leased.
    #[tracing::instrument(level = "debug", skip_all, fields(count = claims.len()))]
    pub async fn claim(
        &mut self,
        claims: &[Claim],
        lease: Duration,
        start_within: Duration,
    ) -> Result<Vec<Claimed>, StoreError> {
        debug_assert!(claims.len() <= WRITE_BATCH);
        let leased = next(JobState::Queued, Transition::Lease)?;
        let rows: Vec<ClaimRow> = sqlx::query_as(sql::CLAIM)
            .bind(claims.iter().map(|claim| claim.job.as_uuid()).collect::<Vec<Uuid>>())
            .bind(claims.iter().map(|claim| claim.node.as_str()).collect::<Vec<&str>>())
            .bind(claims.iter().map(|claim| to_db(claim.memory_bytes)).collect::<Vec<i64>>())
            .bind(micros(lease))
            .bind(micros(start_within))
            .bind(JobState::Queued.as_str())
            .bind(leased.as_str())
            .fetch_all(&mut self.connection)
            .await?;
        self.store.notifier.tell(rows.iter().map(|row| Change::Job(JobId::from_uuid(row.id))));
        rows.into_iter().map(|row| row.into_claimed(&self.store.key)).collect()
    }

    /// Ends waiting jobs as REJECTED, each with its reason. At most [`WRITE_BATCH`] at once. Answers with those that
    /// still waited.
    ///
    /// # Errors
    /// Only the database's; the leadership is then over.
    #[tracing::instrument(level = "debug", skip_all, fields(count = jobs.len()))]
    pub async fn reject(&mut self, jobs: &[(JobId, String)]) -> Result<Vec<JobId>, StoreError> {
        debug_assert!(jobs.len() <= WRITE_BATCH);
        let rejected = next(JobState::Queued, Transition::Reject)?;
        let rows: Vec<Uuid> = sqlx::query_scalar(sql::REJECT)
            .bind(jobs.iter().map(|(job, _)| job.as_uuid()).collect::<Vec<Uuid>>())
            .bind(jobs.iter().map(|(_, reason)| without_nul(reason)).collect::<Vec<String>>())
            .bind(JobState::Queued.as_str())
            .bind(rejected.as_str())
            .fetch_all(&mut self.connection)
            .await?;
        let rejected: Vec<JobId> = rows.into_iter().map(JobId::from_uuid).collect();
        self.store.notifier.tell(rejected.iter().copied().map(Change::Ended));
        Ok(rejected)
    }

    /// Gives the leadership back.
    pub async fn resign(self) {
        // If closing fails the server ends the session, and with it the lock, all the same.
        let _ = self.connection.close().await;
    }
}

/// A duration as PostgreSQL's arithmetic takes it.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

#[derive(sqlx::FromRow)]
struct HeadRow {
    tenant: String,
    weight: f64,
    id: Uuid,
    priority: i16,
    memory_bytes: i64,
    cpu_milli: i64,
    disk_bytes: i64,
    avoid_nodes: Vec<String>,
    created_us: i64,
    backend: String,
}

impl HeadRow {
    fn into_record(self) -> Result<QueueHead, StoreError> {
        Ok(QueueHead {
            job: JobId::from_uuid(self.id),
            tenant: parse(&self.tenant, "tenant")?,
            weight: self.weight,
            priority: priority_of(self.priority),
            memory_bytes: from_db(self.memory_bytes),
            cpu_milli: from_db(self.cpu_milli),
            disk_bytes: from_db(self.disk_bytes),
            avoid_nodes: self.avoid_nodes.iter().map(|node| parse(node, "node")).collect::<Result<_, _>>()?,
            backend: serde_json::from_value(serde_json::Value::String(self.backend))
                .map_err(|_| StoreError::corrupt("description: unknown backend"))?,
            created: Timestamp::from_micros(self.created_us),
        })
    }
}

#[derive(sqlx::FromRow)]
struct ClaimRow {
    id: Uuid,
    tenant: String,
    attempt_count: i32,
    token: i64,
    spec: Json<JobSpec>,
    inline_bytes: Vec<Vec<u8>>,
    secrets: Option<Vec<u8>>,
    image_digest: Vec<u8>,
    node: String,
}

impl ClaimRow {
    fn into_claimed(self, key: &SecretKey) -> Result<Claimed, StoreError> {
        let job = JobId::from_uuid(self.id);
        let spec = || {
            let mut spec = self.spec.0;
            restore_inline(&mut spec, self.inline_bytes)?;
            let secrets = self.secrets.map(|sealed| key.open(job, &sealed)).transpose()?;
            restore_secrets(&mut spec, secrets.unwrap_or_default())?;
            Ok(spec)
        };
        Ok(Claimed {
            key: attempt_key(self.id, self.attempt_count, self.token),
            tenant: parse(&self.tenant, "tenant")?,
            node: parse(&self.node, "node")?,
            image_digest: digest(&self.image_digest)?,
            spec: spec(),
        })
    }
}
