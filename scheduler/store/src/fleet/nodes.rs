//! Nodes: what they can hold, and what is reserved on them.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_types::{BackendOffer, NodeCapacity, NodeId, SandboxOverhead, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::FleetStore;
use super::queue::micros;
use crate::notify::Change;
use crate::records::{NodeRecord, from_db, parse, to_db};
use crate::requests::{RequestKey, request_claim};
use crate::sql::nodes as sql;
use crate::{MAX_PAGE, StoreError};

/// A node as it describes itself when it connects.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// As its certificate names it.
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
}

/// A node and what is reserved on it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeUsage {
    /// The node.
    pub node: NodeRecord,
    /// Reserved memory, in bytes.
    pub memory_bytes: u64,
    /// Reserved CPU, in thousandths of a core.
    pub cpu_milli: u64,
    /// Reserved disk, in bytes.
    pub disk_bytes: u64,
    /// Attempts under way.
    pub sandboxes: u64,
    /// The database's time when it looked.
    pub now: Timestamp,
}

impl FleetStore {
    /// Writes what a node says of itself. Whether it drains is kept.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(node = %node.id))]
    pub async fn node_put(&self, node: &NewNode) -> Result<NodeRecord, StoreError> {
        let row: NodeRow = sqlx::query_as(sql::NODE_PUT)
            .bind(node.id.as_str())
            .bind(to_db(node.capacity.memory_bytes))
            .bind(to_db(node.capacity.cpu_milli))
            .bind(to_db(node.capacity.disk_bytes))
            .bind(to_db(node.capacity.sandboxes))
            .bind(to_db(node.overhead.memory_bytes))
            .bind(&node.backends)
            .bind(Json(&node.labels))
            .bind(&node.version)
            .bind(Json(&node.offers))
            .fetch_one(&self.pool)
            .await?;
        row.into_record()
    }

    /// A node.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    #[tracing::instrument(skip_all, fields(%node))]
    pub async fn node_get(&self, node: &NodeId) -> Result<NodeRecord, StoreError> {
        let row: Option<NodeRow> =
            sqlx::query_as(sql::NODE_GET).bind(node.as_str()).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| StoreError::not_found("node", node))?.into_record()
    }

    /// A page of nodes by id, after `after`.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn node_list(
        &self,
        page_size: u32,
        after: Option<&NodeId>,
    ) -> Result<Vec<NodeRecord>, StoreError> {
        let rows: Vec<NodeRow> = sqlx::query_as(sql::NODE_LIST)
            .bind(after.map_or("", NodeId::as_str))
            .bind(i64::from(page_size.clamp(1, MAX_PAGE)))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(NodeRow::into_record).collect()
    }

    /// Sets whether a node gets new jobs, and wakes the scheduler. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::RequestIdReused`].
    #[tracing::instrument(skip_all, fields(%node, draining))]
    pub async fn node_drain(
        &self,
        node: &NodeId,
        draining: bool,
        request: Option<&RequestKey>,
    ) -> Result<NodeRecord, StoreError> {
        let mut tx = self.pool.begin().await?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, "", request, node.as_str()).await?;
            if first.is_some() {
                drop(tx);
                return self.node_get(node).await;
            }
        }
        let row: Option<NodeRow> = sqlx::query_as(sql::NODE_DRAIN)
            .bind(node.as_str())
            .bind(draining)
            .fetch_optional(&mut *tx)
            .await?;
        let row = row.ok_or_else(|| StoreError::not_found("node", node))?;
        tx.commit().await?;
        self.notifier.tell([Change::Queue]);
        row.into_record()
    }

    /// The nodes heard of within `horizon`, with what is reserved on each.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn node_usage(&self, horizon: Duration) -> Result<Vec<NodeUsage>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        node_usage(&mut connection, horizon).await
    }

    /// Forgets nodes that were silent for `silence` and have nothing under way. Answers with how many.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn nodes_prune(&self, silence: Duration) -> Result<u64, StoreError> {
        let done = sqlx::query(sql::NODES_PRUNE).bind(micros(silence)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }
}

pub(super) async fn node_usage(
    connection: &mut PgConnection,
    horizon: Duration,
) -> Result<Vec<NodeUsage>, StoreError> {
    let rows: Vec<UsageRow> =
        sqlx::query_as(sql::NODE_USAGE).bind(micros(horizon)).fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            Ok(NodeUsage {
                memory_bytes: from_db(row.used_memory),
                cpu_milli: from_db(row.used_cpu),
                disk_bytes: from_db(row.used_disk),
                sandboxes: from_db(row.used_count),
                now: Timestamp::from_micros(row.now),
                node: row.node.into_record()?,
            })
        })
        .collect()
}

#[derive(sqlx::FromRow)]
struct UsageRow {
    #[sqlx(flatten)]
    node: NodeRow,
    used_memory: i64,
    used_cpu: i64,
    used_disk: i64,
    used_count: i64,
    now: i64,
}

#[derive(sqlx::FromRow)]
struct NodeRow {
    id: String,
    memory_bytes: i64,
    cpu_milli: i64,
    disk_bytes: i64,
    sandboxes: i64,
    overhead_bytes: i64,
    backends: Vec<String>,
    offers: Json<Vec<BackendOffer>>,
    labels: Json<BTreeMap<String, String>>,
    version: String,
    draining: bool,
    created_us: i64,
    last_heartbeat_us: i64,
}

impl NodeRow {
    fn into_record(self) -> Result<NodeRecord, StoreError> {
        Ok(NodeRecord {
            id: parse(&self.id, "node")?,
            capacity: NodeCapacity {
                memory_bytes: from_db(self.memory_bytes),
                cpu_milli: from_db(self.cpu_milli),
                disk_bytes: from_db(self.disk_bytes),
                sandboxes: from_db(self.sandboxes),
            },
            overhead: SandboxOverhead::fixed(from_db(self.overhead_bytes)),
            backends: self.backends,
            offers: self.offers.0,
            labels: self.labels.0,
            version: self.version,
            draining: self.draining,
            created: Timestamp::from_micros(self.created_us),
            last_heartbeat: Timestamp::from_micros(self.last_heartbeat_us),
        })
    }
}
