use bulkhead_proto::v1;
use tonic::{Status, Streaming};

use crate::error::is_lost;
use crate::retry::Patience;
use crate::{Client, ClientError};

/// Something that a watched job did.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It changed its state.
    State(v1::StateChange),
    /// It wrote something.
    Output(v1::OutputChunk),
}

/// The events of a job, in order. A connection that breaks is made again, and nothing comes twice or is left out.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    /// What would be asked now: it follows what has come.
    request: v1::WatchJobRequest,
    stream: Option<Streaming<v1::WatchJobResponse>>,
}

impl Watch {
    pub(crate) fn new(client: Client, request: v1::WatchJobRequest) -> Self {
        Self { client, request, stream: None }
    }

    /// From here on only what is stored by now: the watch then ends, also if the job has not.
    #[must_use]
    pub fn stored_only(mut self) -> Self {
        self.request.stored_only = true;
        self.stream = None;
        self
    }

    /// The next event; none after the last one of a job that has ended.
    ///
    /// # Errors
    /// NOT_FOUND; UNAVAILABLE if the service stays away.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let mut patience = Patience::new();
        loop {
            match self.try_next().await {
                Ok(Some(response)) => {
                    if let Some(event) = response.event {
                        return Ok(self.note(event));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) if is_lost(&status) && patience.wait().await => self.stream = None,
                Err(status) => return Err(status.into()),
            }
        }
    }

    /// The request that would take up from here, for a watch in another process.
    pub fn position(&self) -> &v1::WatchJobRequest {
        &self.request
    }

    async fn try_next(&mut self) -> Result<Option<v1::WatchJobResponse>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let answer = self.client.jobs().watch_job(self.request.clone()).await?;
                self.stream.insert(answer.into_inner())
            }
        };
        stream.message().await
    }

    fn note(&mut self, event: v1::watch_job_response::Event) -> Option<Event> {
        match event {
            v1::watch_job_response::Event::StateChange(change) => {
                self.request.after_sequence = change.sequence;
                Some(Event::State(change))
            }
            v1::watch_job_response::Event::OutputChunk(chunk) => {
                let next = chunk.offset + i64::try_from(chunk.data.len()).unwrap_or(0);
                let known = self.request.positions.iter_mut();
                let mut same = known.filter(|p| (p.attempt, p.stream) == (chunk.attempt, chunk.stream));
                match same.next() {
                    Some(position) => position.offset = next,
                    None => self.request.positions.push(v1::StreamPosition {
                        attempt: chunk.attempt,
                        stream: chunk.stream,
                        offset: next,
                    }),
                }
                Some(Event::Output(chunk))
            }
        }
    }
}
