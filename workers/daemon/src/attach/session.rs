use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_proto::worker::from_worker::Message;
use bulkhead_proto::worker::to_worker::Message as FromServer;
use bulkhead_proto::worker::{
    AttemptId, Draining, FromWorker, Heartbeat, Lease, LeasesRenewed, OutputAck, Progress, Register,
    Registered,
};
use bulkhead_types::{AttemptKey, OutputStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Clients, from_worker, ship};
use crate::attempt::{Attempt, Stop};
use crate::capacity;
use crate::name::{AttemptName, BadName, attempt_key};
use crate::run;
use crate::worker::Node;

/// Messages that wait for the connection; output waits in the spool instead.
const OUTBOUND: usize = 64;
/// A server that does not answer in this time is not there.
const ANSWER: Duration = Duration::from_secs(10);
/// What a heartbeat interval may be; a server's other wish is cut to it.
const INTERVAL_MS: std::ops::RangeInclusive<i64> = 20..=60_000;
/// Heartbeats whose answers are still awaited, at most; older ones renew nothing.
const UNANSWERED: usize = 64;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the server ended the connection")]
    Closed,
    #[error("the server said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the server refused or dropped the connection: {}", .0.message())]
    Status(#[from] Box<Status>),
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    #[error(transparent)]
    Name(#[from] BadName),
}

/// How far a session came before it ended.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    /// Whether the server registered us.
    pub(crate) registered: bool,
    pub(crate) error: SessionError,
}

/// Connects, registers and serves until the connection ends.
pub(crate) async fn session(node: &Arc<Node>, clients: &Clients) -> SessionEnd {
    let mut registered = false;
    let error = match serve(node, clients, &mut registered).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    SessionEnd { registered, error }
}

async fn serve(
    node: &Arc<Node>,
    clients: &Clients,
    registered: &mut bool,
) -> Result<std::convert::Infallible, SessionError> {
    let (to_server, outbound) = mpsc::channel(OUTBOUND);
    let asked = Instant::now();
    // The channel is empty and holds more than one.
    let _ = to_server.try_send(from_worker(Message::Register(register(node))));
    let mut control = clients.control.clone();
    let attach = tokio::time::timeout(ANSWER, control.attach(ReceiverStream::new(outbound))).await;
    let mut inbound = attach.map_err(|_| SessionError::Silent(ANSWER))?.map_err(Box::new)?.into_inner();
    let first = tokio::time::timeout(ANSWER, next(&mut inbound)).await;
    let FromServer::Registered(answer) = first.map_err(|_| SessionError::Silent(ANSWER))?? else {
        return Err(SessionError::Protocol("its first message was not Registered"));
    };
    *registered = true;
    let mut session = Session {
        node: Arc::clone(node),
        clients: clients.clone(),
        to_server,
        tasks: JoinSet::new(),
        sequence: 0,
        unanswered: VecDeque::new(),
        lease: duration(answer.lease_ms),
    };
    let interval = duration(answer.heartbeat_interval_ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()));
    node.renew(asked + session.lease);
    session.registered(answer)?;
    session.run(inbound, interval).await
}

async fn next(inbound: &mut Streaming<bulkhead_proto::worker::ToWorker>) -> Result<FromServer, SessionError> {
    let message = inbound.message().await.map_err(Box::new)?.ok_or(SessionError::Closed)?;
    message.message.ok_or(SessionError::Protocol("an empty message"))
}

fn register(node: &Node) -> Register {
    let capacity = node.capacity;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Register {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        memory_bytes: signed(capacity.memory_bytes),
        cpu_milli: signed(capacity.cpu_milli),
        disk_bytes: signed(capacity.disk_bytes),
        max_sandboxes: i32::try_from(capacity.sandboxes).unwrap_or(i32::MAX),
        offers: node.backends.offers(),
        attempts: node.attempts().iter().map(|attempt| AttemptId::from(&attempt.name)).collect(),
        draining: node.is_draining(),
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.try_into().unwrap_or(0))
}

struct Session {
    node: Arc<Node>,
    clients: Clients,
    to_server: mpsc::Sender<FromWorker>,
    /// One per attempt that is being shipped; they end with the session.
    tasks: JoinSet<()>,
    sequence: i64,
    /// When the heartbeats were sent whose answers are awaited: a lease counts from there, not from the answer.
    unanswered: VecDeque<(i64, Instant)>,
    lease: Duration,
}

impl Session {
    fn registered(&mut self, answer: Registered) -> Result<(), SessionError> {
        for id in answer.unwanted {
            if let Some(attempt) = self.node.attempt(&attempt_key(&id)?) {
                tracing::info!(attempt = %attempt.name, "the server wants no more of an attempt");
                self.node.void(&attempt);
            }
        }
        for position in answer.positions {
            self.output_ack(position)?;
        }
        for attempt in self.node.attempts() {
            self.ship(attempt);
        }
        Ok(())
    }

