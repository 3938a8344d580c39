//! Images: imported, listed, shared, deleted; and what is refused.

use bulkhead_image::{Converter, ImageConfig};
use bulkhead_proto::v1::import_image_request::{Header, Part};
use bulkhead_proto::v1::*;
use tonic::{Code, Status};

use super::harness::{Client, Running, add_image, assert_field, assert_not_found, reason, spec};

/// One regular file in a tar archive (POSIX.1-1988, ustar).
fn tar_with(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    for (at, text) in [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (136, "00000000000\0")] {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

async fn import(client: &Client, parent: &str, id: &str, bytes: &[u8]) -> Result<Image, Status> {
    let header = Header { parent: parent.into(), image_id: id.into(), ..Default::default() };
    let data = |part: &[u8]| ImportImageRequest { part: Some(Part::Data(part.to_vec())) };
    let parts: Vec<_> = [ImportImageRequest { part: Some(Part::Header(header)) }]
        .into_iter()
        .chain(bytes.chunks(1 << 20).map(data))
        .collect();
    Ok(client.images().import_image(futures::stream::iter(parts)).await?.into_inner())
}

async fn names(client: &Client) -> Vec<String> {
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListImagesRequest { parent: client.parent(), page_size: 1, page_token };
        let page = client.images().list_images(request).await.expect("lists").into_inner();
        seen.extend(page.images.into_iter().map(|image| image.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return seen;
        }
    }
}

#[tokio::test]
async fn shared_images_are_seen_by_all_and_changed_by_operators() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    assert_eq!(names(&acme).await, ["operator/images/demo"]);
    let name = || "operator/images/demo".to_owned();
    let image = acme.images().get_image(GetImageRequest { name: name() }).await.expect("shared").into_inner();
    assert!(image.digest.starts_with("sha256:") && image.size_bytes > 0);
    let unknown = GetImageRequest { name: format!("{}/images/demo", acme.parent()) };
    assert_not_found(&acme.images().get_image(unknown).await.expect_err("not the tenant's own"));
    let delete = || DeleteImageRequest { name: name(), ..Default::default() };
    let status = acme.images().delete_image(delete()).await.expect_err("not the tenant's");
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = import(&acme, "operator", "mine", b"x").await.expect_err("not an operator");
    assert_eq!(status.code(), Code::PermissionDenied);
    let operator = running.operator().await;
    let request_id = uuid::Uuid::new_v4().to_string();
    let create = CreateJobRequest { parent: acme.parent(), spec: Some(spec()), request_id };
    let first = acme.jobs().create_job(create.clone()).await.expect("created").into_inner();
    let mut repeated = delete();
    repeated.request_id = uuid::Uuid::new_v4().to_string();
    for _ in 0..2 {
        operator.images().delete_image(repeated.clone()).await.expect("deleted");
    }
    let again = acme.jobs().create_job(create).await.expect("the first answer").into_inner();
    assert_eq!(again.name, first.name);
    assert_not_found(&operator.images().delete_image(delete()).await.expect_err("gone"));
    assert_field(&acme.create(|_| {}).await.expect_err("gone"), "spec.image_name");
    // What `bulkhead image` puts into the store is shared while the service runs.
    add_image(&running.data, "later", ImageConfig::default(), b"files", b"");
    for _ in 0..100 {
        if names(&acme).await == ["operator/images/later"] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(names(&acme).await, ["operator/images/later"], "and demo stays deleted");
    running.stop().await;
}

#[tokio::test]
async fn an_images_command_is_what_a_job_without_one_runs() {
    let database = bulkhead_store::testing::test_database().await;
    let running = Running::start_with(database, |config| {
        let image = ImageConfig { cmd: vec!["/bin/sh".into()], ..ImageConfig::default() };
        add_image(&config.data_dir, "shell", image, b"files", b"");
    })
    .await;
    let acme = running.tenant("acme").await;
    let shell = |spec: &mut JobSpec| {
        spec.argv = Vec::new();
        spec.image = Some(job_spec::Image::ImageName("shell".into()));
    };
    acme.create(shell).await.expect("the image says what to run");
    assert_field(&acme.create(|spec| spec.argv = Vec::new()).await.expect_err("nothing to run"), "spec.argv");
    running.stop().await;
}

#[tokio::test]
async fn an_archive_becomes_an_image_of_its_tenant() {
    if let Err(error) = Converter::find() {
        println!("skipped: an_archive_becomes_an_image_of_its_tenant: {error}");
        return;
    }
    let running = Running::start().await;
    let (acme, other) = (running.tenant("acme").await, running.tenant("other").await);
    let tar = tar_with("etc/motd", b"hello\n");
    let image = import(&acme, &acme.parent(), "mine", &tar).await.expect("imported");
    assert_eq!(image.name, "tenants/acme/images/mine");
    assert_eq!(import(&acme, &acme.parent(), "mine", &tar).await.expect("again").digest, image.digest);
    assert_eq!(names(&acme).await, ["operator/images/demo", "tenants/acme/images/mine"]);
    assert_eq!(names(&other).await, ["operator/images/demo"]);
    let by_digest = |spec: &mut JobSpec| {
        spec.image = Some(job_spec::Image::ImageDigest(image.digest.clone()));
    };
    acme.create(by_digest).await.expect("its owner runs it");
    assert_field(&other.create(by_digest).await.expect_err("a digest grants nothing"), "spec.image_digest");
    for (field, parent, id) in [
        ("header.image_id", acme.parent(), "Mine"),
        ("header.image_id", acme.parent(), ""),
        ("header.parent", "acme".to_owned(), "mine"),
    ] {
        assert_field(&import(&acme, &parent, id, &tar).await.expect_err("wrong"), field);
    }
    assert_not_found(&import(&acme, &other.parent(), "mine", &tar).await.expect_err("not theirs"));
    for garbage in [&b""[..], b"not an archive", &tar_with("../escape", b"x")] {
        let status = import(&acme, &acme.parent(), "bad", garbage).await.expect_err("no image");
        assert_field(&status, "data");
        assert_eq!(reason(&status), "IMAGE_INVALID");
    }
    let delete = DeleteImageRequest { name: image.name, request_id: uuid::Uuid::new_v4().to_string() };
    for _ in 0..2 {
        acme.images().delete_image(delete.clone()).await.expect("deleted");
    }
    assert_eq!(names(&acme).await, ["operator/images/demo"]);
    running.stop().await;
}
