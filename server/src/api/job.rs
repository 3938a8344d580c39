use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use bulkhead_proto::v1::job_service_server::JobService;
use bulkhead_proto::v1::{
    CancelJobRequest, CreateJobRequest, DeleteJobRequest, DeleteJobResponse, GetJobRequest, Job,
    ListJobsRequest, ListJobsResponse, State, WaitJobRequest, WatchJobRequest, WatchJobResponse,
};
use bulkhead_store::{JobFilter, JobRecord};
use bulkhead_types::{JobName, JobState, bounds};
use futures::Stream;
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::create::{self, KnownNodes};
use super::{Shared, caller, watch};
use crate::auth::Caller;
use crate::convert::{self, job_message};
use crate::edge::Deadline;
use crate::error::ApiError;

/// How long WaitJob waits for a client that sets no deadline.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// How long before the call's deadline WaitJob answers, so that the answer arrives in time.
const ANSWER_BEFORE: Duration = Duration::from_millis(200);
/// A page of jobs has fewer than were asked for once they have this many bytes together: clients accept messages of
/// 4 MiB unless told otherwise.
const PAGE_BYTES: usize = 3 << 20;
/// Jobs that are read from the database at once for a page.
const JOBS_AT_ONCE: u32 = 50;
/// Most states in a filter: each once.
const MAX_STATES: usize = JobState::ALL.len();

/// Serves jobs.
pub(crate) struct Jobs {
    service: Shared,
    known: KnownNodes,
}

impl Jobs {
    pub(crate) fn new(service: Shared) -> Self {
        Self { service, known: KnownNodes::default() }
    }
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchJobResponse, Status>> + Send>>;

#[tonic::async_trait]
impl JobService for Jobs {
    async fn create_job(&self, request: Request<CreateJobRequest>) -> Result<Response<Job>, Status> {
        let caller = caller(&request)?.clone();
        let record = create::create(&self.service, &self.known, &caller, request.into_inner()).await?;
        Ok(Response::new(job_message(record)))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let name = named(&request, &request.get_ref().name)?;
        let record = self.service.store.job_get(&name.tenant, name.job).await.map_err(missing(&name))?;
        Ok(Response::new(job_message(record)))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let caller = caller(&request)?.clone();
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let name = named(&request, &request.get_ref().name)?;
        let body = || name.to_string().into_bytes();
        let key = self.service.bodies.request("CancelJob", &request.get_ref().request_id, body)?;
        let cancelled = self.service.store.job_cancel(&name.tenant, name.job, key.as_ref()).await;
        Ok(Response::new(job_message(cancelled.map_err(missing(&name))?)))
    }

    async fn delete_job(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        let name = named(&request, &request.get_ref().name)?;
        let body = || name.to_string().into_bytes();
        let key = self.service.bodies.request("DeleteJob", &request.get_ref().request_id, body)?;
        let deleted = self.service.store.job_delete(&name.tenant, name.job, key.as_ref()).await;
        deleted.map_err(missing(&name))?;
        self.service.spool.remove_job(name.job).await.map_err(ApiError::internal)?;
        Ok(Response::new(DeleteJobResponse {}))
    }

    async fn wait_job(&self, request: Request<WaitJobRequest>) -> Result<Response<Job>, Status> {
        let name = named(&request, &request.get_ref().name)?;
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.instant());
        Ok(Response::new(job_message(self.wait(&name, deadline).await?)))
    }

    type WatchJobStream = WatchStream;

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Result<Response<WatchStream>, Status> {
        let name = named(&request, &request.get_ref().name)?;
        let deadline = request.extensions().get::<Deadline>().copied();
        let plan = watch::Plan::new(request.into_inner())?;
        let watching = watch::watch(self.service.clone(), name, plan, deadline).await?;
        Ok(Response::new(Box::pin(watching)))
    }
}

/// The job that a request names, if its caller may know of it.
fn named<T>(request: &Request<T>, name: &str) -> Result<JobName, ApiError> {
    let caller = caller(request)?;
    let job = convert::job_name(name)?;
    caller.works_for(&job.tenant, "job", name)?;
    Ok(job)
}

