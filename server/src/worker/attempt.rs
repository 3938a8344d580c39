//! What a node says of one attempt, in its order: start, output, end.
//!
//! Output is confirmed when it is durable: behind the first 64 KiB in the spool, and counted in the database. The end
//! is confirmed when it is written, after the whole of a long stream has become a blob.

use std::time::Duration;

use bulkhead_proto::worker::to_worker::Message;
use bulkhead_proto::worker::{AttemptId, CancelAttempt, FinishedAck, OutputAck};
use bulkhead_scheduler::{Ended, Intake, IntakeError, Session};
use bulkhead_store::StoreError;
use bulkhead_types::{AttemptKey, AttemptOutcome, Limits, OutputStream, TenantId};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::keys::stream_number;
use crate::api::Shared;
use crate::blobs::MAX_BLOB_BYTES;
use crate::error::ApiError;
use crate::output::{IN_DATABASE, SpooledStream};

/// What of one attempt may wait here: two windows of 1 MiB in chunks of 64 KiB, its start and its end, twice over.
pub(super) const MAILBOX: usize = 80;
/// Chunks that follow each other are written together up to this size, in bytes.
const MAX_GATHERED: usize = 1 << 20;
/// Between the tries to write a report, in milliseconds: together shorter than a node's patience.
const PAUSES_MS: [u64; 4] = [50, 200, 500, 1000];
/// Where a stream ends at the latest: the largest limit of output, and what was written before the job was stopped.
const MAX_STREAM_BYTES: u64 = Limits::OUTPUT.max + (64 << 20);

/// Something that a node says of an attempt.
#[derive(Debug)]
pub(super) enum Said {
    /// Its first instruction ran so long ago.
    Started { age: Duration },
    /// It wrote something.
    Output { stream: OutputStream, offset: u64, bytes: Bytes },
    /// It has ended.
    Finished(Box<AttemptOutcome>),
}

/// Why the whole connection has to end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error("output could not be stored")]
    Spool(#[source] std::io::Error),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("a chunk of output ends at {0}, behind any limit")]
    TooLong(u64),
    #[error("the connection is gone")]
    Gone,
}

/// One attempt of one connection.
pub(super) struct AttemptTask {
    pub(super) service: Shared,
    pub(super) session: Session,
    pub(super) key: AttemptKey,
    /// As the node names it.
    pub(super) id: AttemptId,
    pub(super) to_node: mpsc::Sender<Message>,
    /// Whether an earlier connection may have brought output that has to become a blob.
    pub(super) resumed: bool,
}

/// Whether an attempt is the node's, as far as this connection knows.
enum Holding {
    Current(TenantId),
    Stale,
}

impl AttemptTask {
    /// Takes what comes until the attempt has ended or the connection is over.
    ///
    /// # Errors
    /// [`Broken`]: the connection ends, the node connects again and says it all again.
    pub(super) async fn run(self, mut inbox: mpsc::Receiver<Said>) -> Result<(), Broken> {
        let mut patience = Patience::default();
        let tenant = loop {
            let found = self.intake().attempt_tenant(&self.session, self.key).await;
            if !patience.again(is_transient(&found)).await {
                break found;
            }
        };
        let holding = match tenant {
            Ok(tenant) => Holding::Current(tenant),
            Err(IntakeError::Store(StoreError::StaleAttempt { .. })) => Holding::Stale,
            Err(error) => return Err(error.into()),
        };
        let Holding::Current(tenant) = holding else { return self.refuse(&mut inbox).await };
        let mut long = self.resumed;
        let mut next = inbox.recv().await;
        while let Some(said) = next.take() {
            match said {
                Said::Started { age } => self.intake().attempt_started(&self.session, self.key, age).await?,
                Said::Output { stream, offset, bytes } => {
                    let (bytes, other) = gather(&mut inbox, stream, offset, bytes);
                    long |= offset.saturating_add(bytes.len() as u64) > IN_DATABASE;
                    let ends = matches!(other, Some(Said::Finished(_)));
                    if !self.output(stream, offset, bytes, ends).await? {
                        return self.refuse(&mut inbox).await;
                    }
                    next = other;
                }
                Said::Finished(outcome) => return self.finished(&tenant, long, *outcome).await,
            }
            if next.is_none() {
                next = inbox.recv().await;
            }
        }
        Ok(())
    }

    fn intake(&self) -> &Intake {
        &self.service.intake
    }

    async fn tell(&self, message: Message) -> Result<(), Broken> {
        self.to_node.send(message).await.map_err(|_| Broken::Gone)
    }

    /// The attempt is not the node's: it is to kill it and forget it.
    async fn refuse(&self, inbox: &mut mpsc::Receiver<Said>) -> Result<(), Broken> {
        let id = Some(self.id.clone());
        self.tell(Message::Cancel(CancelAttempt { id: id.clone(), immediately: true })).await?;
        while let Some(said) = inbox.recv().await {
            if matches!(said, Said::Finished(_)) {
                return self.tell(Message::FinishedAck(FinishedAck { id, accepted: false })).await;
            }
        }
        Ok(())
    }

    fn spooled(&self, stream: OutputStream) -> SpooledStream {
        SpooledStream { job: self.key.job, attempt: self.key.attempt, stream }
    }

