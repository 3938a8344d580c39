//! A server that does what a test tells it, message by message.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_daemon::{Worker, WorkerConfig};
use bulkhead_image::{FileDigest, ImageConfig, ImageMeta};
use bulkhead_proto::worker::from_worker::Message;
use bulkhead_proto::worker::to_worker::Message as ToMessage;
use bulkhead_proto::worker::worker_service_server::{WorkerService, WorkerServiceServer};
use bulkhead_proto::worker::*;
use bulkhead_types::{
    AttemptOutcome, Digest, ImageName, ImageRef, JobId, JobSpec, Limits, Priority, RetryPolicy,
};
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::backend::Processes;

/// What stands for an image: the daemon does not look inside.
pub(crate) const IMAGE: &[u8] = b"an image";
/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A lease that no test outlives by accident.
pub(crate) const LONG_LEASE_MS: i64 = 600_000;

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

fn image_meta() -> ImageMeta {
    let file = FileDigest { digest: digest(IMAGE), size: IMAGE.len() as u64 };
    ImageMeta::new(file, None, ImageConfig::default())
}

#[derive(Clone, Default)]
pub(crate) struct Shared {
    pub(crate) blobs: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    pub(crate) stored: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    pub(crate) image_fetches: Arc<AtomicUsize>,
}

struct Service {
    shared: Shared,
    sessions: mpsc::Sender<Session>,
}

type BytesStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

fn stream(bytes: &[u8]) -> Response<BytesStream> {
    let parts: Vec<_> = bytes.chunks(3).map(|part| Ok(Bytes { data: part.to_vec() })).collect();
    Response::new(futures::stream::iter(parts).boxed())
}

#[tonic::async_trait]
impl WorkerService for Service {
    type AttachStream = ReceiverStream<Result<ToWorker, Status>>;
    type FetchBlobStream = BytesStream;
    type FetchImageStream = BytesStream;

    async fn attach(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (to_worker, outbound) = mpsc::channel(64);
        let session = Session { inbound: request.into_inner(), to_worker };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn fetch_blob(&self, request: Request<FetchBlobRequest>) -> Result<Response<BytesStream>, Status> {
        let blobs = self.shared.blobs.lock().expect("lock");
        let blob =
            blobs.get(&request.into_inner().digest).ok_or_else(|| Status::not_found("no such blob"))?;
        Ok(stream(blob))
    }

    async fn fetch_image(
        &self,
        request: Request<FetchImageRequest>,
    ) -> Result<Response<BytesStream>, Status> {
        assert_eq!(request.into_inner().digest, image_meta().digest().to_string());
        self.shared.image_fetches.fetch_add(1, Ordering::Relaxed);
        Ok(stream(IMAGE))
    }

    async fn store_blob(
        &self,
        request: Request<Streaming<StoreBlobRequest>>,
    ) -> Result<Response<StoreBlobResponse>, Status> {
        let mut parts = request.into_inner();
        let mut digest = String::new();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(store_blob_request::Part::Header(header)) => digest = header.digest,
                Some(store_blob_request::Part::Data(data)) => bytes.extend(data),
                None => {}
            }
        }
        if bytes == b"refuse me" {
            return Err(Status::resource_exhausted("no room for this"));
        }
        self.shared.stored.lock().expect("lock").insert(digest, bytes);
        Ok(Response::new(StoreBlobResponse {}))
    }
}

/// The server's side of one connection. Dropping it ends the connection.
pub(crate) struct Session {
    inbound: Streaming<FromWorker>,
    to_worker: mpsc::Sender<Result<ToWorker, Status>>,
}

impl Session {
    pub(crate) async fn send(&self, message: ToMessage) {
        self.to_worker.send(Ok(ToWorker { message: Some(message) })).await.expect("the worker listens");
    }