/// The store knows jobs by their ids; clients know them by their names.
pub(super) fn missing(name: &JobName) -> impl FnOnce(bulkhead_store::StoreError) -> ApiError {
    let name = name.to_string();
    move |error| match ApiError::from(error) {
        ApiError::NotFound { kind: "job", .. } => ApiError::not_found("job", name),
        ApiError::JobNotEnded { state, .. } => ApiError::JobNotEnded { name, state },
        other => other,
    }
}

impl Jobs {
    async fn list(&self, caller: &Caller, request: ListJobsRequest) -> Result<ListJobsResponse, ApiError> {
        let tenant = convert::parent(&request.parent)?;
        caller.works_for(&tenant, "tenant", &request.parent)?;
        let page = convert::page(request.page_size, request.page_token)?;
        let filter = filter(&request.states, request.labels.into_iter().collect())?;
        let (mut jobs, mut token, mut bytes) = (Vec::new(), page.token, 0);
        let mut at_once = JOBS_AT_ONCE;
        loop {
            let left = page.size - u32::try_from(jobs.len()).unwrap_or(page.size);
            let wanted = left.min(at_once);
            let (records, next) =
                self.service.store.job_list(&tenant, &filter, wanted, token.as_deref()).await?;
            let more: Vec<Job> = records.into_iter().map(job_message).collect();
            let size: usize = more.iter().map(Message::encoded_len).sum();
            // Too many large ones: take fewer, but at least one, so that a list always gets on.
            if bytes + size > PAGE_BYTES && wanted > 1 {
                if !jobs.is_empty() {
                    break;
                }
                at_once = wanted / 2;
                continue;
            }
            jobs.extend(more);
            bytes += size;
            token = next;
            if token.is_none() || jobs.len() >= page.size as usize || bytes > PAGE_BYTES {
                break;
            }
        }
        Ok(ListJobsResponse { jobs, next_page_token: token.unwrap_or_default() })
    }

    async fn wait(&self, name: &JobName, deadline: Option<Instant>) -> Result<JobRecord, ApiError> {
        let store = &self.service.store;
        let answer_at = match deadline {
            Some(deadline) => deadline.checked_sub(ANSWER_BEFORE).unwrap_or(deadline),
            None => Instant::now() + DEFAULT_WAIT,
        };
        // Before the first look, so that nothing falls between.
        let mut watch = store.fleet().notifier().watch_job(name.job);
        loop {
            let job = store.job_get(&name.tenant, name.job).await.map_err(missing(name))?;
            if job.state.is_terminal() || Instant::now() >= answer_at {
                return Ok(job);
            }
            tokio::select! {
                () = watch.ended() => {}
                () = tokio::time::sleep_until(answer_at) => {}
                () = self.service.shutdown.cancelled() => {
                    return Err(ApiError::Unavailable { what: "the service", source: None });
                }
            }
        }
    }
}

fn filter(states: &[i32], labels: BTreeMap<String, String>) -> Result<JobFilter, ApiError> {
    if states.len() > MAX_STATES {
        return Err(ApiError::field(
            "states",
            format!("at most {MAX_STATES} are accepted; got {}", states.len()),
        ));
    }
    if labels.len() > bounds::LABELS {
        let problem = format!("at most {} are accepted; got {}", bounds::LABELS, labels.len());
        return Err(ApiError::field("labels", problem));
    }
    if labels.iter().any(|(key, value)| {
        key.len().max(value.len()) > bounds::LABEL_BYTES || (key.clone() + value).contains('\0')
    }) {
        let problem = format!("keys and values have at most {} bytes, without NUL", bounds::LABEL_BYTES);
        return Err(ApiError::field("labels", problem));
    }
    let state = |number: &i32| {
        let message = State::try_from(*number).ok().filter(|state| *state != State::Unspecified);
        let found = message.and_then(|state| state.as_str_name().parse::<JobState>().ok());
        found.ok_or_else(|| ApiError::field("states", format!("there is no state with the number {number}")))
    };
    Ok(JobFilter { states: states.iter().map(state).collect::<Result<_, _>>()?, labels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        assert!(filter(&[State::Running.into()], BTreeMap::new()).is_ok());
        for bad in [0, 99, -1] {
            assert!(filter(&[bad], BTreeMap::new()).is_err(), "{bad}");
        }
        assert!(filter(&[1; 100], BTreeMap::new()).is_err());
        assert!(filter(&[], [("k".to_owned(), "v".repeat(64))].into()).is_err());
    }
}
