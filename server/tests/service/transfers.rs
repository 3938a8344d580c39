//! What nodes may fetch and store, and who is a node.

use bulkhead_proto::v1::{Content, State, content};
use bulkhead_proto::worker::from_worker::Message as ToServer;
use bulkhead_proto::worker::to_worker::Message;
use bulkhead_proto::worker::worker_service_client::WorkerServiceClient;
use bulkhead_proto::worker::{
    AttemptId, FetchBlobRequest, FetchImageRequest, OutputChunk, StoreBlobRequest, store_blob_request,
};
use bulkhead_server::identity::{Authority, KeyDirectory};
use bulkhead_types::{AttemptState, NodeId, OutputFile};
use futures::TryStreamExt;
use tonic::{Code, Status};

use super::blobs::{digest_of, download, upload};
use super::harness::Running;
use super::node::{GIB, Node, credentials, endpoint, outcome, register};

async fn fetch_blob(node: &mut Node, id: &AttemptId, digest: &str) -> Result<Vec<u8>, Status> {
    let request = FetchBlobRequest { id: Some(id.clone()), digest: digest.into() };
    let parts: Vec<_> = node.client.fetch_blob(request).await?.into_inner().try_collect().await?;
    Ok(parts.into_iter().flat_map(|part| part.data).collect())
}

async fn fetch_image(
    node: &mut Node,
    id: &AttemptId,
    digest: &str,
    private: bool,
) -> Result<Vec<u8>, Status> {
    let request = FetchImageRequest { id: Some(id.clone()), digest: digest.into(), private };
    let parts: Vec<_> = node.client.fetch_image(request).await?.into_inner().try_collect().await?;
    Ok(parts.into_iter().flat_map(|part| part.data).collect())
}

async fn store(node: &mut Node, id: &AttemptId, digest: &str, bytes: &[u8]) -> Result<(), Status> {
    let header = store_blob_request::Header {
        id: Some(id.clone()),
        digest: digest.into(),
        size_bytes: bytes.len() as i64,
    };
    let parts = [
        StoreBlobRequest { part: Some(store_blob_request::Part::Header(header)) },
        StoreBlobRequest { part: Some(store_blob_request::Part::Data(bytes.to_vec())) },
    ];
    node.client.store_blob(futures::stream::iter(parts)).await.map(|_| ())
}

#[tokio::test]
async fn a_lease_opens_its_own_blobs_and_image_and_nothing_else() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let (mut node, mut thief) = (Node::connect(&running, "node-1").await, {
        // Too small for any job.
        Node::connect_with(&running, "thief", register(1 << 20)).await
    });
    let input = upload(&acme, "", b"the input").await.expect("uploaded");
    let unrelated = upload(&acme, "", b"of another job").await.expect("uploaded");
    let stdin = Content { kind: Some(content::Kind::BlobDigest(input.digest.clone())) };
    let job = acme.create(|spec| spec.stdin = Some(stdin)).await.expect("created");
    let lease = node.lease().await;
    let (id, image) = (lease.id.expect("an id"), lease.image_digest);
    assert_eq!(fetch_blob(&mut node, &id, &input.digest).await.expect("its input"), b"the input");
    assert_eq!(
        fetch_image(&mut node, &id, &image, false).await.expect("public"),
        b"the public file of the image demo"
    );
    assert_eq!(fetch_image(&mut node, &id, &image, true).await.expect("private"), b"its private file");
    let status = fetch_blob(&mut node, &id, &unrelated.digest).await.expect_err("not the job's");
    assert_eq!(status.code(), Code::NotFound);
    let status = fetch_image(&mut node, &id, &input.digest, false).await.expect_err("not the job's");
    assert_eq!(status.code(), Code::NotFound);
    // Another node gains nothing by knowing the attempt, nor this one with another token.
    let mut stale = id.clone();
    stale.token += 1;
    let other_tenant = AttemptId { tenant: "other".into(), ..id.clone() };
    for (node, id) in [(&mut thief, &id), (&mut node, &stale)] {
        for status in [
            fetch_blob(node, id, &input.digest).await.expect_err("stale"),
            fetch_image(node, id, &image, false).await.expect_err("stale"),
            store(node, id, &digest_of(b"x").to_string(), b"x").await.expect_err("stale"),
        ] {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        }
    }
    // The owner is who the database says, whatever the node says.
    assert!(fetch_blob(&mut node, &other_tenant, &input.digest).await.is_ok());
    // Its output is told to be killed, not taken.
    let chunk = OutputChunk { id: Some(id.clone()), stream: 1, offset: 0, data: b"forged".to_vec() };
    thief.send(ToServer::Output(chunk)).await;
    let cancel = thief.until(|message| match message {
        Message::Cancel(cancel) => Some(cancel),
        _ => None,
    });
    assert!(cancel.await.immediately);
    assert!(!thief.finish(&id, &outcome(AttemptState::Failed, 9)).await, "nor its end");

    // Outputs become blobs of the job's owner.
    let result = b"a result".repeat(100_000);
    let digest = digest_of(&result);
    assert_eq!(
        store(&mut node, &id, &digest.to_string(), b"other bytes").await.expect_err("wrong").code(),
        Code::InvalidArgument
    );
    store(&mut node, &id, &digest.to_string(), &result).await.expect("stored");
    let mut done = outcome(AttemptState::Succeeded, 0);
    let file = OutputFile {
        path: b"/out/\xff".to_vec(),
        mode: 0o600,
        size_bytes: result.len() as u64,
        digest,
        is_directory: false,
    };
    done.outputs.push(file);
    assert!(node.finish(&id, &done).await);
    let job = acme.ended(&job.name).await;
    assert_eq!(job.state(), State::Succeeded);
    let output = &job.attempts[0].output_files[0];
    assert_eq!((output.path.as_slice(), output.mode), (&b"/out/\xff"[..], 0o600));
    let name = format!("{}/blobs/{}", acme.parent(), digest.hex());
    assert_eq!(output.blob_digest, digest.to_string());
    assert_eq!(download(&acme, &name, 0).await.expect("the owner reads it"), result);
    running.stop().await;
}

