//! Wake-ups: one LISTEN connection for all who wait.
//!
//! PostgreSQL says "something changed" about a job, the queue or a cancel; whoever waits then looks. A wake-up may
//! be spurious, and one may be lost with its connection: so all are woken when the connection is made again, and
//! every wait ends by itself after [`POLL`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_types::JobId;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Longest wait without looking: what a lost wake-up costs.
pub const POLL: Duration = Duration::from_secs(2);
/// Between two attempts to listen again.
const RECONNECT: Duration = Duration::from_millis(200);

const JOBS: &str = "bulkhead_jobs";
const QUEUE: &str = "bulkhead_queue";
const CANCEL: &str = "bulkhead_cancel";

/// Lock order: `jobs` alone; nothing is awaited under it.
#[derive(Default)]
struct Shared {
    jobs: Mutex<HashMap<JobId, watch::Sender<()>>>,
    queue: Notify,
    cancel: Notify,
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        // The map is consistent after every single operation.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        for sender in self.jobs().values() {
            sender.send_replace(());
        }
        self.queue.notify_one();
        self.cancel.notify_one();
    }

    fn wake_jobs(&self, payload: &str) {
        let jobs = self.jobs();
        for id in payload.split(',').filter_map(|id| id.parse().ok()) {
            if let Some(sender) = jobs.get(&id) {
                sender.send_replace(());
            }
        }
    }

    fn dispatch(&self, notification: &PgNotification) {
        match notification.channel() {
            JOBS => self.wake_jobs(notification.payload()),
            QUEUE => self.queue.notify_one(),
            CANCEL => self.cancel.notify_one(),
            other => tracing::warn!(channel = other, "a notification on a channel that is not ours"),
        }
    }
}

/// Hands wake-ups to waiters. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
    task: Arc<JoinHandle<()>>,
}

impl Notifier {
    /// Starts to listen; it goes on until [`Self::stop`], whatever happens to the database.
    pub(crate) fn start(options: PgConnectOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(listen(options, shared.clone()));
        Self { shared, task: Arc::new(task) }
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// Waits for changes of one job: state, output, or a cancel's request.
    pub fn watch_job(&self, job: JobId) -> JobWatch {
        let receiver = self.shared.jobs().entry(job).or_insert_with(|| watch::channel(()).0).subscribe();
        JobWatch { job, receiver, shared: self.shared.clone() }
    }

    /// Waits until jobs were queued or places became free, at most [`POLL`]. One waiter: the leader.
    pub async fn queue_changed(&self) {
        let _ = tokio::time::timeout(POLL, self.shared.queue.notified()).await;
    }

    /// Wakes the queue's waiter of this process without PostgreSQL.
    pub fn queue_wake(&self) {
        self.shared.queue.notify_one();
    }

    /// Waits until a cancel was asked for, at most [`POLL`]. One waiter: the leader.
    pub async fn cancel_requested(&self) {
        let _ = tokio::time::timeout(POLL, self.shared.cancel.notified()).await;
    }
}

/// A wait for changes of one job. Make it before the first look, so that nothing falls between.
pub struct JobWatch {
    job: JobId,
    receiver: watch::Receiver<()>,
    shared: Arc<Shared>,
}

impl JobWatch {
    /// Returns when something may have changed since the last call (or since the watch was made), at the latest
    /// after [`POLL`]. Cancel-safe.
    pub async fn changed(&mut self) {
        let _ = tokio::time::timeout(POLL, self.receiver.changed()).await;
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        let mut jobs = self.shared.jobs();
        // This watch's own receiver still counts.
        if jobs.get(&self.job).is_some_and(|sender| sender.receiver_count() <= 1) {
            jobs.remove(&self.job);
        }
    }
}

async fn listen(options: PgConnectOptions, shared: Arc<Shared>) {
    loop {
        if let Err(error) = listen_once(&options, &shared).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "listening was interrupted; polling until it works"
            );
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn listen_once(options: &PgConnectOptions, shared: &Shared) -> Result<(), sqlx::Error> {
    // A pool of its own: the listener must never wait for, or take away, a worker's connection.
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all([JOBS, QUEUE, CANCEL]).await?;
    // What was said while nobody listened.
    shared.wake_all();
    while let Some(notification) = listener.try_recv().await? {
        shared.dispatch(&notification);
        while let Some(more) = listener.next_buffered() {
            shared.dispatch(&more);
        }
    }
    Ok(())
}
