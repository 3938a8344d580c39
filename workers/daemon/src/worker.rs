use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_types::{AttemptKey, NodeCapacity};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::attach::{Clients, session};
use crate::attempt::{Attempt, Stop, now};
use crate::cache::Cache;
use crate::name::AttemptName;
use crate::spool::Spool;
use crate::{Backends, DaemonError, WorkerConfig, capacity};

/// The first wait between two tries to reach the server; doubled up to [`LONGEST_BACK_OFF`].
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
/// The longest wait: a server that comes back is found within it.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// How long a drained worker waits for the server to confirm what is spooled; the next life sends the rest.
const CONFIRM: Duration = Duration::from_secs(5);
/// Beyond the longest grace period, what a killed sandbox may take to vanish.
const VANISH: Duration = Duration::from_secs(10);

/// What the parts of a worker share. Lock order: only one of these locks is held at a time.
pub(crate) struct Node {
    pub(crate) backends: Backends,
    pub(crate) cache: Cache,
    pub(crate) capacity: NodeCapacity,
    spool: Spool,
    attempts: Mutex<HashMap<AttemptKey, Arc<Attempt>>>,
    /// When the leases end if the server says nothing more.
    lease_end: watch::Sender<Option<Instant>>,
    draining: watch::Sender<bool>,
    drain_told: AtomicBool,
    /// An attempt was forgotten.
    forgotten: Notify,
}

impl Node {
    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptKey, Arc<Attempt>>> {
        // A panic while it is held leaves a whole map.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every attempt that the server has not confirmed.
    pub(crate) fn attempts(&self) -> Vec<Arc<Attempt>> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn attempt(&self, key: &AttemptKey) -> Option<Arc<Attempt>> {
        self.lock().get(key).cloned()
    }

    /// Takes a lease on: from here on it has a place in the spool.
    pub(crate) fn begin(&self, name: AttemptName) -> io::Result<Arc<Attempt>> {
        let spool = self.spool.create(&name)?;
        let key = name.key;
        let attempt = Attempt::new(name, spool, None);
        self.lock().insert(key, Arc::clone(&attempt));
        Ok(attempt)
    }

    /// Ends the attempt, if it runs, and forgets it when nothing of it runs any more.
    pub(crate) fn void(self: &Arc<Self>, attempt: &Arc<Attempt>) {
        if attempt.finished().is_some() {
            self.forget(attempt);
            return;
        }
        attempt.stop(Stop::Void);
        let (node, attempt) = (Arc::clone(self), Arc::clone(attempt));
        tokio::spawn(async move {
            attempt.ended().await;
            node.forget(&attempt);
        });
    }

    fn forget(&self, attempt: &Attempt) {
        if self.lock().remove(&attempt.name.key).is_some() {
            attempt.spool.remove();
            self.forgotten.notify_waiters();
        }
    }

    /// The leases live until `end`.
    pub(crate) fn renew(&self, end: Instant) {
        self.lease_end.send_if_modified(|current| {
            let later = current.is_none_or(|current| current < end);
            if later {
                *current = Some(end);
            }
            later
        });
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Whether this session's server knows that we drain.
    pub(crate) fn drain_told(&self) -> bool {
        self.drain_told.load(Ordering::Relaxed)
    }

    pub(crate) fn set_drain_told(&self) {
        self.drain_told.store(true, Ordering::Relaxed);
    }

    /// Returns when no attempt runs.
    async fn idle(&self) {
        for attempt in self.attempts() {
            attempt.ended().await;
        }
    }

    /// Returns when the server has confirmed everything.
    async fn confirmed(&self) {
        loop {
            let forgotten = self.forgotten.notified();
            tokio::pin!(forgotten);
            // Registered before the look, so that no notification falls between the two.
            forgotten.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            forgotten.await;
        }
    }

    fn stop_running(&self, stop: &Stop) {
        for attempt in self.attempts() {
            if attempt.finished().is_none() {
                attempt.stop(stop.clone());
            }
        }
    }

    /// Ends what runs when the leases end without a word from the server, which has given it up by then.
    async fn watch_leases(&self) {
        let mut lease_end = self.lease_end.subscribe();
        loop {
            let end = *lease_end.borrow_and_update();
            let passed = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is a field of this node, so a change is always a value.
                _ = lease_end.changed() => {}
                () = passed => {
                    tracing::warn!("the leases ended without a word from the server");
                    self.stop_running(&Stop::Lost("the node lost contact with the server for longer than its lease".into()));
                    self.lease_end.send_replace(None);
                }
            }
        }
    }
}

/// A node agent that is ready to run.
pub struct Worker {
    node: Arc<Node>,
    clients: Clients,
    drain_timeout: Duration,
}

impl Worker {
    /// Opens the spool and the cache, and takes up what an earlier life spooled. Sandboxes that such a life left are
    /// the caller's to remove before this.
    ///
    /// # Errors
    /// [`DaemonError`] when the directory or the host can't be read.
    pub fn new(config: &WorkerConfig, endpoint: &Endpoint, backends: Backends) -> Result<Self, DaemonError> {
        let failed = |what| move |source| DaemonError::Io { what, source };
        let capacity = capacity::measure(config)?;
        let spool = Spool::open(config.data_dir.join("spool")).map_err(failed("opening the spool"))?;
        let cache = Cache::open(config.data_dir.join("cache"), config.cache_budget_bytes)
            .map_err(failed("opening the cache"))?;
        let recovered = spool.recover(now()).map_err(failed("reading the spool"))?;
        let attempts = recovered
            .into_iter()
            .map(|found| {
                tracing::info!(attempt = %found.name, state = %found.finished.outcome.state, "found in the spool");
                (found.name.key, Attempt::new(found.name, found.spool, Some(found.finished)))
            })
            .collect();
        let node = Arc::new(Node {
            backends,
            cache,
            capacity,
            spool,
            attempts: Mutex::new(attempts),
            lease_end: watch::Sender::new(None),
            draining: watch::Sender::new(false),
            drain_told: AtomicBool::new(false),
            forgotten: Notify::new(),
        });
        Ok(Self { node, clients: Clients::new(endpoint), drain_timeout: config.drain_timeout })
    }

