//! What a tenant may have at once, and what it may store, against a real PostgreSQL.

use std::time::Duration;

use bulkhead_store::testing::{example_spec, new_job, test_store};
use bulkhead_store::{NewImage, NewTenant, Store, StoreError};
use bulkhead_types::{Digest, ImageName, TenantId};

async fn tenant(store: &Store, quota: NewTenant) -> TenantId {
    let tenant = TenantId::new("small").expect("valid");
    store.fleet().tenant_create(&tenant, &quota, None).await.expect("creates");
    tenant
}

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

#[tokio::test]
async fn a_tenant_has_no_more_active_jobs_than_its_quota() {
    let store = test_store().await;
    let tenant = tenant(&store, NewTenant { max_active_jobs: 1, ..NewTenant::named("small") }).await;
    let first = store.job_create(&tenant, new_job(example_spec()), None).await.expect("fits");
    let over = store.job_create(&tenant, new_job(example_spec()), None).await;
    assert!(matches!(over, Err(StoreError::JobQuota { limit: 1, .. })), "{over:?}");
    store.job_cancel(&tenant, first.id, None).await.expect("cancels");
    store.job_create(&tenant, new_job(example_spec()), None).await.expect("there is room again");
}

#[tokio::test]
async fn uploads_at_the_same_moment_keep_the_quota_exactly() {
    let store = test_store().await;
    let tenant = tenant(&store, NewTenant { max_stored_bytes: 100, ..NewTenant::named("small") }).await;
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..24 {
        let (store, tenant) = (store.clone(), tenant.clone());
        uploads.spawn(async move { (number, store.blob_put(&tenant, digest(number), 10).await) });
    }
    let mut kept = Vec::new();
    for (number, put) in uploads.join_all().await {
        match put {
            Ok(_) => kept.push(number),
            Err(StoreError::StorageQuota { limit: 100, .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(kept.len(), 10, "{kept:?}");
    // What it has already costs nothing.
    store.blob_put(&tenant, digest(kept[0]), 10).await.expect("again");
    assert_eq!(store.storage(&tenant).await.expect("storage").stored_bytes, 100);
    assert_eq!(store.fleet().tenant_get(&tenant).await.expect("gets").stored_bytes, 100);
    assert_eq!(store.fleet().blobs_prune(Duration::ZERO, 3).await.expect("prunes").len(), 3);
    assert_eq!(store.storage(&tenant).await.expect("storage").room(), 30);
    let refused = store.blob_put(&tenant, digest(100), 31).await;
    assert!(matches!(refused, Err(StoreError::StorageQuota { .. })), "{refused:?}");
    store.blob_put(&tenant, digest(100), 30).await.expect("fits");
}

#[tokio::test]
async fn what_a_job_has_printed_is_kept_and_then_no_job_is_taken() {
    let store = test_store().await;
    let tenant = tenant(&store, NewTenant { max_stored_bytes: 100, ..NewTenant::named("small") }).await;
    store.fleet().blob_put(&tenant, digest(1), 100, false).await.expect("fits");
    store.job_create(&tenant, new_job(example_spec()), None).await.expect("it is not over its quota");
    let collected = store.fleet().blob_put(&tenant, digest(2), 1, false).await;
    assert!(matches!(collected, Err(StoreError::StorageQuota { limit: 100, .. })), "{collected:?}");
    store.fleet().blob_put(&tenant, digest(3), 50, true).await.expect("is kept");
    assert_eq!(store.storage(&tenant).await.expect("storage").stored_bytes, 150);
    // The setting was of that transaction.
    assert!(store.fleet().blob_put(&tenant, digest(4), 1, false).await.is_err());
    let refused = store.job_create(&tenant, new_job(example_spec()), None).await;
    assert!(matches!(refused, Err(StoreError::StorageQuota { .. })), "{refused:?}");
    assert!(!store.fleet().blob_is_held(digest(2)).await.expect("asks"));
    assert!(store.fleet().blob_is_held(digest(3)).await.expect("asks"));
    store.fleet().blobs_prune(Duration::ZERO, 100).await.expect("prunes");
    assert_eq!(store.storage(&tenant).await.expect("storage").stored_bytes, 0);
    store.job_create(&tenant, new_job(example_spec()), None).await.expect("there is room again");
}

#[tokio::test]
async fn images_count_by_their_names() {
    let store = test_store().await;
    let tenant = tenant(&store, NewTenant { max_stored_bytes: 100, ..NewTenant::named("small") }).await;
    let image = |name: &str, size_bytes| NewImage {
        name: ImageName::new(name).expect("valid"),
        digest: digest(7),
        size_bytes,
        config: serde_json::json!({}),
    };
    let stored = async || store.storage(&tenant).await.expect("storage").stored_bytes;
    store.image_put(&tenant, &image("a", 60), None).await.expect("fits");
    store.image_put(&tenant, &image("a", 90), None).await.expect("takes the first one's place");
    assert_eq!(stored().await, 90);
    let refused = store.image_put(&tenant, &image("b", 20), None).await;
    assert!(matches!(refused, Err(StoreError::StorageQuota { limit: 100, .. })), "{refused:?}");
    // The operator's are nobody's.
    store.fleet().image_share(&image("shared", 1 << 40)).await.expect("shared");
    assert_eq!(stored().await, 90);
    store.image_delete(&tenant, &ImageName::new("a").expect("valid"), None).await.expect("deletes");
    assert_eq!(stored().await, 0);
}
