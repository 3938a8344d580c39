//! Which queued jobs run next, and where: pure functions of a snapshot and a time.
//!
//! [`plan`] looks at the heads of the tenants' queues and at the nodes, and answers with a [`Plan`], which somebody
//! else carries out. It reads no clock, does no I/O and draws no random numbers: the same snapshot gives the same
//! plan.
//!
//! **Order.** The tenant whose use is least for its weight goes next ([`Ledger`]: resource-seconds of its dominant
//! resource, fading with time), and each choice is charged to it at once, so that a plan interleaves tenants. Inside a
//! tenant higher priorities go first, and inside a priority: first come, first served. A priority is a tenant's word
//! about its own jobs: it takes nothing from the others, however high.
//!
//! **Room.** On a node, memory (limits and the sandboxes' overhead), disk and the number of sandboxes are hard sums;
//! CPU may be promised [`CPU_OVERCOMMIT`] times. A job goes where it leaves the least memory free (big holes are kept
//! for big jobs), and not to a node that failed it while another one could hold it.
//!
//! **Big jobs** are not starved by small ones: once a job has waited for [`RESERVE_AFTER`] with no room for it, the
//! node where it fits soonest takes no other job until it has room. Nor do they starve small ones: a job holds a node
//! from the first to the second, the fourth to the eighth, the sixteenth to the thirty-second... such period of its
//! waiting, so never for more than two thirds of it ([`keeps_a_node`]); each turn is twice the pause before it, and
//! one is long enough for whatever runs there to end. What lies idle meanwhile is charged to the job's owner
//! ([`Kept`]), whose other jobs then come later.

mod ledger;
mod plan;

pub use ledger::{HALF_LIFE, Ledger, MIN_CHARGE};
pub use plan::plan;

use std::time::Duration;

use bulkhead_types::{Backend, JobId, NodeCapacity, NodeId, Priority, SandboxOverhead, TenantId, Timestamp};

/// How often a node's CPU may be promised: limits are bandwidth caps that most jobs stay below, and a crowded CPU
/// makes jobs slow, where crowded memory kills them.
pub const CPU_OVERCOMMIT: u64 = 4;

/// How long a job waits before a node is kept free for it.
pub const RESERVE_AFTER: Duration = Duration::from_secs(10);

/// Whether a job that has waited for so long, with no room for it, may hold a node now.
pub fn keeps_a_node(waited: Duration) -> bool {
    let periods = waited.as_micros() / RESERVE_AFTER.as_micros();
    periods.checked_ilog2().is_some_and(|doubled| doubled % 2 == 0)
}

/// A node not heard of for this long is not known any more: a job that only it could hold is rejected.
pub const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Everything that a decision depends on.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The heads of all queues; in each tenant's own order.
    pub queue: Vec<WaitingJob>,
    /// All nodes heard of within [`KNOWN_FOR`].
    pub nodes: Vec<Node>,
    /// What tenants used; those that it lacks used nothing.
    pub ledger: Ledger,
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingJob {
    /// The job.
    pub job: JobId,
    /// Its owner.
    pub tenant: TenantId,
    /// The owner's share relative to other tenants; above 0.
    pub weight: f64,
    /// Its priority.
    pub priority: Priority,
    /// What it needs.
    pub need: Need,
    /// What is to run it.
    pub backend: Backend,
    /// Nodes that failed it.
    pub avoid: Vec<NodeId>,
    /// When it was created.
    pub created: Timestamp,
}

/// What a job needs, without the sandbox's own overhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Memory limit, in bytes.
    pub memory_bytes: u64,
    /// CPU bandwidth, in thousandths of a core.
    pub cpu_milli: u64,
    /// On the node's disk, in bytes: files, collected copies and printed output.
    pub disk_bytes: u64,
}

/// A node and what is promised on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub node: NodeId,
    /// What it can hold.
    pub capacity: NodeCapacity,
    /// What each sandbox adds: a sentry.
    pub overhead: SandboxOverhead,
    /// What a virtual machine adds; none where there are none.
    pub microvm: Option<SandboxOverhead>,
    /// Promised memory, overhead included, in bytes.
    pub used_memory_bytes: u64,
    /// Promised CPU, in thousandths of a core.
    pub used_cpu_milli: u64,
    /// Promised disk, in bytes.
    pub used_disk_bytes: u64,
    /// Sandboxes.
    pub used_sandboxes: u64,
    /// Whether jobs can be sent to it now: it is connected, does not drain, and has nothing to clean up.
    pub available: bool,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Jobs to be leased, in order.
    pub assign: Vec<Assign>,
    /// Jobs that no known node could ever hold.
    pub reject: Vec<Reject>,
    /// The node that takes nothing, if there is one.
    pub kept: Option<Kept>,
}

/// A node is kept free for a big job that has waited long.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The job.
    pub job: JobId,
    /// Its owner.
    pub tenant: TenantId,
    /// The node.
    pub node: NodeId,
    /// The part of all nodes' memory that lies idle for it: what its owner is charged per second.
    pub share: f64,
}

/// A job goes to a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Assign {
    /// The job.
    pub job: JobId,
    /// Its owner.
    pub tenant: TenantId,
    /// The node.
    pub node: NodeId,
    /// What it reserves there: its limit and the sandbox's overhead, in bytes.
    pub memory_bytes: u64,
    /// Its dominant share of all nodes: what its owner is charged per second.
    pub share: f64,
}

/// A job that can't ever run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The job.
    pub job: JobId,
    /// For its owner: what it needs, and what the largest node has.
    pub reason: String,
}

impl Need {
    /// The largest of its shares of what `nodes` have together, between 0 and 1.
    pub fn dominant_share(&self, nodes: &[Node]) -> f64 {
        let total = |pick: fn(&NodeCapacity) -> u64| {
            nodes.iter().map(|node| pick(&node.capacity) as f64).sum::<f64>()
        };
        let share = |need: u64, total: f64| if total > 0.0 { (need as f64 / total).min(1.0) } else { 1.0 };
        let memory = share(self.memory_bytes, total(|capacity| capacity.memory_bytes));
        let cpu = share(self.cpu_milli, total(|capacity| capacity.cpu_milli));
        let disk = share(self.disk_bytes, total(|capacity| capacity.disk_bytes));
        memory.max(cpu).max(disk)
    }
}
