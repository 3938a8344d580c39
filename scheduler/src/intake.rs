//! What the server calls for each message of a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_store::{
    AttemptEnd, AttemptStart, EndReport, Ended, FleetStore, LeaseProgress, LeaseStatus, NewNode, NodeRecord,
    OutputAppend, RequestKey, StoreError,
};
use bulkhead_types::{AttemptKey, AttemptOutcome, Digest, NodeId, OutputStream, TenantId};

use crate::SchedulerConfig;
use crate::registry::{NodeCommand, NodeLink, Registry, Session};
use crate::writer::{Stopped, Writer};

/// Most attempts that one heartbeat or registration may list.
const MAX_LISTED: usize = 10_000;

/// Why a node's message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Another control process leads: the node has to connect there.
    #[error("this process does not lead; connect to another one")]
    NotLeader,
    /// The node has a newer connection.
    #[error("node {node} has connected anew; this connection is over")]
    Superseded {
        /// The node.
        node: NodeId,
    },
    /// More attempts than any node can run.
    #[error("a message may list at most {MAX_LISTED} attempts")]
    TooMany,
    /// The service stops; the node keeps its report and connects again.
    #[error("the scheduler is stopping")]
    Stopping,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Stopped> for IntakeError {
    fn from(_: Stopped) -> Self {
        Self::Stopping
    }
}

/// A node connects.
#[derive(Debug, Clone)]
pub struct Registration {
    /// What it says of itself; its id is the certificate's.
    pub node: NewNode,
    /// Every attempt that it runs, or has unconfirmed results of.
    pub attempts: Vec<AttemptKey>,
}

/// What a node that has connected is told.
#[derive(Debug, Clone)]
pub struct Registered {
    /// To be given with each later call.
    pub session: Session,
    /// Of what it has presented: what is still its own, with whether it is to be cancelled.
    pub current: Vec<LeaseStatus>,
    /// Of what it has presented: what to kill and drop.
    pub stale: Vec<AttemptKey>,
    /// How long it has attempts without renewing.
    pub lease: Duration,
    /// How often to send a heartbeat.
    pub heartbeat: Duration,
    /// Whether the operator drains it.
    pub draining: bool,
}

/// A node is well.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat {
    /// Every attempt that it has got and whose end was not confirmed: what it does not list, it loses.
    pub attempts: Vec<LeaseProgress>,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Listed, but not the node's any more: to be killed and dropped.
    pub stale: Vec<AttemptKey>,
    /// Whose owner wants their end.
    pub cancelled: Vec<AttemptKey>,
    /// Of which no start is known: those that have started are to be reported again, since a crash of PostgreSQL may
    /// have taken the report back.
    pub unstarted: Vec<AttemptKey>,
}

/// Takes what nodes say. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    pub(crate) store: FleetStore,
    pub(crate) registry: Arc<Registry>,
    pub(crate) writer: Writer,
    pub(crate) leading: Arc<AtomicBool>,
    pub(crate) config: SchedulerConfig,
}

