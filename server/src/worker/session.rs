//! One connection of a node: registration, then heartbeats, leases and reports until either side ends it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_proto::worker::from_worker::Message as FromNode;
use bulkhead_proto::worker::to_worker::Message as ToNode;
use bulkhead_proto::worker::{
    AttemptId, BackendOffer as OfferMessage, CancelAttempt, FromWorker, Heartbeat, Lease, LeasesRenewed,
    OutputAck, Register, Registered, ToWorker,
};
use bulkhead_scheduler::{
    Assignment, Heartbeat as Alive, IntakeError, LeaseProgress, NewNode, NodeCommand, NodeLink, Registration,
    Session,
};
use bulkhead_telemetry::Chain;
use bulkhead_types::{
    AttemptKey, AttemptOutcome, AttemptState, Backend, BackendOffer, ImageRef, NodeCapacity, NodeId,
    SandboxOverhead, StreamTotals, Usage, bounds,
};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::attempt::{AttemptTask, Broken, MAILBOX, Said};
use super::keys::{attempt_id, attempt_key, stream_number, stream_of};
use crate::api::Shared;
use crate::error::ApiError;

/// A node that has connected says Register within this time.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// Messages to a node that may wait for its connection.
const OUTBOUND: usize = 256;
/// Most sandboxes of a node; bounds what may be under way to it.
const MAX_SANDBOXES: i32 = 4096;
/// Most attempts that one message lists.
const MAX_LISTED: usize = 10_000;
/// Most backends that a node names.
const MAX_BACKENDS: usize = 8;
/// Longest version or backend, in bytes.
const MAX_TEXT: usize = 64;
/// Longest text of an outcome that is kept, or of a reason for which a node has no backend, in bytes.
const MAX_REASON: usize = 4096;
/// Most lines of problems, and most system calls, of an outcome that are kept.
const MAX_LINES: usize = 256;
/// Oldest start that is believed: clocks of nodes may be wrong.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Serves a node's connection in a task of its own; the answer is what is sent to the node.
pub(super) fn start(
    service: Shared,
    node: NodeId,
    inbound: Streaming<FromWorker>,
) -> impl Stream<Item = Result<ToWorker, Status>> + Send + use<> {
    let (to_node, outbound) = mpsc::channel::<ToNode>(OUTBOUND);
    let (end, ended) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let error = match serve(service, &node, inbound, to_node).await {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::info!(%node, error = %Chain(&error), "a node's connection ends");
        // The node may be gone; then nobody listens.
        let _ = end.send(status(error));
    });
    let messages = ReceiverStream::new(outbound).map(|message| Ok(ToWorker { message: Some(message) }));
    messages.chain(futures::stream::once(ended).filter_map(|status| async move { status.ok().map(Err) }))
}

fn status(error: Broken) -> Status {
    match error {
        Broken::Api(error) => error.into(),
        Broken::TooLong(_) => ApiError::field("output", error.to_string()).into(),
        other => ApiError::Unavailable { what: "the service", source: Some(other.into()) }.into(),
    }
}

/// A connection that has registered.
struct Connection {
    service: Shared,
    session: Session,
    to_node: mpsc::Sender<ToNode>,
    /// What the node has, by its reports and by what it was sent, with the name that it knows the attempt by and the
    /// progress that it last told. Until its end is confirmed here it is part of each heartbeat.
    held: HashMap<AttemptKey, Held>,
    tasks: JoinSet<(AttemptKey, Result<(), Broken>)>,
    lease: Duration,
}

struct Held {
    id: AttemptId,
    progress: LeaseProgress,
    /// Whether the node has shown that it has it: only then may we renew it on the node's behalf.
    seen: bool,
    /// Whether an earlier connection brought it.
    resumed: bool,
    /// When it started, if it has said so.
    started: Option<Instant>,
    inbox: Option<mpsc::Sender<Said>>,
}