    /// The next message that is no heartbeat; heartbeats are answered, so that leases live.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            match self.raw().await {
                Message::Heartbeat(beat) => {
                    let renewed = LeasesRenewed { sequence: beat.sequence, lease_ms: LONG_LEASE_MS };
                    self.send(ToMessage::Renewed(renewed)).await;
                }
                other => return other,
            }
        }
    }

    pub(crate) async fn raw(&mut self) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("in time");
        message.expect("the worker is there").expect("the worker is there").message.expect("not empty")
    }

    pub(crate) async fn register(&mut self, answer: Registered) -> Register {
        let Message::Register(register) = self.raw().await else { panic!("Register comes first") };
        self.send(ToMessage::Registered(answer)).await;
        register
    }

    pub(crate) async fn lease(&self, spec: &JobSpec) -> AttemptId {
        let id =
            AttemptId { tenant: "acme".into(), job: JobId::generate().to_string(), attempt: 1, token: 5 };
        self.send(ToMessage::Lease(Lease {
            id: Some(id.clone()),
            spec_json: serde_json::to_vec(spec).expect("json"),
            image_digest: image_meta().digest().to_string(),
            image_owner: "tenants/acme".into(),
            image_config_json: image_meta().to_json().into_bytes(),
            backend: "sentry".into(),
        }))
        .await;
        id
    }

    /// Takes everything until the attempt's end, confirming output as it comes.
    pub(crate) async fn until_finished(&mut self, id: &AttemptId) -> Seen {
        let mut seen = Seen::default();
        loop {
            match self.next().await {
                Message::Started(started) if started.id.as_ref() == Some(id) => seen.started = true,
                Message::Output(chunk) if chunk.id.as_ref() == Some(id) => self.take(chunk, &mut seen).await,
                Message::Finished(finished) if finished.id.as_ref() == Some(id) => {
                    seen.outcome = Some(serde_json::from_slice(&finished.outcome_json).expect("an outcome"));
                    return seen;
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn take(&mut self, chunk: OutputChunk, seen: &mut Seen) {
        let stream = seen.streams.entry(chunk.stream).or_insert_with(|| (chunk.offset, Vec::new()));
        assert_eq!(chunk.offset, stream.0 + stream.1.len() as i64, "no gap and nothing twice");
        assert!(chunk.data.len() <= 64 << 10);
        stream.1.extend(chunk.data);
        let durable = stream.0 + stream.1.len() as i64;
        self.send(ToMessage::OutputAck(OutputAck { id: chunk.id, stream: chunk.stream, durable })).await;
    }

    pub(crate) async fn accept(&self, id: &AttemptId) {
        self.send(ToMessage::FinishedAck(FinishedAck { id: Some(id.clone()), accepted: true })).await;
    }
}

/// What the server saw of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) started: bool,
    /// By stream: the first offset, and the bytes from there.
    pub(crate) streams: BTreeMap<u32, (i64, Vec<u8>)>,
    pub(crate) outcome: Option<AttemptOutcome>,
}

impl Seen {
    pub(crate) fn outcome(&self) -> &AttemptOutcome {
        self.outcome.as_ref().expect("finished")
    }

    pub(crate) fn text(&self, stream: u32) -> String {
        String::from_utf8(self.streams.get(&stream).cloned().unwrap_or_default().1).expect("text")
    }
}

/// A worker and its server.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) shared: Shared,
    pub(crate) backend: Arc<Processes>,
    sessions: mpsc::Receiver<Session>,
    shutdown: Option<oneshot::Sender<()>>,
    worker: Option<JoinHandle<()>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::in_directory(tempfile::tempdir().expect("temporary directory")).await
    }

    pub(crate) async fn in_directory(dir: tempfile::TempDir) -> Self {
        let shared = Shared::default();
        let (sessions, accepted) = mpsc::channel(4);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let service = WorkerServiceServer::new(Service { shared: shared.clone(), sessions });
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let backend = Arc::new(Processes::default());
        let config =
            WorkerConfig { drain_timeout: Duration::from_millis(300), ..WorkerConfig::new(dir.path()) };
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("endpoint");
        let worker =
            Worker::new(&config, &endpoint, bulkhead_daemon::Backends::default().with(backend.clone()))
                .expect("worker");
        let (shutdown, asked) = oneshot::channel();
        let worker = tokio::spawn(worker.run(async {
            let _ = asked.await;
        }));
        Self { dir, shared, backend, sessions: accepted, shutdown: Some(shutdown), worker: Some(worker) }
    }

    /// The next connection of the worker, not registered yet.
    pub(crate) async fn connection(&mut self) -> Session {
        tokio::time::timeout(PATIENCE, self.sessions.recv())
            .await
            .expect("in time")
            .expect("the server lives")
    }

    pub(crate) async fn session(&mut self) -> Session {
        let mut session = self.connection().await;
        session.register(registered()).await;
        session
    }

    pub(crate) fn shut_down(&mut self) {
        self.shutdown.take().expect("once").send(()).expect("the worker lives");
    }

    pub(crate) async fn ended(&mut self) {
        let worker = self.worker.take().expect("once");
        tokio::time::timeout(PATIENCE, worker).await.expect("in time").expect("no panic");
    }

    /// Waits until the spool is empty.
    pub(crate) async fn spool_is_empty(&self) {
        self.until("an empty spool", || {
            std::fs::read_dir(self.dir.path().join("spool")).expect("spool").count() == 0
        })
        .await;
    }

    pub(crate) async fn until(&self, what: &str, mut true_now: impl FnMut() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !true_now() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
    }
}

pub(crate) fn registered() -> Registered {
    Registered { unwanted: vec![], heartbeat_interval_ms: 50, lease_ms: LONG_LEASE_MS, positions: vec![] }
}

/// A job that runs this script with the host's shell.
pub(crate) fn script(text: &str) -> JobSpec {
    JobSpec {
        image: ImageRef::Name(ImageName::new("demo").expect("valid")),
        argv: vec!["/bin/sh".into(), "-c".into(), text.into()],
        env: vec![],
        working_directory: None,
        user: None,
        stdin: None,
        input_files: vec![],
        input_archives: vec![],
        outputs: vec![],
        backend: bulkhead_types::Backend::Auto,
        priority: Priority::Normal,
        labels: BTreeMap::new(),
        retry: RetryPolicy::default(),
        grace_period_ms: 500,
        limits: Limits::default(),
    }
}
