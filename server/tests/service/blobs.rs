//! Uploads and downloads.

use bulkhead_proto::v1::upload_blob_request::{Header, Part};
use bulkhead_proto::v1::*;
use bulkhead_types::Digest;
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use super::harness::{Client, Running, assert_field, assert_not_found, reason};

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

fn header(client: &Client, expected: &str) -> UploadBlobRequest {
    let header = Header { parent: client.parent(), expected_digest: expected.into(), ..Default::default() };
    UploadBlobRequest { part: Some(Part::Header(header)) }
}

pub(crate) async fn upload(client: &Client, expected: &str, bytes: &[u8]) -> Result<Blob, Status> {
    let data = |part: &[u8]| UploadBlobRequest { part: Some(Part::Data(part.to_vec())) };
    let parts: Vec<_> =
        [header(client, expected)].into_iter().chain(bytes.chunks(1 << 20).map(data)).collect();
    Ok(client.blobs().upload_blob(futures::stream::iter(parts)).await?.into_inner())
}

pub(crate) async fn download(client: &Client, name: &str, offset: i64) -> Result<Vec<u8>, Status> {
    let request = DownloadBlobRequest { name: name.into(), offset };
    let parts = client.blobs().download_blob(request).await?.into_inner();
    let parts: Vec<DownloadBlobResponse> = parts.try_collect().await?;
    Ok(parts.into_iter().flat_map(|part| part.data).collect())
}

#[tokio::test]
async fn bytes_come_back_and_belong_to_their_tenant() {
    let running = Running::start().await;
    let (acme, other) = (running.tenant("acme").await, running.tenant("other").await);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    let blob = upload(&acme, "", &bytes).await.expect("uploaded");
    assert_eq!(blob.digest, digest_of(&bytes).to_string());
    assert_eq!(blob.size_bytes, 3_000_000);
    assert_eq!(upload(&acme, &blob.digest, &bytes).await.expect("again").name, blob.name);
    assert_eq!(download(&acme, &blob.name, 0).await.expect("downloaded"), bytes);
    assert_eq!(download(&acme, &blob.name, 2_999_998).await.expect("the end"), bytes[2_999_998..]);
    assert_eq!(download(&acme, &blob.name, 3_000_000).await.expect("nothing"), b"");
    for offset in [-1, 3_000_001] {
        assert_field(&download(&acme, &blob.name, offset).await.expect_err("outside"), "offset");
    }
    // Knowing a digest grants nothing, neither to read nor to run.
    let theirs = blob.name.replace("acme", "other");
    assert_not_found(&download(&other, &theirs, 0).await.expect_err("not theirs"));
    let stdin = || Content { kind: Some(content::Kind::BlobDigest(blob.digest.clone())) };
    let refused = other.create(|spec| spec.stdin = Some(stdin())).await.expect_err("not theirs");
    assert_field(&refused, "spec.stdin.blob_digest");
    acme.create(|spec| spec.stdin = Some(stdin())).await.expect("created");
    let empty = upload(&acme, "", b"").await.expect("an empty blob");
    assert_eq!(download(&acme, &empty.name, 0).await.expect("empty"), b"");
    running.stop().await;
}

#[tokio::test]
async fn wrong_uploads_are_refused() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let other = digest_of(b"other").to_string();
    let status = upload(&acme, &other, b"bytes").await.expect_err("other bytes");
    assert_field(&status, "header.expected_digest");
    assert_eq!(reason(&status), "DIGEST_MISMATCH");
    let name = format!("{}/blobs/{}", acme.parent(), digest_of(b"bytes").hex());
    assert_not_found(&download(&acme, &name, 0).await.expect_err("nothing was kept"));
    assert_field(
        &upload(&acme, "sha256:xy", b"bytes").await.expect_err("no digest"),
        "header.expected_digest",
    );
    let send = |parts: Vec<UploadBlobRequest>| {
        let mut blobs = acme.blobs();
        async move { blobs.upload_blob(futures::stream::iter(parts)).await.expect_err("refused") }
    };
    let data = |bytes: &[u8]| UploadBlobRequest { part: Some(Part::Data(bytes.to_vec())) };
    assert_field(&send(vec![]).await, "header");
    assert_field(&send(vec![data(b"x")]).await, "header");
    assert_field(&send(vec![header(&acme, ""), header(&acme, "")]).await, "header");
    let status = send(vec![header(&acme, ""), data(&vec![0; 2 << 20])]).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MESSAGE_TOO_LARGE"));
    let nobody = Header { parent: "tenants/other".into(), ..Default::default() };
    assert_not_found(&send(vec![UploadBlobRequest { part: Some(Part::Header(nobody)) }]).await);
    running.stop().await;
}

#[tokio::test]
async fn a_tenant_stores_no_more_than_its_quota() {
    let running = Running::start().await;
    let operator = running.operator().await;
    for (bytes, accepted) in [(-1, false), ((16 << 40) + 1, false), (1000, true)] {
        let tenant = Tenant { max_stored_bytes: bytes, ..Default::default() };
        let create =
            CreateTenantRequest { tenant_id: "small".into(), tenant: Some(tenant), ..Default::default() };
        match operator.tenants().create_tenant(create).await {
            Ok(created) => assert!(accepted && created.get_ref().max_stored_bytes == bytes),
            Err(status) => {
                assert!(!accepted, "{status:?}");
                assert_field(&status, "tenant.max_stored_bytes");
            }
        }
    }
    let token = running.token(Some("small"), &bulkhead_server::auth::Scope::TENANT);
    let small = running.with_token("small", Some(&token)).await;
    upload(&small, "", &[1; 600]).await.expect("fits");
    let first = digest_of(&[1; 600]).to_string();
    for bytes in [vec![2; 401], vec![3; 3 << 20]] {
        let refused = upload(&small, "", &bytes).await.expect_err("over");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::ResourceExhausted, "STORAGE_QUOTA_EXCEEDED")
        );
        assert!(refused.message().contains("delete images"), "{}", refused.message());
    }
    // With its digest it is known that it is there already.
    upload(&small, &first, &[1; 600]).await.expect("again");
    upload(&small, "", &[4; 400]).await.expect("fits exactly");
    let get = GetTenantRequest { name: "tenants/small".into() };
    let tenant = operator.tenants().get_tenant(get).await.expect("gets").into_inner();
    assert_eq!((tenant.stored_bytes, tenant.max_stored_bytes), (1000, 1000));
    // What was refused has left nothing: two blobs, and no upload under way.
    let count = |path: &str| walk(&running.data.join("blobs").join(path));
    assert_eq!((count("sha256"), count("staging")), (2, 0));
    running.stop().await;
}

/// Files below a directory.
fn walk(directory: &std::path::Path) -> usize {
    let entries =
        std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}