async fn serve(
    service: Shared,
    node: &NodeId,
    mut inbound: Streaming<FromWorker>,
    to_node: mpsc::Sender<ToNode>,
) -> Result<(), Broken> {
    let first = tokio::time::timeout(REGISTER_WITHIN, next(&mut inbound)).await;
    let Ok(Some(FromNode::Register(register))) = first else {
        return Err(ApiError::field("register", "the first message must be Register").into());
    };
    let sandboxes = usize::try_from(register.max_sandboxes.clamp(1, MAX_SANDBOXES)).unwrap_or(1);
    let (commands, mut orders) = mpsc::channel(2 * sandboxes + OUTBOUND);
    let mut ids = HashMap::new();
    for id in register.attempts.iter().take(MAX_LISTED) {
        ids.insert(attempt_key(Some(id))?, id.clone());
    }
    let leaving = register.draining;
    let registration =
        Registration { node: new_node(node, register)?, attempts: ids.keys().copied().collect() };
    let registered = service.intake.register(registration, NodeLink { commands }).await?;
    let mut connection = Connection {
        service,
        session: registered.session.clone(),
        to_node,
        held: HashMap::new(),
        tasks: JoinSet::new(),
        lease: registered.lease,
    };
    if leaving {
        connection.service.intake.leaving(&connection.session);
    }
    let result = async {
        connection.answer(registered, &ids).await?;
        connection.run(&mut inbound, &mut orders).await
    }
    .await;
    connection.service.intake.disconnect(&connection.session);
    result
}

/// The node's next message; none when the connection is over.
async fn next(inbound: &mut Streaming<FromWorker>) -> Option<FromNode> {
    match inbound.message().await {
        Ok(message) => message?.message,
        Err(status) => {
            tracing::debug!(error = status.message(), "a node's connection broke");
            None
        }
    }
}

fn new_node(node: &NodeId, register: Register) -> Result<NewNode, ApiError> {
    let size = |field: &str, value: i64| {
        u64::try_from(value).map_err(|_| ApiError::field(field, "must not be negative"))
    };
    let text = |text: &String| text.len() <= MAX_TEXT && !text.contains('\0');
    if register.offers.len() > MAX_BACKENDS || !text(&register.version) {
        return Err(ApiError::field("register", "offers and version must be short"));
    }
    let offer = |offer: OfferMessage| {
        if !text(&offer.name) || offer.unavailable.len() > MAX_REASON {
            return Err(ApiError::field("register.offers", "names and reasons must be short"));
        }
        Ok(BackendOffer {
            name: offer.name,
            overhead: SandboxOverhead {
                memory_bytes: size("register.offers.overhead_bytes", offer.overhead_bytes)?,
                memory_per_mib: size("register.offers.overhead_bytes_per_mib", offer.overhead_bytes_per_mib)?,
            },
            unavailable: (!offer.unavailable.is_empty()).then(|| offer.unavailable.replace('\0', "")),
        })
    };
    let offers = register.offers.into_iter().map(offer).collect::<Result<Vec<_>, ApiError>>()?;
    let there = || offers.iter().filter(|offer| offer.unavailable.is_none());
    let sentry = there().find(|offer| offer.name == Backend::Sentry.runs_on());
    Ok(NewNode {
        id: node.clone(),
        capacity: NodeCapacity {
            memory_bytes: size("register.memory_bytes", register.memory_bytes)?,
            cpu_milli: size("register.cpu_milli", register.cpu_milli)?,
            disk_bytes: size("register.disk_bytes", register.disk_bytes)?,
            sandboxes: register.max_sandboxes.clamp(0, MAX_SANDBOXES).unsigned_abs().into(),
        },
        overhead: sentry.map_or(SandboxOverhead::fixed(0), |offer| offer.overhead),
        backends: there().map(|offer| offer.name.clone()).collect(),
        offers,
        labels: BTreeMap::new(),
        version: register.version,
    })
}

impl Connection {
    async fn tell(&self, message: ToNode) -> Result<(), Broken> {
        self.to_node.send(message).await.map_err(|_| Broken::Gone)
    }

