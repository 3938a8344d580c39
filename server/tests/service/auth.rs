//! Who gets in, and what a stranger learns.

use std::time::Duration;

use bulkhead_proto::v1::version_service_client::VersionServiceClient;
use bulkhead_proto::v1::*;
use bulkhead_server::auth::{Expected, Scope, TokenRequest};
use bulkhead_server::issue_token;
use bulkhead_types::TenantId;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::harness::{Client, Running, assert_not_found, reason};

async fn get(client: &Client) -> Status {
    let name = format!("{}/jobs/{}", client.parent(), uuid::Uuid::now_v7());
    client.jobs().get_job(GetJobRequest { name }).await.expect_err("no such job")
}

fn request(lifetime: Duration) -> TokenRequest {
    TokenRequest {
        subject: "ada".into(),
        tenant: Some(TenantId::new("acme").expect("valid")),
        scopes: Scope::TENANT.to_vec(),
        lifetime,
    }
}

#[tokio::test]
async fn each_kind_of_bad_token_is_unauthenticated() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    assert_not_found(&get(&acme).await);
    let hour = Duration::from_secs(3600);
    let elsewhere = tempfile::tempdir().expect("directory");
    let issue = |data: &std::path::Path, expected: Expected| {
        issue_token(data, &expected, &request(hour)).expect("a token")
    };
    let forged = issue(elsewhere.path(), Expected::default());
    let audience = issue(&running.data, Expected { audience: "other".into(), ..Expected::default() });
    let issuer = issue(&running.data, Expected { issuer: "other".into(), ..Expected::default() });
    let good = issue(&running.data, Expected::default());
    let (_, rest) = good.split_once('.').expect("a token");
    // {"alg":"none"}
    let none = format!("eyJhbGciOiJub25lIn0.{}.", rest.split_once('.').expect("a token").0);
    let cases: [(Option<&str>, &str); 7] = [
        (None, "TOKEN_MISSING"),
        (Some("garbage"), "TOKEN_INVALID"),
        (Some(&forged), "TOKEN_INVALID"),
        (Some(&none), "TOKEN_INVALID"),
        (Some(&audience), "TOKEN_OF_ANOTHER_SERVICE"),
        (Some(&issuer), "TOKEN_OF_ANOTHER_SERVICE"),
        (Some(&good[..good.len() - 3]), "TOKEN_INVALID"),
    ];
    for (token, expected) in cases {
        let client = running.with_token("acme", token).await;
        for status in [
            get(&client).await,
            client.create(|_| {}).await.expect_err("refused"),
            client.nodes().list_nodes(ListNodesRequest::default()).await.expect_err("refused"),
            client.blobs().download_blob(DownloadBlobRequest::default()).await.expect_err("refused"),
        ] {
            assert_eq!(status.code(), Code::Unauthenticated, "{expected}");
            assert_eq!(reason(&status), expected);
            assert!(token.is_none_or(|token| !format!("{status:?}").contains(token)), "the token came back");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_scope_that_is_missing_is_denied_and_a_tenant_sees_only_its_own() {
    let running = Running::start().await;
    let (acme, other) = (running.tenant("acme").await, running.tenant("other").await);
    let job = acme.create(|_| {}).await.expect("created").name;
    let reader = running.with_token("acme", Some(&running.token(Some("acme"), &[Scope::JobsRead]))).await;
    assert_eq!(
        reader.jobs().get_job(GetJobRequest { name: job.clone() }).await.expect("reads").get_ref().name,
        job
    );
    let parent = acme.parent();
    for status in [
        reader.create(|_| {}).await.expect_err("jobs.write"),
        reader.tenants().list_tenants(ListTenantsRequest::default()).await.expect_err("operator"),
        reader.nodes().drain_node(DrainNodeRequest::default()).await.expect_err("operator"),
        reader
            .images()
            .list_images(ListImagesRequest { parent: parent.clone(), ..Default::default() })
            .await
            .expect_err("images.read"),
        reader.blobs().upload_blob(futures::stream::empty()).await.expect_err("blobs.write"),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert_eq!(reason(&status), "SCOPE_MISSING");
    }
    let name = || job.clone();
    let mut jobs = other.jobs();
    let blob = format!("{parent}/blobs/{}", "ab".repeat(32));
    let spec = Some(super::harness::spec());
    for status in [
        jobs.get_job(GetJobRequest { name: name() }).await.expect_err("get"),
        jobs.cancel_job(CancelJobRequest { name: name(), ..Default::default() }).await.expect_err("cancel"),
        jobs.delete_job(DeleteJobRequest { name: name(), ..Default::default() }).await.expect_err("delete"),
        jobs.wait_job(WaitJobRequest { name: name() }).await.expect_err("wait"),
        jobs.watch_job(WatchJobRequest { name: name(), ..Default::default() }).await.expect_err("watch"),
        jobs.list_jobs(ListJobsRequest { parent: parent.clone(), ..Default::default() })
            .await
            .expect_err("list"),
        jobs.create_job(CreateJobRequest { parent: parent.clone(), spec, ..Default::default() })
            .await
            .expect_err("create"),
        other
            .blobs()
            .download_blob(DownloadBlobRequest { name: blob, offset: 0 })
            .await
            .expect_err("download"),
        other
            .images()
            .list_images(ListImagesRequest { parent: parent.clone(), ..Default::default() })
            .await
            .expect_err("images"),
        other
            .images()
            .get_image(GetImageRequest { name: format!("{parent}/images/demo") })
            .await
            .expect_err("image"),
    ] {
        assert_not_found(&status);
    }
    // Under its own name, another tenant's job does not exist either.
    let moved = job.replace("tenants/acme", "tenants/other");
    assert_not_found(&jobs.get_job(GetJobRequest { name: moved }).await.expect_err("moved"));
    let list = ListJobsRequest { parent: other.parent(), ..Default::default() };
    assert!(jobs.list_jobs(list).await.expect("lists").get_ref().jobs.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn health_reflection_and_version_need_no_token() {
    let running = Running::start().await;
    let channel = running.channel().await;
    let version =
        VersionServiceClient::new(channel.clone()).get(GetVersionRequest {}).await.expect("version");
    assert_eq!(version.get_ref().api, "bulkhead.v1");
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "bulkhead.v1.JobService"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut status = 0;
        // The first look at the database may still be under way.
        for _ in 0..200 {
            if let Ok(answer) = health.check(request.clone()).await {
                status = answer.get_ref().status;
            }
            if status == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status, 1, "{service:?} is SERVING");
    }
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(futures::stream::iter([ask])).await.expect("reflects");
    let answer = answers.into_inner().message().await.expect("answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in
        ["JobService", "BlobService", "ImageService", "TenantService", "NodeService", "VersionService"]
    {
        assert!(names.contains(&format!("bulkhead.v1.{service}")), "{names:?}");
    }
    running.stop().await;
}
