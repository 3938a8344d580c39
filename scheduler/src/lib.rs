//! Queue, leases, heartbeats, dispatch and reconciliation: what happens to a job between its creation and its end.
//!
//! ```text
//!   server ──── Intake: register, heartbeat, started, output, finished ────► registry, report writer ──► store
//!   server ◄─── NodeCommand: Start, Cancel, Stop, Drain (one channel per node) ─── dispatcher ◄── plan ◄── store
//! ```
//! * [`Scheduler::run`] is the one leader's loop: it reads the queue's heads and the nodes' use, lets
//!   `bulkhead_placement` plan, leases the planned jobs and sends them to their nodes. Beside it, the reconciler ends
//!   attempts whose node is silent or which are stuck, and tells nodes of cancels.
//! * [`Intake`] is what the server calls for each message of a node. It may be called before there is a leader.
//!
//! **Who may die.** The database decides: a result counts if its lease is current, whoever brings it. When the control
//! process dies, attempts go on: a lease outlasts a restart, a new leader first extends all leases by one period, and
//! a node that connects again presents what it runs or still has results of. When a node dies, its leases expire and
//! its attempts are lost, once. When a node comes back without an attempt, that attempt is lost at once.
//!
//! Lock order: the registry's mutex alone; nothing is awaited under it.

mod config;
mod dispatch;
mod intake;
mod reconcile;
mod registry;
mod run;
mod writer;

pub use config::SchedulerConfig;
pub use intake::{Heartbeat, HeartbeatReply, Intake, IntakeError, Registered, Registration};
pub use registry::{Assignment, NodeCommand, NodeLink, Session};
pub use run::Scheduler;

pub use bulkhead_store::{Ended, LeaseProgress, LeaseStatus, NewNode};