    /// Says what the node may keep, and how far its streams are stored.
    async fn answer(
        &mut self,
        registered: bulkhead_scheduler::Registered,
        ids: &HashMap<AttemptKey, AttemptId>,
    ) -> Result<(), Broken> {
        let mut positions = Vec::new();
        for lease in &registered.current {
            let Some(id) = ids.get(&lease.key) else { continue };
            positions.extend(self.positions(lease.key, id).await?);
            self.hold(lease.key, id.clone(), true).resumed = true;
        }
        let unwanted = registered.stale.iter().filter_map(|key| ids.get(key).cloned()).collect();
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.tell(ToNode::Registered(Registered {
            unwanted,
            heartbeat_interval_ms: millis(registered.heartbeat),
            lease_ms: millis(registered.lease),
            positions,
        }))
        .await?;
        for lease in registered.current.iter().filter(|lease| lease.cancelled) {
            self.cancel(lease.key, false).await?;
        }
        Ok(())
    }

    async fn positions(&self, key: AttemptKey, id: &AttemptId) -> Result<Vec<OutputAck>, Broken> {
        let tenant = match self.service.intake.attempt_tenant(&self.session, key).await {
            Ok(tenant) => tenant,
            Err(IntakeError::Store(bulkhead_store::StoreError::StaleAttempt { .. })) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let progress = self.service.store.job_progress(&tenant, key.job, u64::MAX).await;
        let streams = progress.map_err(IntakeError::Store)?.streams;
        let of_attempt = streams.into_iter().filter(|stream| stream.attempt == key.attempt);
        Ok(of_attempt
            .map(|stream| OutputAck {
                id: Some(id.clone()),
                stream: stream_number(stream.stream),
                durable: i64::try_from(stream.stored_bytes).unwrap_or(i64::MAX),
            })
            .collect())
    }

    fn hold(&mut self, key: AttemptKey, id: AttemptId, seen: bool) -> &mut Held {
        let progress = LeaseProgress { key, cpu_us: 0, memory_bytes: 0, output_bytes: 0 };
        let held = self.held.entry(key).or_insert(Held {
            id,
            progress,
            seen,
            resumed: false,
            started: None,
            inbox: None,
        });
        held.seen |= seen;
        held
    }

    async fn run(
        &mut self,
        inbound: &mut Streaming<FromWorker>,
        orders: &mut mpsc::Receiver<NodeCommand>,
    ) -> Result<(), Broken> {
        let shutdown = self.service.shutdown.clone();
        loop {
            tokio::select! {
                message = next(inbound) => match message {
                    Some(message) => self.handle(message).await?,
                    None => return Ok(()),
                },
                order = orders.recv() => match order {
                    Some(order) => self.order(order).await?,
                    // The node has a newer connection.
                    None => return Ok(()),
                },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    let (key, result) = ended.map_err(|error| Broken::Api(ApiError::internal(error)))?;
                    self.held.remove(&key);
                    result?;
                }
                () = shutdown.cancelled() => {
                    return Err(ApiError::Unavailable { what: "the service", source: None }.into());
                }
            }
        }
    }

    async fn handle(&mut self, message: FromNode) -> Result<(), Broken> {
        match message {
            FromNode::Register(_) => Err(ApiError::field("register", "came twice").into()),
            FromNode::Heartbeat(heartbeat) => self.heartbeat(heartbeat).await,
            FromNode::Started(started) => {
                let age = age(started.time_us);
                let key = attempt_key(started.id.as_ref())?;
                self.said(started.id, Said::Started { age }).await?;
                if let Some(held) = self.held.get_mut(&key) {
                    held.started = Instant::now().checked_sub(age);
                }
                Ok(())
            }
            FromNode::Output(chunk) => {
                let stream = stream_of(chunk.stream)?;
                let offset = u64::try_from(chunk.offset)
                    .map_err(|_| ApiError::field("output.offset", "must not be negative"))?;
                self.said(chunk.id, Said::Output { stream, offset, bytes: chunk.data.into() }).await
            }
            FromNode::Finished(finished) => {
                let outcome: AttemptOutcome = serde_json::from_slice(&finished.outcome_json)
                    .map_err(|error| ApiError::field("finished.outcome_json", error.to_string()))?;
                self.said(finished.id, Said::Finished(Box::new(bounded(outcome)))).await
            }
            FromNode::Draining(_) => {
                self.service.intake.leaving(&self.session);
                Ok(())
            }
        }
    }

