use bulkhead_proto::v1;

use crate::retry::{request_id, retry};
use crate::{Client, ClientError, Watch};

/// Whether a job in this state has ended.
pub fn is_terminal(state: v1::State) -> bool {
    !matches!(state, v1::State::Unspecified | v1::State::Queued | v1::State::Leased | v1::State::Running)
}

/// Jobs. Each call fails with what the service says ([`ClientError`]).
impl Client {
    /// Creates a job of the tenant `parent`. Repeated while the service is away; it still creates one job.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the field; RESOURCE_EXHAUSTED says when to try again.
    pub async fn create_job(&self, parent: &str, spec: v1::JobSpec) -> Result<v1::Job, ClientError> {
        self.create_job_with_id(parent, spec, &request_id()).await
    }

    /// [`Client::create_job`] with a `request_id` of the caller's, who may then repeat it after a crash of its own.
    ///
    /// # Errors
    /// As [`Client::create_job`].
    pub async fn create_job_with_id(
        &self,
        parent: &str,
        spec: v1::JobSpec,
        request_id: &str,
    ) -> Result<v1::Job, ClientError> {
        let request = v1::CreateJobRequest {
            parent: parent.to_owned(),
            spec: Some(spec),
            request_id: request_id.to_owned(),
        };
        retry(|| {
            let (mut jobs, request) = (self.jobs(), request.clone());
            async move { jobs.create_job(request).await }
        })
        .await
    }

    /// Returns a job with its attempts.
    ///
    /// # Errors
    /// NOT_FOUND also for another tenant's.
    pub async fn get_job(&self, name: &str) -> Result<v1::Job, ClientError> {
        let request = v1::GetJobRequest { name: name.to_owned() };
        retry(|| {
            let (mut jobs, request) = (self.jobs(), request.clone());
            async move { jobs.get_job(request).await }
        })
        .await
    }

    /// Returns one page of jobs, newest first.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a bad filter or page token.
    pub async fn list_jobs(
        &self,
        request: &v1::ListJobsRequest,
    ) -> Result<v1::ListJobsResponse, ClientError> {
        retry(|| {
            let (mut jobs, request) = (self.jobs(), request.clone());
            async move { jobs.list_jobs(request).await }
        })
        .await
    }

    /// Cancels a job; one that has ended stays as it is.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn cancel_job(&self, name: &str) -> Result<v1::Job, ClientError> {
        let request = v1::CancelJobRequest { name: name.to_owned(), request_id: request_id() };
        retry(|| {
            let (mut jobs, request) = (self.jobs(), request.clone());
            async move { jobs.cancel_job(request).await }
        })
        .await
    }

    /// Deletes a job that has ended, with its output.
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION while it runs.
    pub async fn delete_job(&self, name: &str) -> Result<(), ClientError> {
        let request = v1::DeleteJobRequest { name: name.to_owned(), request_id: request_id() };
        let answer = retry(|| {
            let (mut jobs, request) = (self.jobs(), request.clone());
            async move { jobs.delete_job(request).await }
        });
        answer.await.map(|v1::DeleteJobResponse {}| ())
    }

    /// Waits until a job has ended, however long that takes.
    ///
    /// # Errors
    /// NOT_FOUND; UNAVAILABLE if the service stays away.
    pub async fn wait_job(&self, name: &str) -> Result<v1::Job, ClientError> {
        let request = v1::WaitJobRequest { name: name.to_owned() };
        loop {
            let answer = retry(|| {
                let (mut jobs, request) = (self.jobs(), request.clone());
                async move { jobs.wait_job(request).await }
            });
            let job: v1::Job = answer.await?;
            if is_terminal(job.state()) {
                return Ok(job);
            }
        }
    }

    /// Watches a job from its beginning: its states and its output, until it has ended.
    pub fn watch_job(&self, name: &str) -> Watch {
        Watch::new(self.clone(), v1::WatchJobRequest { name: name.to_owned(), ..Default::default() })
    }

    /// Watches a job as the request says, for instance from where an earlier watch was.
    pub fn watch_job_from(&self, request: v1::WatchJobRequest) -> Watch {
        Watch::new(self.clone(), request)
    }
}
