//! The table of bad input, as far as the API answers it.

use bulkhead_proto::v1::job_spec::Image;
use bulkhead_proto::v1::*;
use bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use super::harness::{Client, Running, assert_field, reason, spec};

/// Sends bytes as they are.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

async fn raw(
    running: &Running,
    token: &str,
    method: &'static str,
    bytes: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    grpc.ready().await.expect("ready");
    let mut request = Request::new(bytes);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    let path = http::uri::PathAndQuery::from_static(method);
    Ok(grpc.unary(request, path, Raw).await?.into_inner())
}

#[tokio::test]
async fn undecodable_messages_are_invalid_and_name_the_field() {
    let running = Running::start().await;
    running.tenant("acme").await;
    let token = running.token(Some("acme"), &bulkhead_server::auth::Scope::ALL);
    let create = "/bulkhead.v1.JobService/CreateJob";
    // spec (2) { argv (3): one byte that is not UTF-8 }
    let status = raw(&running, &token, create, vec![0x12, 3, 0x1a, 1, 0xff]).await.expect_err("not UTF-8");
    assert_field(&status, "spec.argv");
    // Bytes from a fixed generator, so that a failure can be repeated.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..200 {
        let length = round % 64 + 1;
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .collect();
        // Whatever it is, nothing of it is a job: the parent at least is missing.
        let status = raw(&running, &token, create, bytes.clone()).await.expect_err("no job");
        assert_eq!(status.code(), Code::InvalidArgument, "{bytes:02x?}: {status:?}");
        reason(&status);
    }
    let status = raw(&running, &token, create, vec![0x7a; 17 << 20]).await.expect_err("too large");
    assert_field(&status, "request");
    assert_eq!(reason(&status), "MESSAGE_TOO_LARGE");
    let status = raw(&running, &token, "/bulkhead.v1.JobService/Nothing", vec![]).await.expect_err("unknown");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(reason(&status), "METHOD_UNKNOWN");
    running.stop().await;
}

async fn refused(client: &Client, change: impl FnOnce(&mut JobSpec)) -> Status {
    client.create(change).await.expect_err("refused")
}

#[tokio::test]
async fn wrong_descriptions_name_their_field() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let digest = format!("sha256:{}", "ab".repeat(32));
    let blob = || Content { kind: Some(content::Kind::BlobDigest(digest.clone())) };
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let limits = |limits: Limits| move |spec: &mut JobSpec| spec.limits = Some(limits);
    let unknown = refused(&acme, |spec| spec.image = Some(Image::ImageName("nothing".into()))).await;
    assert_field(&unknown, "spec.image_name");
    let unknown = refused(&acme, |spec| spec.image = Some(Image::ImageDigest(digest.clone()))).await;
    assert_field(&unknown, "spec.image_digest");
    assert_field(&refused(&acme, |spec| spec.argv = Vec::new()).await, "spec.argv");
    assert_field(&refused(&acme, |spec| spec.argv = vec![String::new()]).await, "spec.argv[0]");
    assert_field(&refused(&acme, |spec| spec.argv = vec!["x".repeat(2 << 20)]).await, "spec.argv[0]");
    assert_field(&refused(&acme, |spec| spec.argv = vec!["x".repeat(100_000); 21]).await, "spec.argv");
    let many = (0..100_000).map(|i| (i.to_string(), String::new())).collect();
    assert_field(&refused(&acme, |spec| spec.labels = many).await, "spec.labels");
    for (field, wrong) in [
        ("spec.limits.memory_bytes", Limits { memory_bytes: -1, ..Default::default() }),
        ("spec.limits.memory_bytes", Limits { memory_bytes: i64::MAX, ..Default::default() }),
        ("spec.limits.cpu_milli", Limits { cpu_milli: -5, ..Default::default() }),
        ("spec.limits.processes", Limits { processes: 32_769, ..Default::default() }),
        ("spec.limits.disk_bytes", Limits { disk_bytes: 1, ..Default::default() }),
        ("spec.limits.wall_time", Limits { wall_time: seconds(-1), ..Default::default() }),
        ("spec.limits.wall_time", Limits { wall_time: seconds(1 << 40), ..Default::default() }),
        ("spec.limits.cpu_time", Limits { cpu_time: seconds(-1), ..Default::default() }),
        ("spec.limits.memory_request_bytes", Limits { memory_request_bytes: 1 << 40, ..Default::default() }),
        ("spec.limits.output_bytes", Limits { output_bytes: 2 << 30, ..Default::default() }),
    ] {
        assert_field(&refused(&acme, limits(wrong)).await, field);
    }
    assert_field(&refused(&acme, |spec| spec.stdin = Some(blob())).await, "spec.stdin.blob_digest");
    let archive = InputArchive { directory: "/in".into(), blob_digest: digest.clone() };
    let missing = refused(&acme, |spec| spec.input_archives.push(archive)).await;
    assert_field(&missing, "spec.input_archives[0].blob_digest");
    let parent = || acme.parent();
    let create = |request| async { acme.jobs().create_job(request).await.expect_err("refused") };
    let nothing = CreateJobRequest { parent: parent(), ..Default::default() };
    assert_field(&create(nothing).await, "spec");
    let nobody = CreateJobRequest { parent: "acme".into(), spec: Some(spec()), ..Default::default() };
    assert_field(&create(nobody).await, "parent");
    let twice = CreateJobRequest { parent: parent(), spec: Some(spec()), request_id: "once".into() };
    assert_field(&create(twice).await, "request_id");
    running.stop().await;
}

#[tokio::test]
async fn lists_and_names_are_bounded() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let list = |change: fn(&mut ListJobsRequest)| {
        let mut request = ListJobsRequest { parent: acme.parent(), ..Default::default() };
        change(&mut request);
        let mut jobs = acme.jobs();
        async move { jobs.list_jobs(request).await.expect_err("refused") }
    };
    assert_field(&list(|request| request.page_size = 1_000_000_000).await, "page_size");
    assert_field(&list(|request| request.page_size = -1).await, "page_size");
    assert_field(&list(|request| request.page_token = "nonsense".into()).await, "page_token");
    assert_field(&list(|request| request.states = vec![77]).await, "states");
    assert_field(&list(|request| request.parent = String::new()).await, "parent");
    let get = |name: &str| {
        let (mut jobs, name) = (acme.jobs(), name.to_owned());
        async move { jobs.get_job(GetJobRequest { name }).await.expect_err("refused") }
    };
    for name in ["", "x", "tenants/acme/jobs/1", "tenants/acme/jobs/../x", &"x".repeat(100_000)] {
        assert_field(&get(name).await, "name");
    }
    let watch = |change: fn(&mut WatchJobRequest)| {
        let name = format!("{}/jobs/{}", acme.parent(), uuid::Uuid::now_v7());
        let mut request = WatchJobRequest { name, ..Default::default() };
        change(&mut request);
        let mut jobs = acme.jobs();
        async move { jobs.watch_job(request).await.expect_err("refused") }
    };
    assert_field(&watch(|request| request.after_sequence = -1).await, "after_sequence");
    assert_field(
        &watch(|request| request.positions.push(StreamPosition { attempt: 1, stream: 1, offset: -1 })).await,
        "positions[0].offset",
    );
    assert_field(
        &watch(|request| request.positions.push(StreamPosition { attempt: 0, stream: 1, offset: 0 })).await,
        "positions[0].attempt",
    );
    assert_field(
        &watch(|request| request.positions.push(StreamPosition { attempt: 1, stream: 9, offset: 0 })).await,
        "positions[0].stream",
    );
    running.stop().await;
}
