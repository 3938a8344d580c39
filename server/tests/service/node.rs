//! A node that speaks the workers' protocol and runs nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_proto::worker::from_worker::Message as ToServer;
use bulkhead_proto::worker::to_worker::Message;
use bulkhead_proto::worker::worker_service_client::WorkerServiceClient;
use bulkhead_proto::worker::{
    AttemptFinished, AttemptId, AttemptStarted, BackendOffer, FromWorker, Heartbeat, Lease, OutputAck,
    OutputChunk, Progress, Register, Registered, ToWorker,
};
use bulkhead_server::identity::{Authority, Credentials, KeyDirectory, SERVER_NAME};
use bulkhead_types::{AttemptOutcome, AttemptState, NodeId, StreamTotals, Termination, Usage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::harness::{PATIENCE, Running};

pub(crate) const GIB: i64 = 1 << 30;

pub(crate) struct Node {
    pub(crate) client: WorkerServiceClient<Channel>,
    pub(crate) registered: Registered,
    to_server: mpsc::Sender<FromWorker>,
    from_server: Streaming<ToWorker>,
    beats: i64,
}

pub(crate) fn credentials(running: &Running, name: &str) -> Credentials {
    let keys = KeyDirectory::open(&running.data).expect("keys");
    let authority = Authority::open_or_create(&keys).expect("authority");
    authority.node(&NodeId::new(name).expect("valid")).expect("credentials")
}

pub(crate) fn endpoint(running: &Running, credentials: &Credentials) -> Endpoint {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&credentials.authority))
        .identity(Identity::from_pem(&credentials.certificate, &credentials.key))
        .domain_name(SERVER_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", running.workers)).expect("address");
    endpoint.tls_config(tls).expect("TLS")
}

pub(crate) fn register(memory_bytes: i64) -> Register {
    Register {
        version: "test".into(),
        memory_bytes,
        cpu_milli: 64_000,
        disk_bytes: 1000 * GIB,
        max_sandboxes: 64,
        offers: vec![offer("sentry", ""), offer("microvm", "there is no /dev/kvm: modprobe kvm_intel")],
        attempts: Vec::new(),
        draining: false,
    }
}

/// What costs 16 MiB, or is not there for a reason.
pub(crate) fn offer(name: &str, unavailable: &str) -> BackendOffer {
    BackendOffer {
        name: name.into(),
        overhead_bytes: 16 << 20,
        overhead_bytes_per_mib: 0,
        unavailable: unavailable.into(),
    }
}

pub(crate) fn outcome(state: AttemptState, code: u8) -> AttemptOutcome {
    AttemptOutcome {
        state,
        termination: Some(Termination::Exited(code)),
        reason: "as the test says".into(),
        usage: Usage { wall_us: 1500, cpu_user_us: 1000, peak_memory_bytes: 4096, ..Usage::default() },
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
        outputs: Vec::new(),
        output_problems: Vec::new(),
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    }
}

impl Node {
    pub(crate) async fn connect(running: &Running, name: &str) -> Self {
        Self::connect_with(running, name, register(8 * GIB)).await
    }

    /// Connects; again until this process leads, as nodes do.
    pub(crate) async fn connect_with(running: &Running, name: &str, register: Register) -> Self {
        let channel = endpoint(running, &credentials(running, name)).connect().await.expect("connects");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut client = WorkerServiceClient::new(channel.clone());
            let (to_server, outbound) = mpsc::channel(64);
            let first = FromWorker { message: Some(ToServer::Register(register.clone())) };
            to_server.send(first).await.expect("room");
            let attached = client.attach(ReceiverStream::new(outbound)).await.expect("attaches");
            let mut from_server = attached.into_inner();
            match from_server.message().await {
                Ok(Some(ToWorker { message: Some(Message::Registered(registered)) })) => {
                    return Self { client, registered, to_server, from_server, beats: 0 };
                }
                Err(status) if tokio::time::Instant::now() < deadline => {
                    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn send(&self, message: ToServer) {
        self.to_server.send(FromWorker { message: Some(message) }).await.expect("the server listens");
    }

    pub(crate) async fn next(&mut self) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.from_server.message()).await.expect("in time");
        message.expect("no error").expect("not ended").message.expect("not empty")
    }

    /// The next message that `pick` takes; others are left out.
    pub(crate) async fn until<T>(&mut self, pick: impl Fn(Message) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }

    pub(crate) async fn lease(&mut self) -> Lease {
        self.until(|message| match message {
            Message::Lease(lease) => Some(lease),
            _ => None,
        })
        .await
    }

    pub(crate) async fn started(&self, id: &AttemptId) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock");
        let time_us = i64::try_from(now.as_micros()).expect("fits");
        self.send(ToServer::Started(AttemptStarted { id: Some(id.clone()), time_us })).await;
    }

    pub(crate) async fn output(&self, id: &AttemptId, stream: u32, offset: i64, data: &[u8]) {
        let chunk = OutputChunk { id: Some(id.clone()), stream, offset, data: data.to_vec() };
        self.send(ToServer::Output(chunk)).await;
    }

    /// Waits until the stream is durable up to `end`.
    pub(crate) async fn durable(&mut self, stream: u32, end: i64) -> OutputAck {
        self.until(|message| match message {
            Message::OutputAck(ack) if ack.stream == stream && ack.durable >= end => Some(ack),
            _ => None,
        })
        .await
    }

    pub(crate) async fn finish(&mut self, id: &AttemptId, outcome: &AttemptOutcome) -> bool {
        let outcome_json = serde_json::to_vec(outcome).expect("JSON");
        self.send(ToServer::Finished(AttemptFinished { id: Some(id.clone()), outcome_json, time_us: 0 }))
            .await;
        self.until(|message| match message {
            Message::FinishedAck(ack) if ack.id.as_ref() == Some(id) => Some(ack.accepted),
            _ => None,
        })
        .await
    }

    pub(crate) async fn heartbeat(&mut self, running: &[AttemptId]) {
        self.beats += 1;
        let progress = |id: &AttemptId| Progress { id: Some(id.clone()), ..Default::default() };
        let beat = Heartbeat {
            sequence: self.beats,
            progress: running.iter().map(progress).collect(),
            memory_available_bytes: GIB,
        };
        self.send(ToServer::Heartbeat(beat)).await;
    }

    /// Runs the next lease: some output, then its end.
    pub(crate) async fn run_one(&mut self, stdout: &[u8], outcome: &AttemptOutcome) -> AttemptId {
        let id = self.lease().await.id.expect("an id");
        self.started(&id).await;
        if !stdout.is_empty() {
            self.output(&id, 1, 0, stdout).await;
            self.durable(1, stdout.len() as i64).await;
        }
        assert!(self.finish(&id, outcome).await);
        id
    }
}
