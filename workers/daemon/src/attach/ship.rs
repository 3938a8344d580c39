//! Brings one attempt's spool to the server: its start, its output, its files, its outcome, in this order.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_proto::worker::from_worker::Message;
use bulkhead_proto::worker::{
    AttemptFinished, AttemptStarted, FromWorker, OutputChunk, StoreBlobRequest, store_blob_request,
};
use bulkhead_types::{AttemptOutcome, OutputFile, OutputStream};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Clients, from_worker};
use crate::attempt::{Attempt, STREAMS, Stop};
use crate::run::is_transient;
use crate::spool::FinishedRecord;

/// One chunk, in bytes; the protocol's own bound.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of one stream that may be on their way, unconfirmed.
const WINDOW_BYTES: u64 = 1 << 20;
/// Output that trickles is gathered for this long, so that a chunk is worth its way.
const GATHER: Duration = Duration::from_millis(5);
/// Data of one message of a stored file, in bytes.
const PART_BYTES: usize = 256 << 10;
/// Between two tries to store a file.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// The session is over: the next one takes up where the server is.
#[derive(Debug)]
struct SessionOver;

/// Ships the attempt until its outcome is sent, or the session is over.
pub(super) async fn ship(attempt: Arc<Attempt>, clients: Clients, to_server: mpsc::Sender<FromWorker>) {
    let mut shipper =
        Shipper { attempt, clients, to_server, sent: [0; 2], unreadable: [false; 2], start_told: false };
    // Both ends are the same to us: nothing more can be done in this session.
    let _ = shipper.run().await;
}

struct Shipper {
    attempt: Arc<Attempt>,
    clients: Clients,
    to_server: mpsc::Sender<FromWorker>,
    sent: [u64; 2],
    /// Streams of which the disk lost a part: they end where they were sent to.
    unreadable: [bool; 2],
    start_told: bool,
}

impl Shipper {
    async fn run(&mut self) -> Result<(), SessionOver> {
        for (sent, stream) in self.sent.iter_mut().zip(STREAMS) {
            *sent = self.attempt.durable(stream);
        }
        loop {
            if self.attempt.stopping() == Some(Stop::Void) {
                return Err(SessionOver);
            }
            self.tell_start().await?;
            // Before the streams are read: what was written before the end is then seen below.
            let finished = self.attempt.finished();
            let mut shipped = false;
            for index in 0..STREAMS.len() {
                shipped |= self.ship_stream(index).await?;
            }
            match finished {
                Some(finished) if self.all_sent() => return self.finish(finished).await,
                None if shipped => self.gather().await,
                _ => {}
            }
            self.attempt.changed().await;
        }
    }

    async fn send(&self, message: Message) -> Result<(), SessionOver> {
        self.to_server.send(from_worker(message)).await.map_err(|_| SessionOver)
    }

    async fn tell_start(&mut self) -> Result<(), SessionOver> {
        if !self.start_told
            && let Some(time) = self.attempt.started()
        {
            let id = Some((&self.attempt.name).into());
            self.send(Message::Started(AttemptStarted { id, time_us: time.as_micros() })).await?;
            self.start_told = true;
        }
        Ok(())
    }

    /// Sends what the window allows; says whether anything was sent.
    async fn ship_stream(&mut self, index: usize) -> Result<bool, SessionOver> {
        let stream = STREAMS[index];
        let file = self.attempt.spool.stream(stream);
        let mut shipped = false;
        while !self.unreadable[index]
            && self.sent[index] < file.kept()
            && self.sent[index].saturating_sub(self.attempt.durable(stream)) < WINDOW_BYTES
        {
            let data = match file.read(self.sent[index], CHUNK_BYTES) {
                Ok(data) => data,
                Err(error) => {
                    // The disk lost what it had: the attempt can't be told as it was.
                    tracing::error!(attempt = %self.attempt.name, %error, "the spool can't be read");
                    self.attempt.stop(Stop::Lost(format!("the node's spool can't be read: {error}")));
                    self.unreadable[index] = true;
                    break;
                }
            };
            let offset = self.sent[index];
            self.sent[index] += data.len() as u64;
            shipped = true;
            self.send(Message::Output(OutputChunk {
                id: Some((&self.attempt.name).into()),
                stream: number(stream),
                offset: offset.cast_signed(),
                data,
            }))
            .await?;
        }
        Ok(shipped)
    }

    /// Waits a moment, but not beyond the attempt's end.
    async fn gather(&self) {
        let _ = tokio::time::timeout(GATHER, self.attempt.ended()).await;
    }

