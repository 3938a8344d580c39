//! Reports on their way into the database: many in one transaction, without waiting for more to come.

use std::collections::HashSet;
use std::time::Duration;

use bulkhead_store::{AttemptEnd, AttemptStart, Ended, FleetStore, StoreError, WRITE_BATCH};
use bulkhead_types::JobId;
use tokio::sync::{mpsc, oneshot};

/// Reports that may wait; whoever brings more waits itself, so that a slow database slows its nodes down.
const QUEUE: usize = 1024;

/// A report, and who waits for what became of it.
enum Report {
    Start(AttemptStart),
    End(AttemptEnd, oneshot::Sender<Ended>),
}

impl Report {
    fn job(&self) -> JobId {
        match self {
            Self::Start(start) => start.key.job,
            Self::End(end, _) => end.key.job,
        }
    }
}

/// Hands reports to the writing task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    reports: mpsc::Sender<Report>,
}

/// The writing task has ended: the service stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

impl Writer {
    /// Starts the task; it ends, with everything written, when all writers are gone.
    pub(crate) fn start(store: FleetStore, retry: Duration) -> Self {
        let (reports, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(store, retry, receiver));
        Self { reports }
    }

    pub(crate) async fn attempt_started(&self, start: AttemptStart) -> Result<(), Stopped> {
        self.reports.send(Report::Start(start)).await.map_err(|_| Stopped)
    }

    /// Returns when the end is durable, or refused.
    pub(crate) async fn attempt_ended(&self, end: AttemptEnd) -> Result<Ended, Stopped> {
        let (answer, written) = oneshot::channel();
        self.reports.send(Report::End(end, answer)).await.map_err(|_| Stopped)?;
        written.await.map_err(|_| Stopped)
    }
}

async fn write_all(store: FleetStore, retry: Duration, mut reports: mpsc::Receiver<Report>) {
    let mut waiting: Vec<Report> = Vec::new();
    loop {
        if waiting.is_empty() {
            reports.recv_many(&mut waiting, WRITE_BATCH).await;
            if waiting.is_empty() {
                return;
            }
        } else {
            while waiting.len() < WRITE_BATCH
                && let Ok(report) = reports.try_recv()
            {
                waiting.push(report);
            }
        }
        let batch = Batch::take(&mut waiting);
        batch.write(&store, retry).await;
    }
}

/// Starts, then ends; at most one of each per job.
#[derive(Default)]
struct Batch {
    starts: Vec<AttemptStart>,
    ends: Vec<AttemptEnd>,
    answers: Vec<oneshot::Sender<Ended>>,
}

impl Batch {
    /// Takes reports from the front, in order: a job's second end, and what comes after it for that job, stay for the
    /// next batch.
    fn take(waiting: &mut Vec<Report>) -> Self {
        let mut batch = Self::default();
        let mut ended = HashSet::new();
        let mut rest = Vec::new();
        for report in waiting.drain(..) {
            if ended.contains(&report.job()) {
                rest.push(report);
                continue;
            }
            match report {
                Report::Start(start) => batch.starts.push(start),
                Report::End(end, answer) => {
                    ended.insert(end.key.job);
                    batch.ends.push(end);
                    batch.answers.push(answer);
                }
            }
        }
        *waiting = rest;
        batch
    }

    async fn write(self, store: &FleetStore, retry: Duration) {
        loop {
            match store.attempts_write(&self.starts, &self.ends).await {
                Ok(ended) => {
                    for (answer, ended) in self.answers.into_iter().zip(ended) {
                        // Whoever asked may be gone; it is written all the same.
                        let _ = answer.send(ended);
                    }
                    return;
                }
                Err(error) if error.is_transient() => {
                    warn(&error, "reports wait for the database");
                    tokio::time::sleep(retry).await;
                }
                // A defect, or a report that the database can't take: it must not hold up the others.
                Err(error) if self.starts.len() + self.ends.len() > 1 => {
                    warn(&error, "a batch of reports was refused; writing them one by one");
                    return self.write_singly(store, retry).await;
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a report was refused");
                    return;
                }
            }
        }
    }

    async fn write_singly(self, store: &FleetStore, retry: Duration) {
        for start in self.starts {
            let single = Self { starts: vec![start], ..Self::default() };
            Box::pin(single.write(store, retry)).await;
        }
        for (end, answer) in self.ends.into_iter().zip(self.answers) {
            let single = Self { ends: vec![end], answers: vec![answer], ..Self::default() };
            Box::pin(single.write(store, retry)).await;
        }
    }
}

pub(crate) fn warn(error: &StoreError, what: &str) {
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}

#[cfg(test)]
mod tests {
    use bulkhead_store::EndReport;
    use bulkhead_types::{AttemptKey, NodeId};

    use super::*;

    #[test]
    fn a_batch_keeps_the_order_of_each_job() {
        let node = NodeId::new("n1").expect("valid");
        let (a, b) = (JobId::generate(), JobId::generate());
        let key = |job, token| AttemptKey { job, attempt: 1, token };
        let start = |job, token| {
            Report::Start(AttemptStart { node: node.clone(), key: key(job, token), age: Duration::ZERO })
        };
        let end = |job, token| {
            let report = EndReport::Lost("test".into());
            Report::End(AttemptEnd { node: None, key: key(job, token), report }, oneshot::channel().0)
        };
        let mut waiting = vec![start(a, 1), end(a, 1), start(b, 1), start(a, 2), end(a, 1), end(b, 1)];
        let first = Batch::take(&mut waiting);
        assert_eq!(first.starts.iter().map(|s| s.key).collect::<Vec<_>>(), [key(a, 1), key(b, 1)]);
        assert_eq!(first.ends.iter().map(|e| e.key).collect::<Vec<_>>(), [key(a, 1), key(b, 1)]);
        let second = Batch::take(&mut waiting);
        assert_eq!(second.starts.iter().map(|s| s.key).collect::<Vec<_>>(), [key(a, 2)]);
        assert_eq!(second.ends.len(), 1);
        assert!(waiting.is_empty());
    }
}
