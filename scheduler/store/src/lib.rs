//! The only crate with SQL: tenants, jobs, attempts, leases, nodes, images and blobs in PostgreSQL.
//!
//! [`Store`] is what tenants' requests use: each method runs as the role `bulkhead_service`, which sees the rows
//! of one tenant per transaction (row-level security, forced). [`FleetStore`] is what the scheduler and operators
//! use, as the role `bulkhead_scheduler`, over its own connections. Both own nothing; the schema's owner only
//! migrates. [`cluster::PrivateCluster`] is the PostgreSQL that a single machine runs for itself.
//!
//! Every change of a job's state is decided by [`bulkhead_types::next`] and written by a statement that names the
//! state that it leaves, and for results the lease's fencing token, so that whoever comes second changes nothing.
//! Statements that change several rows lock jobs in the order of their ids.

pub mod cluster;
mod connect;
mod content;
mod error;
mod fleet;
mod jobs;
mod notify;
mod page;
mod records;
mod requests;
mod roles;
mod secret;
mod spec;
mod sql;
pub mod testing;

pub use connect::{DatabaseUrls, MIGRATOR, PoolSizes, Store, migrate};
pub use content::{NewImage, Storage};
pub use error::StoreError;
pub use fleet::{
    AttemptEnd, AttemptStart, Claim, Claimed, EndReport, Ended, FleetStore, Leader, LeaseProgress,
    LeaseStatus, NewNode, NewTenant, NodeUsage, OVERDUE_BATCH, OutputAppend, OverdueLease, QueueHead,
    TenantUsage, WRITE_BATCH,
};
pub use jobs::{MAX_EVENTS, MAX_PAGE, NewJob};
pub use notify::{JobWatch, Notifier, POLL};
pub use page::JobFilter;
pub use records::{
    AttemptRecord, BlobRecord, ImageRecord, JobEvent, JobProgress, JobRecord, NodeRecord, OutputSlice,
    StreamRecord, TenantRecord,
};
pub use requests::RequestKey;
pub use roles::{SCHEDULER_ROLE, SERVICE_ROLE};
pub use secret::SecretKey;