    /// Makes output durable and confirms it; false if the attempt is not the node's any more. If the attempt's end is
    /// the next to be written (`ends`), one flush serves both, and the end's confirmation is this one's too.
    async fn output(
        &self,
        stream: OutputStream,
        offset: u64,
        bytes: Bytes,
        ends: bool,
    ) -> Result<bool, Broken> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > MAX_STREAM_BYTES {
            return Err(Broken::TooLong(end));
        }
        self.service.spool.write(self.spooled(stream), offset, bytes.clone()).await.map_err(Broken::Spool)?;
        let mut patience = Patience::default();
        let appended = loop {
            let appended =
                self.intake().output_chunk(&self.session, self.key, stream, offset, &bytes, !ends).await;
            if !patience.again(is_transient(&appended)).await {
                break appended;
            }
        };
        match appended {
            Ok(_) if ends => Ok(true),
            Ok(durable) => {
                let durable = i64::try_from(durable).unwrap_or(i64::MAX);
                let id = Some(self.id.clone());
                let ack = OutputAck { id, stream: stream_number(stream), durable };
                self.tell(Message::OutputAck(ack)).await?;
                Ok(true)
            }
            Err(IntakeError::Store(StoreError::StaleAttempt { .. })) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// `long` says whether the database may lack a part of a stream.
    async fn finished(&self, tenant: &TenantId, long: bool, outcome: AttemptOutcome) -> Result<(), Broken> {
        if long {
            self.seal(tenant, OutputStream::Stdout).await?;
            self.seal(tenant, OutputStream::Stderr).await?;
        }
        let ended = self.intake().attempt_finished(&self.session, self.key, outcome).await?;
        let accepted = !matches!(ended, Ended::Stale);
        let id = Some(self.id.clone());
        self.tell(Message::FinishedAck(FinishedAck { id, accepted })).await
    }

    /// Makes a stream that the database does not hold whole a blob.
    async fn seal(&self, tenant: &TenantId, stream: OutputStream) -> Result<(), Broken> {
        let store = &self.service.store;
        let read = store.output_read(tenant, self.key.job, self.key.attempt, stream, 0, 1);
        let slice = read.await.map_err(IntakeError::Store)?;
        if slice.stored_bytes <= IN_DATABASE || slice.digest.is_some() {
            return Ok(());
        }
        let mut upload = self.service.blobs.upload(MAX_BLOB_BYTES).await.map_err(ApiError::from)?;
        while upload.size() < slice.stored_bytes {
            let of = self.spooled(stream);
            let bytes = self.service.output.read(tenant, of, upload.size(), MAX_GATHERED).await?;
            upload.write(bytes).await.map_err(ApiError::from)?;
        }
        let _content = self.service.content.read().await;
        let (digest, size) = upload.finish(None).await.map_err(ApiError::from)?;
        store.fleet().blob_put(tenant, digest, size, true).await.map_err(IntakeError::Store)?;
        match self.intake().output_sealed(&self.session, self.key, stream, digest).await {
            Ok(_) => self.service.spool.remove(self.spooled(stream)).await.map_err(Broken::Spool),
            // Its end will not be taken either, and says so to the node.
            Err(IntakeError::Store(StoreError::StaleAttempt { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Lets a call be made again, a few times, while the database says that it may succeed later: that is cheaper than
/// the node's connecting anew and saying it all again.
#[derive(Default)]
struct Patience(usize);

impl Patience {
    /// Whether to try again, after a pause.
    async fn again(&mut self, transient: bool) -> bool {
        match PAUSES_MS.get(self.0) {
            Some(pause) if transient => {
                self.0 += 1;
                tokio::time::sleep(Duration::from_millis(*pause)).await;
                true
            }
            _ => false,
        }
    }
}

/// Whether the same call may succeed later.
fn is_transient<T>(result: &Result<T, IntakeError>) -> bool {
    matches!(result, Err(IntakeError::Store(error)) if error.is_transient())
}

/// Joins the chunks that are here and follow each other. Answers with the bytes and whatever came behind them.
fn gather(
    inbox: &mut mpsc::Receiver<Said>,
    stream: OutputStream,
    offset: u64,
    first: Bytes,
) -> (Bytes, Option<Said>) {
    let mut joined = BytesMut::new();
    let mut last = first;
    loop {
        let length = joined.len() + last.len();
        match inbox.try_recv() {
            Ok(Said::Output { stream: other, offset: at, bytes })
                if other == stream
                    && at == offset.saturating_add(length as u64)
                    && length + bytes.len() <= MAX_GATHERED =>
            {
                joined.extend_from_slice(&last);
                last = bytes;
            }
            other => {
                if !joined.is_empty() {
                    joined.extend_from_slice(&last);
                    last = joined.freeze();
                }
                return (last, other.ok());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_is_joined() {
        let (sender, mut inbox) = mpsc::channel(8);
        let said =
            |stream, offset, bytes: &'static [u8]| Said::Output { stream, offset, bytes: bytes.into() };
        sender.try_send(said(OutputStream::Stdout, 2, b"cd")).expect("room");
        sender.try_send(said(OutputStream::Stderr, 4, b"ef")).expect("room");
        let (bytes, other) = gather(&mut inbox, OutputStream::Stdout, 0, Bytes::from_static(b"ab"));
        assert_eq!(bytes, b"abcd"[..]);
        assert!(matches!(other, Some(Said::Output { stream: OutputStream::Stderr, offset: 4, .. })));
        let (bytes, other) = gather(&mut inbox, OutputStream::Stderr, 4, Bytes::from_static(b"ef"));
        assert_eq!(bytes, b"ef"[..]);
        assert!(other.is_none());
    }
}
