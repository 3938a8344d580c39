use bulkhead_client::{Client, ClientError, Event, is_terminal, v1};

use super::{PATIENCE, Service};

/// A tenant's view of the service; each call waits for its answer.
#[derive(Clone)]
pub(crate) struct Tenant<'a> {
    service: &'a Service,
    pub(crate) client: Client,
    pub(crate) parent: String,
}

impl<'a> Tenant<'a> {
    pub(super) fn new(service: &'a Service, id: &str) -> Self {
        let client = service.client(&["--tenant", id]);
        Self { service, client, parent: format!("tenants/{id}") }
    }

    fn now<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> T {
        let answer = self.service.runtime().block_on(async { tokio::time::timeout(PATIENCE, call).await });
        let answer = answer.expect("an answer in time");
        answer.unwrap_or_else(|error| panic!("{:?} {}: {error}", error.code, error.reason))
    }

    /// Creates a job and returns its name.
    pub(crate) fn submit(&self, spec: v1::JobSpec) -> String {
        self.now(self.client.create_job(&self.parent, spec)).name
    }

    /// Why a job is refused: the reason of the error and its text.
    pub(crate) fn refused(&self, spec: v1::JobSpec) -> (String, String) {
        let create = self.client.create_job(&self.parent, spec);
        match self.service.runtime().block_on(create) {
            Ok(job) => panic!("{} was created", job.name),
            Err(error) => (error.reason.clone(), error.message),
        }
    }

    pub(crate) fn get(&self, name: &str) -> v1::Job {
        self.now(self.client.get_job(name))
    }

    /// The job when it has ended.
    pub(crate) fn wait(&self, name: &str) -> v1::Job {
        let job = self.now(self.client.wait_job(name));
        assert!(is_terminal(job.state()));
        job
    }

    pub(crate) fn delete(&self, name: &str) {
        self.now(self.client.delete_job(name));
    }

    /// Returns when the job has written something to standard output: then it surely runs.
    pub(crate) fn wait_for_output(&self, name: &str) {
        let mut watch = self.client.watch_job(name);
        self.now(async {
            loop {
                match watch.next().await? {
                    Some(Event::Output(_)) => return Ok(()),
                    Some(Event::State(_)) => {}
                    None => panic!("{name} ended and wrote nothing"),
                }
            }
        });
    }

    /// What the job's last attempt wrote to standard output and error, each.
    pub(crate) fn output(&self, name: &str) -> [Vec<u8>; 2] {
        let mut watch = self.client.watch_job(name);
        self.now(async {
            let (mut attempt, mut streams) = (0, [Vec::new(), Vec::new()]);
            while let Some(event) = watch.next().await? {
                let Event::Output(chunk) = event else { continue };
                if chunk.attempt > attempt {
                    (attempt, streams) = (chunk.attempt, [Vec::new(), Vec::new()]);
                }
                let stream = &mut streams[usize::from(chunk.stream() == v1::Stream::Stderr)];
                assert_eq!(chunk.offset, i64::try_from(stream.len()).expect("small"), "no gaps");
                stream.extend(chunk.data);
            }
            Ok(streams)
        })
    }
}

/// A job of busybox's shell.
pub(crate) fn shell(script: &str) -> v1::JobSpec {
    v1::JobSpec {
        image: Some(v1::job_spec::Image::ImageName("tiny".to_owned())),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

/// A job's last attempt.
pub(crate) fn last(job: &v1::Job) -> &v1::Attempt {
    job.attempts.last().expect("the job has an attempt")
}

/// A limit of so many milliseconds.
pub(crate) fn milliseconds<T: TryFrom<std::time::Duration>>(value: u64) -> Option<T> {
    std::time::Duration::from_millis(value).try_into().ok()
}

/// How long an attempt ran by the service's own clock, in seconds.
pub(crate) fn seconds(attempt: &v1::Attempt) -> f64 {
    let (start, end) = (attempt.start_time.as_ref(), attempt.end_time.as_ref());
    let (start, end) = (start.expect("it has started"), end.expect("it has ended"));
    (end.seconds - start.seconds) as f64 + f64::from(end.nanos - start.nanos) / 1e9
}