    async fn run(
        mut self,
        mut inbound: Streaming<bulkhead_proto::worker::ToWorker>,
        interval: Duration,
    ) -> Result<std::convert::Infallible, SessionError> {
        let mut beats = tokio::time::interval(interval);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let node = Arc::clone(&self.node);
        let mut draining = node.draining();
        let mut heard = Instant::now();
        // Silence longer than this is as good as a closed connection; a lease lives longer than that.
        let patience = (self.lease / 2).max(interval * 3);
        loop {
            tokio::select! {
                message = next(&mut inbound) => {
                    heard = Instant::now();
                    self.handle(message?).await?;
                }
                _ = beats.tick() => {
                    if heard.elapsed() > patience {
                        return Err(SessionError::Silent(patience));
                    }
                    self.heartbeat();
                }
                () = told_to_drain(&mut draining), if !node.drain_told() => {
                    self.send(Message::Draining(Draining {})).await?;
                    node.set_drain_told();
                }
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
    }

    async fn send(&self, message: Message) -> Result<(), SessionError> {
        self.to_server.send(from_worker(message)).await.map_err(|_| SessionError::Closed)
    }

    /// Never waits: a connection that takes no heartbeat gets none, and its silence ends it.
    fn heartbeat(&mut self) {
        let progress = self.node.attempts().iter().filter_map(|attempt| progress(attempt)).collect();
        let memory_available_bytes = i64::try_from(capacity::memory_available()).unwrap_or(i64::MAX);
        let sequence = self.sequence + 1;
        let beat = Heartbeat { sequence, progress, memory_available_bytes };
        if self.to_server.try_send(from_worker(Message::Heartbeat(beat))).is_ok() {
            self.sequence = sequence;
            self.unanswered.push_back((sequence, Instant::now()));
            if self.unanswered.len() > UNANSWERED {
                self.unanswered.pop_front();
            }
        }
    }

    async fn handle(&mut self, message: FromServer) -> Result<(), SessionError> {
        match message {
            FromServer::Registered(_) => return Err(SessionError::Protocol("Registered came twice")),
            FromServer::Lease(lease) => self.lease(lease)?,
            FromServer::Cancel(cancel) => {
                if let Some(attempt) = self.node.attempt(&key(cancel.id)?) {
                    if cancel.immediately {
                        self.node.void(&attempt);
                    } else {
                        attempt.stop(Stop::Cancelled);
                    }
                }
            }
            FromServer::OutputAck(ack) => self.output_ack(ack)?,
            FromServer::FinishedAck(ack) => {
                let key = key(ack.id)?;
                if !ack.accepted {
                    tracing::info!(attempt = %key, "the server did not take an outcome: its lease had ended");
                }
                if let Some(attempt) = self.node.attempt(&key) {
                    self.node.void(&attempt);
                }
            }
            FromServer::Renewed(renewed) => self.renewed(&renewed),
        }
        Ok(())
    }

    fn lease(&mut self, lease: Lease) -> Result<(), SessionError> {
        let id = lease.id.clone().ok_or(SessionError::Protocol("a lease without an attempt"))?;
        let name = AttemptName::try_from(id)?;
        if self.node.attempt(&name.key).is_some() {
            // Said again after a reconnection.
            return Ok(());
        }
        tracing::info!(attempt = %name, "lease");
        match self.node.begin(name) {
            Ok(attempt) => {
                self.ship(Arc::clone(&attempt));
                if self.node.is_draining() {
                    attempt.finish(attempt.spool.lost("the node drains and takes no new jobs".into()));
                } else {
                    let node = Arc::clone(&self.node);
                    // Not one of the session's tasks: a running attempt outlives the connection.
                    tokio::spawn(run::run(node, self.clients.bulk.clone(), attempt, lease));
                }
            }
            Err(error) => {
                // Not even its outcome could be kept. The server finds it missing when we register again.
                tracing::error!(%error, "no room in the spool for a lease");
                return Err(SessionError::Protocol("a lease that can't be spooled"));
            }
        }
        Ok(())
    }

    fn ship(&mut self, attempt: Arc<Attempt>) {
        self.tasks.spawn(ship::ship(attempt, self.clients.clone(), self.to_server.clone()));
    }

    fn output_ack(&self, ack: OutputAck) -> Result<(), SessionError> {
        let stream = match ack.stream {
            1 => OutputStream::Stdout,
            2 => OutputStream::Stderr,
            _ => return Err(SessionError::Protocol("a stream is 1 or 2")),
        };
        let durable =
            u64::try_from(ack.durable).map_err(|_| SessionError::Protocol("a negative position"))?;
        if let Some(attempt) = self.node.attempt(&key(ack.id)?) {
            attempt.set_durable(stream, durable);
        }
        Ok(())
    }

    fn renewed(&mut self, renewed: &LeasesRenewed) {
        self.lease = duration(renewed.lease_ms);
        while let Some((sequence, sent)) = self.unanswered.front().copied() {
            if sequence > renewed.sequence {
                break;
            }
            self.unanswered.pop_front();
            if sequence == renewed.sequence {
                self.node.renew(sent + self.lease);
            }
        }
    }
}

async fn told_to_drain(draining: &mut watch::Receiver<bool>) {
    // The sender is a field of the node, so the wait ends only with a value.
    let _ = draining.wait_for(|draining| *draining).await;
}

fn key(id: Option<AttemptId>) -> Result<AttemptKey, SessionError> {
    Ok(attempt_key(&id.ok_or(SessionError::Protocol("a message without an attempt"))?)?)
}

fn progress(attempt: &Attempt) -> Option<Progress> {
    if attempt.finished().is_some() {
        return None;
    }
    let seen = attempt.progress().unwrap_or_default();
    let output: u64 =
        crate::attempt::STREAMS.iter().map(|s| attempt.spool.stream(*s).totals().total_bytes).sum();
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Some(Progress {
        id: Some((&attempt.name).into()),
        cpu_us: signed(seen.cpu_us),
        memory_bytes: signed(seen.memory_bytes),
        output_bytes: signed(output),
    })
}