impl Intake {
    /// Whether this process leads now.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Acquire)
    }

    /// A node has connected. Attempts that the database gives to it and that it does not present are lost; those that
    /// it presents and that are still its own go on.
    ///
    /// # Errors
    /// [`IntakeError::NotLeader`], [`IntakeError::TooMany`], [`IntakeError::Store`]; the node is then not connected.
    #[tracing::instrument(skip_all, fields(node = %registration.node.id))]
    pub async fn register(
        &self,
        registration: Registration,
        link: NodeLink,
    ) -> Result<Registered, IntakeError> {
        if !self.is_leading() {
            return Err(IntakeError::NotLeader);
        }
        if registration.attempts.len() > MAX_LISTED {
            return Err(IntakeError::TooMany);
        }
        let session = self.registry.connect(&registration.node.id, link);
        match self.settle(&session, registration).await {
            Ok(registered) => Ok(registered),
            Err(error) => {
                self.registry.disconnect(&session);
                Err(error)
            }
        }
    }

    async fn settle(&self, session: &Session, registration: Registration) -> Result<Registered, IntakeError> {
        let record = self.store.node_put(&registration.node).await?;
        let leases = self.store.leases_of_node(&session.node).await?;
        let (current, missing): (Vec<_>, Vec<_>) =
            leases.into_iter().partition(|lease| registration.attempts.contains(&lease.key));
        for lease in missing {
            let report = if lease.started {
                EndReport::Lost(format!("node {} came back without the attempt", session.node))
            } else {
                EndReport::Undelivered(format!("the attempt did not reach node {}", session.node))
            };
            self.writer.attempt_ended(AttemptEnd { node: None, key: lease.key, report }).await?;
        }
        // From now on the leases of what it has presented run anew.
        let progress: Vec<LeaseProgress> = (current.iter())
            .map(|lease| LeaseProgress { key: lease.key, cpu_us: 0, memory_bytes: 0, output_bytes: 0 })
            .collect();
        let current = self.store.leases_renew(&session.node, &progress, self.config.lease).await?;
        let is_current = |key: &AttemptKey| current.iter().any(|lease| lease.key == *key);
        let stale: Vec<AttemptKey> =
            registration.attempts.into_iter().filter(|key| !is_current(key)).collect();
        if self.registry.settle(session, stale.is_empty()) {
            self.store.notifier().queue_wake();
        }
        tracing::info!(current = current.len(), stale = stale.len(), "a node has connected");
        Ok(Registered {
            session: session.clone(),
            current,
            stale,
            lease: self.config.lease,
            heartbeat: self.config.heartbeat,
            draining: record.draining,
        })
    }

    /// A node is well: its leases are renewed. It gets new jobs only while everything that it lists is its own.
    ///
    /// # Errors
    /// [`IntakeError::Superseded`], [`IntakeError::TooMany`], [`IntakeError::Store`].
    #[tracing::instrument(level = "debug", skip_all, fields(node = %session.node))]
    pub async fn heartbeat(
        &self,
        session: &Session,
        heartbeat: Heartbeat,
    ) -> Result<HeartbeatReply, IntakeError> {
        self.check(session)?;
        if heartbeat.attempts.len() > MAX_LISTED {
            return Err(IntakeError::TooMany);
        }
        let leases = self.store.leases_renew(&session.node, &heartbeat.attempts, self.config.lease).await?;
        let listed: Vec<AttemptKey> = heartbeat.attempts.iter().map(|attempt| attempt.key).collect();
        let current: Vec<AttemptKey> = leases.iter().map(|lease| lease.key).collect();
        let stale = self.registry.strangers(session, &listed, &current);
        if self.registry.settle(session, stale.is_empty()) {
            self.store.notifier().queue_wake();
        }
        let keys = |wanted: fn(&LeaseStatus) -> bool| {
            leases.iter().filter(|lease| wanted(lease)).map(|lease| lease.key).collect()
        };
        let (cancelled, unstarted) = (keys(|lease| lease.cancelled), keys(|lease| !lease.started));
        Ok(HeartbeatReply { stale, cancelled, unstarted })
    }

    /// The job's first instruction ran `age` ago. Not confirmed: a start that is lost is told by the attempt's end.
    ///
    /// # Errors
    /// [`IntakeError::Superseded`], [`IntakeError::Stopping`].
    pub async fn attempt_started(
        &self,
        session: &Session,
        key: AttemptKey,
        age: Duration,
    ) -> Result<(), IntakeError> {
        self.check(session)?;
        Ok(self.writer.attempt_started(AttemptStart { node: session.node.clone(), key, age }).await?)
    }

    /// A chunk of output. Answers with the length of the stream that is stored: the node drops its spool up to there.
    /// What lies behind the first 64 KiB must have been stored by the caller before. Without `flush` it is durable
    /// only with the attempt's end, which has to follow, and must not be confirmed before.
    ///
    /// # Errors
    /// [`IntakeError::Superseded`]; of the store, [`StoreError::StaleAttempt`] (the node stops the attempt) and
    /// [`StoreError::OutputGap`] (the node sends from what is stored).
    pub async fn output_chunk(
        &self,
        session: &Session,
        key: AttemptKey,
        stream: OutputStream,
        offset: u64,
        bytes: &[u8],
        flush: bool,
    ) -> Result<u64, IntakeError> {
        self.check(session)?;
        let chunk = OutputAppend { node: &session.node, key, stream, offset, bytes, flush };
        Ok(self.store.output_append(chunk).await?)
    }

    /// The blob that holds a whole stream, before the attempt's end is reported. Answers with the length of the stream.
    ///
    /// # Errors
    /// [`IntakeError::Superseded`]; of the store, [`StoreError::StaleAttempt`].
    pub async fn output_sealed(
        &self,
        session: &Session,
        key: AttemptKey,
        stream: OutputStream,
        digest: Digest,
    ) -> Result<u64, IntakeError> {
        self.check(session)?;
        Ok(self.store.output_seal(&session.node, key, stream, digest).await?)
    }

    /// Whose attempt it is, if it is the node's: for blobs and images that the node fetches or uploads for it.
    ///
    /// # Errors
    /// [`IntakeError::Superseded`]; of the store, [`StoreError::StaleAttempt`].
    pub async fn attempt_tenant(&self, session: &Session, key: AttemptKey) -> Result<TenantId, IntakeError> {
        self.check(session)?;
        Ok(self.store.attempt_tenant(&session.node, key).await?)
    }

    /// An attempt has ended, all of its output having been stored before. Returns when that is durable; whatever the
    /// answer, the node drops what it has of the attempt.
    ///
    /// # Errors
    /// [`IntakeError::Superseded`], [`IntakeError::Stopping`]: the node keeps it and reports it again.
    #[tracing::instrument(level = "debug", skip_all, fields(%key))]
    pub async fn attempt_finished(
        &self,
        session: &Session,
        key: AttemptKey,
        outcome: AttemptOutcome,
    ) -> Result<Ended, IntakeError> {
        self.check(session)?;
        self.registry.note_end(session, key);
        let report = EndReport::Outcome(Box::new(outcome));
        let end = AttemptEnd { node: Some(session.node.clone()), key, report };
        Ok(self.writer.attempt_ended(end).await?)
    }

    /// A node has said that it will go (it got SIGTERM): it gets no new jobs, and ends or finishes what it has.
    pub fn leaving(&self, session: &Session) {
        self.registry.leave(session);
    }

    /// A connection is over. The node's attempts go on until it comes back or their leases expire.
    pub fn disconnect(&self, session: &Session) {
        tracing::info!(node = %session.node, "a node has disconnected");
        self.registry.disconnect(session);
    }

    /// An operator drains a node, or ends that. Attempts under way go on.
    ///
    /// # Errors
    /// Of the store, [`StoreError::NotFound`] and [`StoreError::RequestIdReused`].
    pub async fn node_drain(
        &self,
        node: &NodeId,
        draining: bool,
        request: Option<&RequestKey>,
    ) -> Result<NodeRecord, IntakeError> {
        let record = self.store.node_drain(node, draining, request).await?;
        self.registry.tell(node, NodeCommand::Drain(record.draining));
        Ok(record)
    }

    /// Whether a node is connected to this process.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.registry.is_connected(node)
    }

    fn check(&self, session: &Session) -> Result<(), IntakeError> {
        if self.registry.is_current(session) {
            return Ok(());
        }
        Err(IntakeError::Superseded { node: session.node.clone() })
    }
}