    /// What the worker promises.
    pub fn capacity(&self) -> NodeCapacity {
        self.node.capacity
    }

    /// Returns when a server has registered this worker for the first time.
    pub fn registered(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut lease_end = self.node.lease_end.subscribe();
        async move {
            // The first lease comes with the registration. An error means that the worker is gone.
            let registered = lease_end.wait_for(Option::is_some).await.is_ok();
            if !registered {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves until `shutdown`, then drains: no new leases; what runs may end within the drain time, then by its
    /// grace period; what is spooled is confirmed, or stays for the next life.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let node = Arc::clone(&self.node);
        tokio::select! {
            () = self.stay_connected() => {}
            () = node.watch_leases() => {}
            () = async {
                shutdown.await;
                self.drain().await;
            } => {}
        }
    }

    async fn drain(&self) {
        tracing::info!("draining");
        self.node.draining.send_replace(true);
        let node = Arc::clone(&self.node);
        // Blocks for some milliseconds. A panic in it has been told by the panic's own hook.
        let _ = tokio::task::spawn_blocking(move || node.backends.close()).await;
        if tokio::time::timeout(self.drain_timeout, self.node.idle()).await.is_err() {
            tracing::info!("the drain time is over: ending what still runs");
            self.node.stop_running(&Stop::Drained);
            let longest = Duration::from_millis(bulkhead_types::bounds::GRACE_PERIOD_MS) + VANISH;
            if tokio::time::timeout(longest, self.node.idle()).await.is_err() {
                self.node.stop_running(&Stop::Lost("the node was drained".into()));
                let _ = tokio::time::timeout(VANISH, self.node.idle()).await;
            }
        }
        if tokio::time::timeout(CONFIRM, self.node.confirmed()).await.is_err() {
            tracing::warn!("the server has not confirmed everything: the spool keeps it for the next start");
        }
    }

    /// One session after the other; returns never.
    async fn stay_connected(&self) {
        let mut wait = FIRST_BACK_OFF;
        loop {
            self.node.drain_told.store(false, Ordering::Relaxed);
            let end = session(&self.node, &self.clients).await;
            tracing::warn!(error = bulkhead_sandbox::chain(&end.error), "the session ended");
            if end.registered {
                wait = FIRST_BACK_OFF;
            }
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(LONGEST_BACK_OFF);
        }
    }
}

/// Half to the whole of `wait`, so that a fleet does not come back in one moment.
fn jittered(wait: Duration) -> Duration {
    let half = wait / 2;
    half + half.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0)
}
