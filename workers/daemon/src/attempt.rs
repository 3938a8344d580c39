use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_sandbox::{Controller, Progress};
use bulkhead_types::{AttemptOutcome, OutputStream, Timestamp};
use tokio::sync::{Notify, watch};

use crate::name::AttemptName;
use crate::spool::{AttemptSpool, FinishedRecord};

/// Both streams, in the order of the protocol's numbers.
pub(crate) const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// Why an attempt is to end before it does so by itself. A later one replaces an earlier, milder one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// The node drains and its time is over: grace period, then LOST.
    Drained,
    /// Its owner cancelled it: grace period, then CANCELLED.
    Cancelled,
    /// The node can't go on with it: killed at once, then LOST with this reason.
    Lost(String),
    /// The server gave it up and wants nothing of it: killed at once and forgotten.
    Void,
}

/// One attempt on this node, from its lease until the server has confirmed its end.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) name: AttemptName,
    pub(crate) spool: AttemptSpool,
    stop: watch::Sender<Option<Stop>>,
    finished: watch::Sender<Option<Arc<FinishedRecord>>>,
    shared: Mutex<Shared>,
    /// One permit for the task that ships this attempt's output: something is new.
    changed: Notify,
}

#[derive(Default)]
struct Shared {
    controller: Option<Arc<dyn Controller>>,
    started: Option<Timestamp>,
    /// Bytes of each stream that the server has.
    durable: [u64; 2],
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("started", &self.started).field("durable", &self.durable).finish()
    }
}

impl Attempt {
    /// A new attempt, or with `finished` one that an earlier life left.
    pub(crate) fn new(name: AttemptName, spool: AttemptSpool, finished: Option<FinishedRecord>) -> Arc<Self> {
        Arc::new(Self {
            name,
            spool,
            stop: watch::Sender::new(None),
            finished: watch::Sender::new(finished.map(Arc::new)),
            shared: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // A panic while it is held leaves plain values, each of them whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the attempt as `stop` says; once it has ended this has no effect.
    pub(crate) fn stop(&self, stop: Stop) {
        let raised = self.stop.send_if_modified(|current| {
            let raise = current.as_ref().is_none_or(|current| *current < stop);
            if raise {
                *current = Some(stop);
            }
            raise
        });
        let controller = self.shared().controller.clone();
        if raised && let Some(controller) = controller {
            self.act(&*controller);
        }
        self.changed.notify_one();
    }

    /// What was asked for.
    pub(crate) fn stopping(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    /// Returns when the attempt is to end.
    pub(crate) async fn stopped(&self) {
        // The sender is a field of this attempt, so the wait ends only with a value.
        let _ = self.stop.subscribe().wait_for(Option::is_some).await;
    }

    /// The sandbox exists: from here on a stop reaches it.
    pub(crate) fn set_controller(&self, controller: Arc<dyn Controller>) {
        self.shared().controller = Some(Arc::clone(&controller));
        self.act(&*controller);
    }

    fn act(&self, controller: &dyn Controller) {
        match &*self.stop.borrow() {
            None => {}
            Some(Stop::Drained | Stop::Cancelled) => controller.cancel(),
            Some(Stop::Lost(_) | Stop::Void) => controller.kill(),
        }
    }

    /// The job wrote more than it may.
    pub(crate) fn output_limit_reached(&self) {
        if let Some(controller) = self.shared().controller.clone() {
            controller.output_limit_reached();
        }
    }

    /// What the job has used so far; none before its sandbox exists and after its end.
    pub(crate) fn progress(&self) -> Option<Progress> {
        if self.finished().is_some() {
            return None;
        }
        let controller = self.shared().controller.clone();
        controller?.progress()
    }

    /// The job's first instruction is about to run.
    pub(crate) fn set_started(&self, time: Timestamp) {
        self.shared().started = Some(time);
        self.changed.notify_one();
    }

    pub(crate) fn started(&self) -> Option<Timestamp> {
        self.shared().started
    }

    /// Something was appended to a stream.
    pub(crate) fn appended(&self) {
        self.changed.notify_one();
    }

    /// Bytes of the stream that the server has. Never goes back, and never beyond what was kept.
    pub(crate) fn durable(&self, stream: OutputStream) -> u64 {
        self.shared().durable[index(stream)]
    }

    /// The server has the stream up to here.
    pub(crate) fn set_durable(&self, stream: OutputStream, durable: u64) {
        let file = self.spool.stream(stream);
        let durable = durable.min(file.kept());
        let slot = &mut self.shared().durable[index(stream)];
        *slot = durable.max(*slot);
        file.release(*slot);
        self.changed.notify_one();
    }

    /// Waits until something may be new for the server.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Spools the outcome. Its sandbox is gone by now, and its controller with it.
    pub(crate) fn finish(&self, outcome: AttemptOutcome) {
        self.shared().controller = None;
        let record = match self.spool.finish(outcome.clone(), now()) {
            Ok(record) => record,
            Err(error) => {
                // It can still be told from memory; only a death of this worker would lose the detail.
                tracing::error!(attempt = %self.name, %error, "the outcome can't be spooled");
                FinishedRecord { outcome, time: now() }
            }
        };
        self.set_finished(record);
    }

    /// Replaces the outcome, for instance when an output could not be stored.
    pub(crate) fn set_finished(&self, record: FinishedRecord) {
        self.finished.send_replace(Some(Arc::new(record)));
        self.changed.notify_one();
    }

    pub(crate) fn finished(&self) -> Option<Arc<FinishedRecord>> {
        self.finished.borrow().clone()
    }

    /// Returns when the attempt has ended.
    pub(crate) async fn ended(&self) {
        // The sender is a field of this attempt, so the wait ends only with a value.
        let _ = self.finished.subscribe().wait_for(Option::is_some).await;
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

/// The host's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
