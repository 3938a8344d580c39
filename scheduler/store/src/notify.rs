//! Wake-ups: at once for those who wait in this process, through PostgreSQL for those in others.
//!
//! Whoever has committed a change of a job, of the queue or of a cancel [tells](Notifier::tell) it; whoever waits
//! then looks. NOTIFY is not a part of the transaction that makes the change: transactions that notify commit one
//! after the other (PostgreSQL holds a lock of the whole cluster from the notification until the commit is on disk),
//! so that no two of them would share a flush. One connection says it afterwards instead, for many changes at once
//! and without waiting for the disk.
//!
//! A wake-up may be spurious, and one may be lost with its connection or process: so all are woken when the
//! connection is made again, and every wait ends by itself after [`POLL`].

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_types::JobId;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::fleet::WRITE_BATCH;
use crate::sql::notify as sql;

/// Longest wait without looking: what a lost wake-up costs.
pub const POLL: Duration = Duration::from_secs(2);
/// Between two attempts to listen again.
const RECONNECT: Duration = Duration::from_millis(200);

/// How long changes are gathered for other processes.
const GATHER: Duration = Duration::from_millis(3);

const JOBS: &str = "bulkhead_jobs";
const ENDED: &str = "bulkhead_ended";
const QUEUE: &str = "bulkhead_queue";
const CANCEL: &str = "bulkhead_cancel";

/// What has changed, by the time that the change is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A job: its state, its output, or a cancel's request.
    Job(JobId),
    /// A job has ended.
    Ended(JobId),
    /// Jobs were queued, or places became free.
    Queue,
    /// A cancel was asked for.
    Cancel,
}

/// What other processes were not told yet.
#[derive(Default)]
struct Untold {
    jobs: BTreeSet<JobId>,
    ended: BTreeSet<JobId>,
    queue: bool,
    cancel: bool,
}

impl Untold {
    fn add(&mut self, change: Change) {
        match change {
            Change::Job(job) => drop(self.jobs.insert(job)),
            Change::Ended(job) => drop(self.ended.insert(job)),
            Change::Queue => self.queue = true,
            Change::Cancel => self.cancel = true,
        }
    }

    /// Channels and payloads: many ids in each, as many as fit.
    fn messages(&self) -> (Vec<&'static str>, Vec<String>) {
        let mut messages = Vec::new();
        for (channel, ids) in [(JOBS, &self.jobs), (ENDED, &self.ended)] {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            messages.extend(ids.chunks(WRITE_BATCH).map(|ids| (channel, ids.join(","))));
        }
        for (channel, told) in [(QUEUE, self.queue), (CANCEL, self.cancel)] {
            messages.extend(told.then(|| (channel, String::new())));
        }
        messages.into_iter().unzip()
    }
}

/// Lock order: one of `jobs` and `untold` alone; nothing is awaited under either.
#[derive(Default)]
struct Shared {
    /// By job, how often its end was told: a watch notices every send, and who waits for the end looks at the count.
    jobs: Mutex<HashMap<JobId, watch::Sender<u64>>>,
    queue: Notify,
    cancel: Notify,
    untold: Mutex<Untold>,
    told: Notify,
    /// The backend that tells other processes what happened in this one, which has seen it already; 0 for none.
    teller: AtomicU32,
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<u64>>> {
        // The map is consistent after every single operation.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        // Every single operation leaves it whole.
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        for sender in self.jobs().values() {
            sender.send_modify(|ends| *ends += 1);
        }
        self.queue.notify_one();
        self.cancel.notify_one();
    }

    fn wake(&self, change: Change) {
        let wake_job = |job: &JobId, ended: bool| {
            if let Some(sender) = self.jobs().get(job) {
                sender.send_modify(|ends| *ends += u64::from(ended));
            }
        };
        match change {
            Change::Job(job) => wake_job(&job, false),
            Change::Ended(job) => wake_job(&job, true),
            Change::Queue => self.queue.notify_one(),
            Change::Cancel => self.cancel.notify_one(),
        }
    }

    fn dispatch(&self, notification: &PgNotification) {
        if notification.process_id() == self.teller.load(Ordering::Relaxed) {
            return;
        }
        let ids = || notification.payload().split(',').filter_map(|id| id.parse().ok());
        match notification.channel() {
            JOBS => ids().for_each(|job| self.wake(Change::Job(job))),
            ENDED => ids().for_each(|job| self.wake(Change::Ended(job))),
            QUEUE => self.wake(Change::Queue),
            CANCEL => self.wake(Change::Cancel),
            other => tracing::warn!(channel = other, "a notification on a channel that is not ours"),
        }
    }
}

/// Hands wake-ups to waiters. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
    tasks: Arc<[JoinHandle<()>; 2]>,
}

