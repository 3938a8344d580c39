//! What nobody reports: silent nodes, stuck attempts, cancels, and rows that have served their time.

use std::time::Duration;

use bulkhead_store::{AttemptEnd, EndReport, OVERDUE_BATCH, OverdueLease, StoreError};

use crate::intake::Intake;
use crate::registry::NodeCommand;
use crate::writer::warn;

/// Between two rounds of tidying.
const TIDY: Duration = Duration::from_secs(3600);
/// Nodes that were silent for this long are forgotten.
const FORGET_NODES: Duration = Duration::from_secs(7 * 24 * 3600);

/// Ends attempts whose lease has expired or whose time is long over, for as long as this process leads.
pub(crate) async fn expire(intake: &Intake) {
    loop {
        match intake.store.leases_overdue().await {
            Ok(overdue) => {
                let more = overdue.len() >= OVERDUE_BATCH as usize;
                let ends = overdue.into_iter().map(|lease| end(intake, lease));
                for end in ends.map(tokio::spawn).collect::<Vec<_>>() {
                    // A task that panics has logged so; the lease is found again.
                    let _ = end.await;
                }
                if more {
                    continue;
                }
            }
            Err(error) => warn(&error, "overdue leases can't be read"),
        }
        tokio::time::sleep(intake.config.reconcile).await;
    }
}

fn end(intake: &Intake, lease: OverdueLease) -> impl Future<Output = ()> + Send + 'static {
    let OverdueLease { key, node, stuck, .. } = lease;
    let reason = if stuck {
        format!("node {node} is well but did not start or end the attempt in time")
    } else {
        format!(
            "node {node} was not heard of, or did not list the attempt, for {} s",
            intake.config.lease.as_secs()
        )
    };
    tracing::warn!(%key, %node, stuck, "an attempt is lost");
    // If the node is there after all, it ends what it still has of it.
    intake.registry.tell(&node, NodeCommand::Stop(key));
    let writer = intake.writer.clone();
    async move {
        let end = AttemptEnd { node: None, key, report: EndReport::Lost(reason) };
        // Refused only when the service stops; the lease is then found again after the next start.
        let _ = writer.attempt_ended(end).await;
    }
}

/// Tells nodes of attempts whose owner wants their end. Heartbeats tell them again.
pub(crate) async fn tell_cancels(intake: &Intake) {
    loop {
        match intake.store.cancels_pending().await {
            Ok(pending) => {
                for (key, node) in pending {
                    intake.registry.tell(&node, NodeCommand::Cancel(key));
                }
            }
            Err(error) => {
                warn(&error, "cancels can't be read");
                tokio::time::sleep(intake.config.retry).await;
            }
        }
        intake.store.notifier().cancel_requested().await;
    }
}

/// Forgets what has served its time.
pub(crate) async fn tidy(intake: &Intake) {
    loop {
        if let Err(error) = tidy_once(intake).await {
            warn(&error, "tidying was interrupted");
        }
        tokio::time::sleep(TIDY).await;
    }
}

async fn tidy_once(intake: &Intake) -> Result<(), StoreError> {
    let requests = intake.store.requests_prune(intake.config.keep_requests).await?;
    let nodes = intake.store.nodes_prune(FORGET_NODES).await?;
    tracing::debug!(requests, nodes, "tidied");
    Ok(())
}