    /// Hands something to the task of its attempt, which the first of an attempt starts.
    async fn said(&mut self, id: Option<AttemptId>, said: Said) -> Result<(), Broken> {
        let key = attempt_key(id.as_ref())?;
        let (service, session, to_node) = (self.service.clone(), self.session.clone(), self.to_node.clone());
        if self.held.len() >= MAX_LISTED && !self.held.contains_key(&key) {
            return Err(IntakeError::TooMany.into());
        }
        let id = id.unwrap_or_default();
        let held = self.hold(key, id.clone(), true);
        let resumed = held.resumed;
        let inbox = match &held.inbox {
            Some(inbox) => inbox.clone(),
            None => {
                let (sender, receiver) = mpsc::channel(MAILBOX);
                held.inbox = Some(sender.clone());
                let task = AttemptTask { service, session, key, id, to_node, resumed };
                self.tasks.spawn(async move { (key, task.run(receiver).await) });
                sender
            }
        };
        // A task that has ended tells why by its result.
        let _ = inbox.send(said).await;
        Ok(())
    }

    async fn heartbeat(&mut self, heartbeat: Heartbeat) -> Result<(), Broken> {
        for progress in heartbeat.progress.iter().take(MAX_LISTED) {
            let key = attempt_key(progress.id.as_ref())?;
            let number = |value: i64| u64::try_from(value).unwrap_or(0);
            let told = LeaseProgress {
                key,
                cpu_us: number(progress.cpu_us),
                memory_bytes: number(progress.memory_bytes),
                output_bytes: number(progress.output_bytes),
            };
            self.hold(key, progress.id.clone().unwrap_or_default(), true).progress = told;
        }
        // Also those that have ended there and whose results are on their way.
        let attempts = self.held.values().filter(|held| held.seen).map(|held| held.progress).collect();
        let reply = self.service.intake.heartbeat(&self.session, Alive { attempts }).await?;
        let lease_ms = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        self.tell(ToNode::Renewed(LeasesRenewed { sequence: heartbeat.sequence, lease_ms })).await?;
        for key in reply.stale {
            self.cancel(key, true).await?;
            self.forget(key);
        }
        for key in reply.cancelled {
            self.cancel(key, false).await?;
        }
        for key in reply.unstarted {
            if let Some(started) = self.held.get(&key).and_then(|held| held.started) {
                self.service.intake.attempt_started(&self.session, key, started.elapsed()).await?;
            }
        }
        Ok(())
    }

    /// Drops what is not the node's any more, unless its task still has something to say.
    fn forget(&mut self, key: AttemptKey) {
        if self.held.get(&key).is_some_and(|held| held.inbox.is_none()) {
            self.held.remove(&key);
        }
    }

    async fn cancel(&self, key: AttemptKey, immediately: bool) -> Result<(), Broken> {
        // What was never here has nothing to end.
        let Some(held) = self.held.get(&key) else { return Ok(()) };
        self.tell(ToNode::Cancel(CancelAttempt { id: Some(held.id.clone()), immediately })).await
    }

    async fn order(&mut self, order: NodeCommand) -> Result<(), Broken> {
        match order {
            NodeCommand::Start(assignment) => self.lease(*assignment).await,
            NodeCommand::Cancel(key) => self.cancel(key, false).await,
            NodeCommand::Stop(key) => {
                self.cancel(key, true).await?;
                self.forget(key);
                Ok(())
            }
            // Only the scheduler has to know.
            NodeCommand::Drain(_) => Ok(()),
        }
    }