    /// Whether the stream is on its way to its end. The server takes what an attempt says in its order, so its
    /// outcome need not wait for the last confirmations: its own one covers them.
    fn all_sent(&self) -> bool {
        STREAMS.into_iter().enumerate().all(|(index, stream)| {
            self.unreadable[index] || self.sent[index] >= self.attempt.spool.stream(stream).kept()
        })
    }

    async fn finish(&mut self, mut finished: Arc<FinishedRecord>) -> Result<(), SessionOver> {
        let outputs = finished.outcome.outputs.clone();
        for output in outputs {
            if let Err(status) = self.store(&output).await {
                finished = self.without(&finished, &output, &status);
            }
        }
        let outcome_json = serde_json::to_vec(&self.as_sent(&finished.outcome)).map_err(|_| SessionOver)?;
        let time_us = finished.time.as_micros();
        let id = Some((&self.attempt.name).into());
        self.send(Message::Finished(AttemptFinished { id, outcome_json, time_us })).await
    }

    /// The outcome with streams that end where they could not be read any further.
    fn as_sent(&self, outcome: &AttemptOutcome) -> AttemptOutcome {
        let mut outcome = outcome.clone();
        let streams = [&mut outcome.stdout, &mut outcome.stderr];
        for (index, (totals, stream)) in streams.into_iter().zip(STREAMS).enumerate() {
            if self.unreadable[index] {
                totals.kept_bytes = totals.kept_bytes.min(self.sent[index]);
                let name = match stream {
                    OutputStream::Stdout => "standard output",
                    OutputStream::Stderr => "standard error",
                };
                let problem = format!("{name}: the node could not read the rest of it from its disk");
                outcome.output_problems.push(problem);
            }
        }
        outcome
    }

    /// Stores a collected file, however long the server is away. The error is the server's refusal.
    async fn store(&mut self, output: &OutputFile) -> Result<(), Box<Status>> {
        let path = self.attempt.spool.outputs().join(output.digest.hex());
        loop {
            let file = match tokio::fs::File::open(&path).await {
                Ok(file) => file,
                // It was stored before the connection broke, or is the same as one that was.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(Box::new(Status::data_loss(error.to_string()))),
            };
            let header = store_blob_request::Header {
                id: Some((&self.attempt.name).into()),
                digest: output.digest.to_string(),
                size_bytes: output.size_bytes.cast_signed(),
            };
            match self.clients.bulk.store_blob(parts(header, file)).await {
                Ok(_) => {
                    // If it stays it is stored again, which is the same.
                    let _ = tokio::fs::remove_file(&path).await;
                    return Ok(());
                }
                Err(status) if is_transient(status.code()) => {
                    tracing::debug!(attempt = %self.attempt.name, %status, "storing an output again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Err(status) => return Err(Box::new(status)),
            }
        }
    }

    /// The outcome without an output that the server refused, which is told instead.
    fn without(
        &self,
        finished: &FinishedRecord,
        output: &OutputFile,
        status: &Status,
    ) -> Arc<FinishedRecord> {
        let mut outcome = finished.outcome.clone();
        outcome.outputs.retain(|other| other.digest != output.digest);
        let path = String::from_utf8_lossy(&output.path);
        outcome.output_problems.push(format!("{path} could not be stored: {}", status.message()));
        let record = self.attempt.spool.finish(outcome.clone(), finished.time);
        let record = record.unwrap_or(FinishedRecord { outcome, time: finished.time });
        self.attempt.set_finished(record.clone());
        Arc::new(record)
    }
}

/// The stream's number in the protocol.
fn number(stream: OutputStream) -> u32 {
    match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    }
}

/// The messages of one stored file, read as they are wanted.
fn parts(
    header: store_blob_request::Header,
    file: tokio::fs::File,
) -> impl futures::Stream<Item = StoreBlobRequest> + Send + 'static {
    let header = StoreBlobRequest { part: Some(store_blob_request::Part::Header(header)) };
    let data = futures::stream::unfold(file, async |mut file| {
        let mut data = vec![0; PART_BYTES];
        // A file that ends early, or can't be read, is found by its size and digest.
        let count = file.read(&mut data).await.unwrap_or(0);
        data.truncate(count);
        let part = StoreBlobRequest { part: Some(store_blob_request::Part::Data(data)) };
        (count > 0).then_some((part, file))
    });
    futures::StreamExt::chain(futures::stream::iter([header]), data)
}
