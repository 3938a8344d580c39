//! Leases: who has a job, and until when.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_types::{AttemptKey, JobState, NodeId, Timestamp};
use uuid::Uuid;

use super::queue::micros;
use super::{FleetStore, attempt_key};
use crate::StoreError;
use crate::records::{parse, to_db};
use crate::sql::leases as sql;

/// Most overdue leases of each kind that one call answers with.
pub const OVERDUE_BATCH: u32 = 100;

/// What a node says of an attempt that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseProgress {
    /// The attempt.
    pub key: AttemptKey,
    /// CPU time so far, in microseconds.
    pub cpu_us: u64,
    /// Memory now, in bytes.
    pub memory_bytes: u64,
    /// Output so far, in bytes.
    pub output_bytes: u64,
}

/// A lease that is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The attempt.
    pub key: AttemptKey,
    /// Whether its owner has asked for its end.
    pub cancelled: bool,
    /// Whether it is known to have started.
    pub started: bool,
}

/// A lease that has to be given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverdueLease {
    /// The attempt.
    pub key: AttemptKey,
    /// Who had it.
    pub node: NodeId,
    /// The node is well but the attempt is not: not started, or long over its time. Otherwise the node is silent.
    pub stuck: bool,
    /// Since when.
    pub since: Timestamp,
}

impl FleetStore {
    /// A node's heartbeat: renews its leases among `running` for another `lease`, notes their progress, and answers
    /// with those that are current. The others are not the node's any more.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(level = "debug", skip_all, fields(%node, count = running.len()))]
    pub async fn leases_renew(
        &self,
        node: &NodeId,
        running: &[LeaseProgress],
        lease: Duration,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        let numbers = |pick: fn(&LeaseProgress) -> u64| {
            running.iter().map(|one| to_db(pick(one))).collect::<Vec<i64>>()
        };
        // A renewal that a crash takes back costs nothing: a leader's start renews all.
        let mut tx = self.begin_unflushed().await?;
        let rows: Vec<(Uuid, i64, bool, String)> = sqlx::query_as(sql::LEASES_RENEW)
            .bind(node.as_str())
            .bind(running.iter().map(|one| one.key.job.as_uuid()).collect::<Vec<Uuid>>())
            .bind(numbers(|one| one.key.token))
            .bind(micros(lease))
            .bind(numbers(|one| one.cpu_us))
            .bind(numbers(|one| one.memory_bytes))
            .bind(numbers(|one| one.output_bytes))
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let current: HashMap<(Uuid, i64), (bool, String)> = rows
            .into_iter()
            .map(|(job, token, cancelled, state)| ((job, token), (cancelled, state)))
            .collect();
        let status = |one: &LeaseProgress| {
            let (cancelled, state) = current.get(&(one.key.job.as_uuid(), to_db(one.key.token)))?;
            Some(LeaseStatus { key: one.key, cancelled: *cancelled, started: is_running(state) })
        };
        Ok(running.iter().filter_map(status).collect())
    }

    /// When a scheduler starts: no lease expires within one period from now, since nobody could renew meanwhile.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn leases_extend_all(&self, lease: Duration) -> Result<u64, StoreError> {
        let done = sqlx::query(sql::LEASES_EXTEND_ALL).bind(micros(lease)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// Leases whose node is silent or whose attempt is stuck, longest first, at most [`OVERDUE_BATCH`] of each.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn leases_overdue(&self) -> Result<Vec<OverdueLease>, StoreError> {
        let rows: Vec<(Uuid, i32, i64, String, bool, i64)> =
            sqlx::query_as(sql::LEASES_OVERDUE).bind(i64::from(OVERDUE_BATCH)).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|(job, attempt, token, node, stuck, since)| {
                Ok(OverdueLease {
                    key: attempt_key(job, attempt, token),
                    node: parse(&node, "node")?,
                    stuck,
                    since: Timestamp::from_micros(since),
                })
            })
            .collect()
    }

    /// What a node has.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(%node))]
    pub async fn leases_of_node(&self, node: &NodeId) -> Result<Vec<LeaseStatus>, StoreError> {
        let rows: Vec<(Uuid, i32, i64, bool, String)> =
            sqlx::query_as(sql::LEASES_OF_NODE).bind(node.as_str()).fetch_all(&self.pool).await?;
        let status = |(job, attempt, token, cancelled, state): (Uuid, i32, i64, bool, String)| LeaseStatus {
            key: attempt_key(job, attempt, token),
            cancelled,
            started: is_running(&state),
        };
        Ok(rows.into_iter().map(status).collect())
    }

    /// Attempts under way whose owner has asked for their end, with their nodes.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn cancels_pending(&self) -> Result<Vec<(AttemptKey, NodeId)>, StoreError> {
        let rows: Vec<(Uuid, i32, i64, String)> =
            sqlx::query_as(sql::CANCELS_PENDING).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|(job, attempt, token, node)| Ok((attempt_key(job, attempt, token), parse(&node, "node")?)))
            .collect()
    }
}

fn is_running(state: &str) -> bool {
    state == JobState::Running.as_str()
}
