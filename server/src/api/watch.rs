//! WatchJob: state changes and output, in an order that makes sense, from wherever the watcher was.
//!
//! Each watcher reads for itself, and only when its client takes more: a slow one holds up nobody and costs no
//! memory. An attempt's output comes before the state change that ends it.

use std::collections::BTreeMap;

use bulkhead_proto::v1::watch_job_response::Event;
use bulkhead_proto::v1::{
    OutputChunk, StateChange, Stream as StreamNumber, WatchJobRequest, WatchJobResponse,
};
use bulkhead_store::{JobEvent, JobProgress, JobWatch, StreamRecord};
use bulkhead_types::{JobName, JobState, OutputStream, bounds};
use bytes::Bytes;
use futures::Stream;
use tonic::Status;

use super::Shared;
use super::job::missing;
use crate::convert::{int64, state_message, timestamp};
use crate::edge::Deadline;
use crate::error::ApiError;
use crate::output::SpooledStream;

/// Most bytes of one chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// Streams that a request may name: two of each attempt, and attempts that never reached their node.
const MAX_POSITIONS: usize = 16 * bounds::ATTEMPTS as usize;

/// From where a watcher goes on.
pub(super) struct Plan {
    after_sequence: u64,
    /// The next byte wanted, by attempt and stream; 0 for others.
    offsets: BTreeMap<(u32, OutputStream), u64>,
    states_only: bool,
    /// What is there now, and then the end.
    stored_only: bool,
}

impl Plan {
    /// Checks a request.
    ///
    /// # Errors
    /// [`ApiError::Field`].
    pub(super) fn new(request: WatchJobRequest) -> Result<Self, ApiError> {
        if request.positions.len() > MAX_POSITIONS {
            return Err(ApiError::field("positions", format!("at most {MAX_POSITIONS} are accepted")));
        }
        let after_sequence = u64::try_from(request.after_sequence)
            .map_err(|_| ApiError::field("after_sequence", "must not be negative"))?;
        let mut offsets = BTreeMap::new();
        for (index, position) in request.positions.iter().enumerate() {
            let field = |name: &str| format!("positions[{index}].{name}");
            let stream = match StreamNumber::try_from(position.stream) {
                Ok(StreamNumber::Stdout) => OutputStream::Stdout,
                Ok(StreamNumber::Stderr) => OutputStream::Stderr,
                _ => return Err(ApiError::field(field("stream"), "STDOUT or STDERR is needed")),
            };
            if position.attempt == 0 {
                return Err(ApiError::field(field("attempt"), "attempts are counted from 1"));
            }
            let offset = u64::try_from(position.offset)
                .map_err(|_| ApiError::field(field("offset"), "must not be negative"))?;
            offsets.insert((position.attempt, stream), offset);
        }
        let WatchJobRequest { states_only, stored_only, .. } = request;
        Ok(Self { after_sequence, offsets, states_only, stored_only })
    }
}

/// Watches a job until it has ended and all was told, the call's deadline has passed, or the service stops.
///
/// # Errors
/// At once if there is no such job.
pub(super) async fn watch(
    service: Shared,
    name: JobName,
    plan: Plan,
    deadline: Option<Deadline>,
) -> Result<impl Stream<Item = Result<WatchJobResponse, Status>> + Send, ApiError> {
    // Before the first look, so that nothing falls between.
    let mut changes = service.store.fleet().notifier().watch_job(name.job);
    let mut watcher = Watcher { service, name, plan };
    let mut progress = watcher.look().await?;
    // Where a watcher of what is stored stops.
    let (last_event, stored) = (progress.event_seq, progress.streams.clone());
    Ok(async_stream::try_stream! {
        loop {
            for event in std::mem::take(&mut progress.events) {
                if ends_attempt(&event) {
                    while let Some(chunk) = watcher.next_chunk(&progress.streams, event.attempt).await? {
                        yield chunk;
                    }
                }
                watcher.plan.after_sequence = event.seq;
                yield state_change(event);
            }
            while let Some(chunk) = watcher.next_chunk(&progress.streams, u32::MAX).await? {
                yield chunk;
            }
            let all_told = watcher.plan.after_sequence >= progress.event_seq;
            if progress.state.is_terminal() && all_told {
                break;
            }
            if watcher.plan.stored_only && watcher.plan.after_sequence >= last_event {
                break;
            }
            if all_told {
                watcher.wait(&mut changes, deadline).await?;
            }
            progress = watcher.look().await?;
            if watcher.plan.stored_only {
                progress.streams.clone_from(&stored);
                progress.events.retain(|event| event.seq <= last_event);
            }
        }
    })
}

async fn expired(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.instant()).await,
        None => std::future::pending().await,
    }
}

/// Whether an attempt is over with this event: its output has to be told first.
fn ends_attempt(event: &JobEvent) -> bool {
    event.state.is_terminal() || (event.state == JobState::Queued && event.attempt > 0)
}

struct Watcher {
    service: Shared,
    name: JobName,
    plan: Plan,
}

impl Watcher {
    async fn look(&self) -> Result<JobProgress, ApiError> {
        let JobName { tenant, job } = &self.name;
        let after = self.plan.after_sequence;
        self.service.store.job_progress(tenant, *job, after).await.map_err(missing(&self.name))
    }

    /// Until something may have changed.
    async fn wait(&self, changes: &mut JobWatch, deadline: Option<Deadline>) -> Result<(), ApiError> {
        tokio::select! {
            () = changes.changed() => Ok(()),
            () = expired(deadline) => Err(ApiError::DeadlineExceeded),
            () = self.service.shutdown.cancelled() => {
                Err(ApiError::Unavailable { what: "the service", source: None })
            }
        }
    }

    /// The next output that was not told yet, of attempts up to `last_attempt`.
    async fn next_chunk(
        &mut self,
        streams: &[StreamRecord],
        last_attempt: u32,
    ) -> Result<Option<WatchJobResponse>, ApiError> {
        if self.plan.states_only {
            return Ok(None);
        }
        for record in streams.iter().filter(|record| record.attempt <= last_attempt) {
            let of = SpooledStream { job: self.name.job, attempt: record.attempt, stream: record.stream };
            let offset = self.plan.offsets.get(&(of.attempt, of.stream)).copied().unwrap_or(0);
            if offset >= record.stored_bytes {
                continue;
            }
            let bytes = self.service.output.read(&self.name.tenant, of, offset, CHUNK_BYTES).await?;
            if bytes.is_empty() {
                continue;
            }
            self.plan.offsets.insert((of.attempt, of.stream), offset + bytes.len() as u64);
            return Ok(Some(output_chunk(of, offset, bytes)));
        }
        Ok(None)
    }
}

fn output_chunk(of: SpooledStream, offset: u64, bytes: Bytes) -> WatchJobResponse {
    let stream = match of.stream {
        OutputStream::Stdout => StreamNumber::Stdout,
        OutputStream::Stderr => StreamNumber::Stderr,
    };
    let chunk =
        OutputChunk { attempt: of.attempt, stream: stream.into(), offset: int64(offset), data: bytes.into() };
    WatchJobResponse { event: Some(Event::OutputChunk(chunk)) }
}

fn state_change(event: JobEvent) -> WatchJobResponse {
    let change = StateChange {
        sequence: int64(event.seq),
        state: state_message(event.state).into(),
        attempt: event.attempt,
        time: Some(timestamp(event.at)),
        reason: event.reason,
    };
    WatchJobResponse { event: Some(Event::StateChange(change)) }
}