#[tokio::test]
async fn only_our_certificates_make_a_node() {
    let running = Running::start().await;
    let elsewhere = tempfile::tempdir().expect("directory");
    let keys = KeyDirectory::open(elsewhere.path()).expect("keys");
    let foreign = Authority::open_or_create(&keys).expect("authority");
    let foreign = foreign.node(&NodeId::new("node-1").expect("valid")).expect("credentials");
    let ours = credentials(&running, "node-1");
    // Our authority to check the server with, another one's certificate to show.
    let mixed =
        bulkhead_server::identity::Credentials { authority: ours.authority.clone(), ..foreign.clone() };
    for wrong in [&mixed, &foreign] {
        let attached = async {
            let channel = endpoint(&running, wrong).connect().await.map_err(|error| error.to_string())?;
            let mut client = WorkerServiceClient::new(channel);
            let nothing = futures::stream::pending();
            client.attach(nothing).await.map(|_| ()).map_err(|status| status.to_string())
        };
        attached.await.expect_err("no connection");
    }
    // And the public port takes no workers, the workers' port no clients.
    let channel = running.channel().await;
    let status =
        WorkerServiceClient::new(channel).attach(futures::stream::pending()).await.expect_err("not there");
    assert_eq!(status.code(), Code::Unauthenticated);
    let (channel, acme) =
        (endpoint(&running, &ours).connect().await.expect("a node"), running.tenant("acme").await);
    let mut jobs = bulkhead_proto::v1::job_service_client::JobServiceClient::new(channel);
    let request = bulkhead_proto::v1::ListJobsRequest { parent: acme.parent(), ..Default::default() };
    assert_eq!(jobs.list_jobs(request).await.expect_err("not there").code(), Code::Unimplemented);
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_comes_back_goes_on_where_the_server_is() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut node = Node::connect(&running, "node-1").await;
    let job = acme.create(|_| {}).await.expect("created");
    let id = node.lease().await.id.expect("an id");
    node.started(&id).await;
    node.output(&id, 1, 0, b"before ").await;
    node.durable(1, 7).await;
    node.heartbeat(std::slice::from_ref(&id)).await;
    node.until(|message| matches!(message, Message::Renewed(renewed) if renewed.sequence == 1).then_some(()))
        .await;
    drop(node);
    let unknown = AttemptId { job: uuid::Uuid::now_v7().to_string(), ..id.clone() };
    let mut again = register(8 * GIB);
    again.attempts = vec![id.clone(), unknown.clone()];
    let mut node = Node::connect_with(&running, "node-1", again).await;
    assert_eq!(node.registered.unwanted, [unknown]);
    let position = &node.registered.positions[0];
    assert_eq!((position.stream, position.durable), (1, 7));
    // What the server has already is taken again without harm.
    node.output(&id, 1, 0, b"before ").await;
    node.output(&id, 1, 7, b"after").await;
    node.durable(1, 12).await;
    assert!(node.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    let job = acme.ended(&job.name).await;
    assert_eq!((job.state(), job.attempts.len()), (State::Succeeded, 1));
    running.stop().await;
}
