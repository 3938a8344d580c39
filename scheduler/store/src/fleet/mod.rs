//! What spans tenants: the queue, leases, results, nodes, and operators' requests.

mod leases;
mod nodes;
mod operators;
mod output;
mod queue;
mod results;

use std::sync::Arc;

use bulkhead_types::{AttemptKey, JobId};
use sqlx::{PgPool, PgTransaction};

use crate::notify::Notifier;
use crate::records::{attempt_number, from_db};
use crate::{SecretKey, StoreError};

pub use leases::{LeaseProgress, LeaseStatus, OVERDUE_BATCH, OverdueLease};
pub use nodes::{NewNode, NodeUsage};
pub use operators::NewTenant;
pub use output::OutputAppend;
pub use queue::{Claim, Claimed, Leader, QueueHead, TenantUsage};
pub use results::{AttemptEnd, AttemptStart, EndReport, Ended};

/// Most jobs that one statement changes: their ids must fit into one notification (8000 bytes).
pub const WRITE_BATCH: usize = 200;

/// The database as the scheduler and operators' requests see it: all tenants. Cheap to clone.
#[derive(Clone)]
pub struct FleetStore {
    pub(crate) pool: PgPool,
    pub(crate) key: Arc<SecretKey>,
    pub(crate) notifier: Notifier,
}

impl FleetStore {
    /// Where to wait for changes.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Starts a transaction whose commit does not wait for the disk. A crash of PostgreSQL may take it back, together
    /// with everything that was committed after it, and nothing before it: only for what is said again.
    async fn begin_unflushed(&self) -> Result<PgTransaction<'static>, StoreError> {
        const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit TO off";
        Ok(self.pool.begin_with(BEGIN).await?)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query(crate::sql::queue::LEADER_STILL).execute(&self.pool).await?;
        Ok(())
    }
}

fn attempt_key(job: uuid::Uuid, attempt: i32, token: i64) -> AttemptKey {
    AttemptKey { job: JobId::from_uuid(job), attempt: attempt_number(attempt), token: from_db(token) }
}