impl Notifier {
    /// Starts to listen and to tell; it goes on until [`Self::stop`], whatever happens to the database.
    pub(crate) fn start(options: PgConnectOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let teller = options.clone().application_name("bulkhead notify");
        let tasks =
            [tokio::spawn(listen(options, shared.clone())), tokio::spawn(tell(teller, shared.clone()))];
        Self { shared, tasks: Arc::new(tasks) }
    }

    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Says what was committed: at once to this process, soon after to others.
    pub(crate) fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.shared.wake(change);
            self.shared.untold().add(change);
        }
        self.shared.told.notify_one();
    }

    /// Waits for changes of one job: state, output, or a cancel's request.
    pub fn watch_job(&self, job: JobId) -> JobWatch {
        JobWatch::new(job, self.shared.clone())
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
    receiver: watch::Receiver<u64>,
    ends_seen: u64,
    shared: Arc<Shared>,
}

impl JobWatch {
    fn new(job: JobId, shared: Arc<Shared>) -> Self {
        let receiver = shared.jobs().entry(job).or_insert_with(|| watch::channel(0).0).subscribe();
        let ends_seen = *receiver.borrow();
        Self { job, receiver, ends_seen, shared }
    }

    /// Returns when something may have changed since the last call (or since the watch was made), at the latest
    /// after [`POLL`]. Cancel-safe.
    pub async fn changed(&mut self) {
        let _ = tokio::time::timeout(POLL, self.receiver.changed()).await;
    }

    /// Returns when the job may have ended since the last call (or since the watch was made), at the latest after
    /// [`POLL`]. Cancel-safe.
    pub async fn ended(&mut self) {
        // Compared with what was seen at the last call: an end that was told since the caller looked counts.
        let seen = self.ends_seen;
        let ended = tokio::time::timeout(POLL, self.receiver.wait_for(|ends| *ends != seen)).await;
        if let Ok(Ok(ends)) = ended {
            self.ends_seen = *ends;
        }
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
    listener.listen_all([JOBS, ENDED, QUEUE, CANCEL]).await?;
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

/// Tells other processes, as long as this one lives. What can't be told is dropped: they look by themselves.
async fn tell(options: PgConnectOptions, shared: Arc<Shared>) {
    let mut connection: Option<PgConnection> = None;
    loop {
        shared.told.notified().await;
        tokio::time::sleep(GATHER).await;
        let untold = std::mem::take(&mut *shared.untold());
        let telling = async {
            let connection = match &mut connection {
                Some(connection) => connection,
                none => none.insert(connect_teller(&options, &shared).await?),
            };
            let (channels, payloads) = untold.messages();
            sqlx::query(sql::NOTIFY).bind(channels).bind(payloads).execute(connection).await
        };
        if let Err(error) = telling.await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "other processes are not told of changes"
            );
            connection = None;
        }
    }
}

async fn connect_teller(options: &PgConnectOptions, shared: &Shared) -> Result<PgConnection, sqlx::Error> {
    // A notification that a crash takes back is one that is lost: nobody waits for the disk here.
    let mut connection = options.clone().options([("synchronous_commit", "off")]).connect().await?;
    let own: i32 = sqlx::query_scalar(sql::OWN_BACKEND).fetch_one(&mut connection).await?;
    shared.teller.store(own.unsigned_abs(), Ordering::Relaxed);
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_message_holds_as_many_ids_as_postgresql_takes() {
        let mut untold = Untold::default();
        assert_eq!(untold.messages(), (vec![], vec![]));
        for _ in 0..=WRITE_BATCH {
            untold.add(Change::Job(JobId::generate()));
        }
        untold.add(Change::Queue);
        untold.add(Change::Queue);
        let (channels, payloads) = untold.messages();
        assert_eq!(channels, [JOBS, JOBS, QUEUE]);
        assert!(payloads.iter().all(|payload| payload.len() < 8000));
        assert_eq!(payloads[0].split(',').count(), WRITE_BATCH);
    }

    #[tokio::test]
    async fn only_an_end_wakes_who_waits_for_it() {
        let shared = Arc::new(Shared::default());
        let job = JobId::generate();
        let mut watch = JobWatch::new(job, shared.clone());
        shared.wake(Change::Job(job));
        watch.changed().await;
        {
            let mut ended = std::pin::pin!(watch.ended());
            assert!(is_pending(ended.as_mut()).await);
            shared.wake(Change::Job(job));
            assert!(is_pending(ended.as_mut()).await, "it has only changed");
            shared.wake(Change::Ended(job));
            assert!(!is_pending(ended.as_mut()).await);
        }
        // One that was told before the call, but after the last one.
        shared.wake(Change::Ended(job));
        assert!(!is_pending(std::pin::pin!(watch.ended())).await);
        assert!(is_pending(std::pin::pin!(watch.ended())).await);
    }

    /// Whether a future is not ready now.
    async fn is_pending(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
