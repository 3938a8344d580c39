use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_store::{FleetStore, Leader, StoreError};
use tokio_util::sync::CancellationToken;

use crate::SchedulerConfig;
use crate::dispatch::Dispatcher;
use crate::intake::Intake;
use crate::reconcile;
use crate::registry::Registry;
use crate::writer::{Writer, warn};

/// The scheduler of this process; it works while it leads.
pub struct Scheduler {
    intake: Intake,
}

impl Scheduler {
    /// Makes a scheduler; [`Self::run`] sets it to work. Must be called in a Tokio runtime.
    pub fn new(store: FleetStore, config: SchedulerConfig) -> Self {
        let writer = Writer::start(store.clone(), config.retry);
        let intake = Intake {
            store,
            registry: Arc::new(Registry::default()),
            writer,
            leading: Arc::new(AtomicBool::new(false)),
            config,
        };
        Self { intake }
    }

    /// Where nodes' messages go.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// Leads whenever nobody else does, until `shutdown`. Reports that were taken are still written after that.
    pub async fn run(self, shutdown: CancellationToken) {
        let intake = &self.intake;
        let work = async {
            loop {
                match intake.store.leader_try().await {
                    Ok(Some(leader)) => {
                        if let Err(error) = lead(intake, leader).await {
                            warn(&error, "the leadership was lost");
                        }
                        intake.leading.store(false, Ordering::Release);
                    }
                    Ok(None) => tracing::debug!("another process leads"),
                    Err(error) => warn(&error, "the database can't be reached"),
                }
                tokio::time::sleep(intake.config.retry).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        intake.leading.store(false, Ordering::Release);
    }
}

/// Leads until the database takes the leadership away.
async fn lead(intake: &Intake, mut leader: Leader) -> Result<(), StoreError> {
    // Nobody could renew while nobody led.
    let extended = intake.store.leases_extend_all(intake.config.lease).await?;
    intake.leading.store(true, Ordering::Release);
    tracing::info!(leases = extended, "this process leads");
    let dispatch = async {
        let mut dispatcher = Dispatcher::default();
        loop {
            // Whatever happens from here on wakes the next wait.
            if !dispatcher.step(&mut leader, intake).await? {
                intake.store.notifier().queue_changed().await;
            }
        }
    };
    tokio::select! {
        ended = dispatch => ended,
        () = reconcile::expire(intake) => Ok(()),
        () = reconcile::tell_cancels(intake) => Ok(()),
        () = reconcile::tidy(intake) => Ok(()),
    }
}