    async fn lease(&mut self, assignment: Assignment) -> Result<(), Broken> {
        let key = assignment.key;
        let id = attempt_id(&assignment.tenant, key);
        self.hold(key, id.clone(), false);
        match message(&self.service, assignment, id).await {
            Ok(lease) => self.tell(ToNode::Lease(lease)).await,
            Err(error) => {
                tracing::error!(%key, error = %Chain(&error), "a lease can't be sent");
                self.held.remove(&key);
                let outcome = never_ran(format!("the service could not send the job to a node: {error}"));
                self.service.intake.attempt_finished(&self.session, key, outcome).await?;
                Ok(())
            }
        }
    }
}

/// The lease as the node gets it, with the description of its image.
async fn message(service: &Shared, assignment: Assignment, id: AttemptId) -> Result<Lease, ApiError> {
    let images = service.images.clone();
    let (tenant, digest) = (assignment.tenant.clone(), assignment.image_digest);
    let find = move || images.find(&tenant, &ImageRef::Digest(digest));
    let found = tokio::task::spawn_blocking(find).await.map_err(ApiError::internal)?;
    let image = found.map_err(ApiError::internal)?.ok_or_else(|| ApiError::not_found("image", digest))?;
    Ok(Lease {
        id: Some(id),
        spec_json: serde_json::to_vec(&assignment.spec).map_err(ApiError::internal)?,
        image_digest: digest.to_string(),
        image_owner: image.owner.to_string(),
        image_config_json: image.meta.to_json().into_bytes(),
        backend: assignment.spec.backend.runs_on().into(),
    })
}

fn never_ran(reason: String) -> AttemptOutcome {
    AttemptOutcome {
        state: AttemptState::Failed,
        termination: None,
        reason,
        usage: Usage::default(),
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
        outputs: Vec::new(),
        output_problems: Vec::new(),
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    }
}

/// How long ago something was by a node's clock.
fn age(time_us: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_micros(u64::try_from(time_us).unwrap_or(0));
    now.saturating_sub(then).min(MAX_AGE)
}

/// An outcome that no list and no text can make too large to keep.
fn bounded(mut outcome: AttemptOutcome) -> AttemptOutcome {
    let cut = |text: &mut String| text.truncate(text.floor_char_boundary(MAX_REASON));
    cut(&mut outcome.reason);
    let told = outcome.outputs.len();
    outcome.outputs.retain(|file| file.path.len() <= bounds::PATH_BYTES);
    outcome.outputs.truncate(bounds::OUTPUT_FILES);
    outcome.output_problems.truncate(MAX_LINES);
    if outcome.outputs.len() < told {
        let left_out = told - outcome.outputs.len();
        outcome
            .output_problems
            .push(format!("{left_out} files are left out: too many, or their names too long"));
    }
    outcome.output_problems.iter_mut().for_each(cut);
    for calls in [&mut outcome.top_syscalls, &mut outcome.unsupported_syscalls] {
        calls.truncate(MAX_LINES);
        calls.iter_mut().for_each(|call| cut(&mut call.name));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_types::{Digest, OutputFile};

    #[test]
    fn what_an_outcome_loses_is_said() {
        let mut outcome = never_ran("é".repeat(MAX_REASON));
        let file = |length: usize| OutputFile {
            path: vec![b'x'; length],
            mode: 0o644,
            size_bytes: 1,
            digest: Digest::from_bytes([0; 32]),
            is_directory: false,
        };
        outcome.outputs = vec![file(10); bounds::OUTPUT_FILES + 1];
        outcome.outputs.push(file(bounds::PATH_BYTES + 1));
        let outcome = bounded(outcome);
        assert!(outcome.reason.len() <= MAX_REASON);
        assert_eq!(outcome.outputs.len(), bounds::OUTPUT_FILES);
        assert!(
            outcome.output_problems[0].starts_with("2 files are left out"),
            "{:?}",
            outcome.output_problems
        );
    }
}
