//! From the queue to the nodes: look, plan, lease, send; again while that makes progress.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_placement::{
    Assign, KNOWN_FOR, Kept, Ledger, MIN_CHARGE, Need, Node, Snapshot, WaitingJob, plan,
};
use bulkhead_store::{
    AttemptEnd, Claim, Claimed, EndReport, Leader, NodeUsage, QueueHead, StoreError, TenantUsage, WRITE_BATCH,
};
use bulkhead_types::{
    AttemptOutcome, AttemptState, Backend, NodeId, StreamTotals, TenantId, Timestamp, Usage,
};

use crate::intake::Intake;
use crate::registry::{Assignment, NodeCommand, Session};

/// How many waiting jobs of each tenant a plan looks at: more than fit into the gaps that one look finds.
const HEADS_PER_TENANT: u32 = 64;

/// Between two samples of what runs, for the ledger: a fraction of what fades or matters.
const SAMPLE: Duration = Duration::from_millis(500);

/// The dispatcher's state between looks; a new leader starts with everyone's use forgotten.
#[derive(Default)]
pub(crate) struct Dispatcher {
    ledger: Ledger,
    /// When running attempts were last charged.
    charged: Option<Timestamp>,
    /// What the last plan kept free, for the next charge.
    kept: Option<Kept>,
}

impl Dispatcher {
    /// One look at the queue. Answers with whether there may be more to do at once.
    pub(crate) async fn step(&mut self, leader: &mut Leader, intake: &Intake) -> Result<bool, StoreError> {
        let heads = leader.queue_heads(HEADS_PER_TENANT).await?;
        if heads.is_empty() {
            self.kept = None;
            return Ok(false);
        }
        let usage = leader.node_usage(KNOWN_FOR).await?;
        // Which connections the plan is for: a node that connects anew meanwhile gets nothing of it.
        let sessions = intake.registry.available();
        let Some(now) = usage.first().map(|node| node.now) else { return Ok(false) };
        let nodes: Vec<Node> = usage.iter().map(|node| placement_node(node, &sessions)).collect();
        if self.charged.is_none_or(|before| now.since(before) >= SAMPLE) {
            self.charge(&leader.tenant_usage().await?, &nodes, now);
        }
        let snapshot = Snapshot {
            queue: heads.into_iter().map(waiting_job).collect(),
            nodes,
            ledger: self.ledger.clone(),
        };
        let plan = plan(&snapshot, now);
        self.kept = plan.kept;
        let mut progress = false;
        for rejects in plan.reject.chunks(WRITE_BATCH) {
            let jobs: Vec<_> = rejects.iter().map(|reject| (reject.job, reject.reason.clone())).collect();
            progress |= !leader.reject(&jobs).await?.is_empty();
        }
        for assigns in plan.assign.chunks(WRITE_BATCH) {
            progress |= self.assign(leader, intake, assigns, &sessions).await?;
        }
        Ok(progress)
    }

    /// Charges tenants for what ran since the last look.
    fn charge(&mut self, tenants: &[TenantUsage], nodes: &[Node], now: Timestamp) {
        self.ledger.fade(now);
        let passed = self.charged.replace(now).map_or(Duration::ZERO, |before| now.since(before));
        for usage in tenants {
            let need = Need {
                memory_bytes: usage.memory_bytes,
                cpu_milli: usage.cpu_milli,
                disk_bytes: usage.disk_bytes,
            };
            self.ledger.charge(&usage.tenant, need.dominant_share(nodes), passed);
        }
        if let Some(kept) = &self.kept {
            self.ledger.charge(&kept.tenant, kept.share, passed);
        }
    }

    async fn assign(
        &mut self,
        leader: &mut Leader,
        intake: &Intake,
        assigns: &[Assign],
        sessions: &BTreeMap<NodeId, Session>,
    ) -> Result<bool, StoreError> {
        let claims: Vec<Claim> = assigns
            .iter()
            .map(|a| Claim { job: a.job, node: a.node.clone(), memory_bytes: a.memory_bytes })
            .collect();
        let claimed = leader.claim(&claims, intake.config.lease, intake.config.start_within).await?;
        let progress = !claimed.is_empty();
        let shares: BTreeMap<_, (&TenantId, f64)> =
            assigns.iter().map(|assign| (assign.job, (&assign.tenant, assign.share))).collect();
        for claimed in claimed {
            if let Some((tenant, share)) = shares.get(&claimed.key.job) {
                // What even a job that ends before the next look is charged.
                self.ledger.charge(tenant, *share, MIN_CHARGE);
            }
            send(intake, claimed, sessions).await;
        }
        Ok(progress)
    }
}

/// Sends a leased job to its node; one that can't go is reported at once.
async fn send(intake: &Intake, claimed: Claimed, sessions: &BTreeMap<NodeId, Session>) {
    let Claimed { key, tenant, node, spec, image_digest } = claimed;
    let report = match spec {
        Ok(spec) => {
            let assignment = Assignment { key, tenant, spec, image_digest, lease: intake.config.lease };
            let session = sessions.get(&node);
            let command = NodeCommand::Start(Box::new(assignment));
            if session.is_some_and(|session| intake.registry.send(session, command)) {
                return;
            }
            EndReport::Undelivered(format!("the connection to node {node} was lost or is too slow"))
        }
        Err(error) => {
            tracing::error!(%key, error = &error as &dyn std::error::Error, "a job can't be read");
            EndReport::Outcome(Box::new(unreadable(&error)))
        }
    };
    // In a task of its own: a full queue of reports must not keep the others from starting.
    let writer = intake.writer.clone();
    tokio::spawn(async move {
        // Refused only when the service stops; the lease then expires.
        let _ = writer.attempt_ended(AttemptEnd { node: None, key, report }).await;
    });
}

fn unreadable(error: &StoreError) -> AttemptOutcome {
    AttemptOutcome {
        state: AttemptState::Failed,
        termination: None,
        reason: format!("the job could not be started: {error}"),
        usage: Usage::default(),
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
        outputs: Vec::new(),
        output_problems: Vec::new(),
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    }
}

fn placement_node(usage: &NodeUsage, sessions: &BTreeMap<NodeId, Session>) -> Node {
    Node {
        node: usage.node.id.clone(),
        capacity: usage.node.capacity,
        overhead: usage.node.overhead,
        microvm: usage.node.offered(Backend::Microvm.runs_on()),
        used_memory_bytes: usage.memory_bytes,
        used_cpu_milli: usage.cpu_milli,
        used_disk_bytes: usage.disk_bytes,
        used_sandboxes: usage.sandboxes,
        available: !usage.node.draining && sessions.contains_key(&usage.node.id),
    }
}

fn waiting_job(head: QueueHead) -> WaitingJob {
    WaitingJob {
        job: head.job,
        tenant: head.tenant,
        weight: head.weight,
        priority: head.priority,
        need: Need {
            memory_bytes: head.memory_bytes,
            cpu_milli: head.cpu_milli,
            disk_bytes: head.disk_bytes,
        },
        backend: head.backend,
        avoid: head.avoid_nodes,
        created: head.created,
    }
}
