use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use super::*;

fn key(content: &[u8]) -> Key {
    let digest = Digest::from_bytes(Sha256::digest(content).into());
    Key { owner: Owner::Tenant(TenantId::new("acme").expect("valid")), digest }
}

fn parts(content: &[u8]) -> futures::stream::Iter<std::vec::IntoIter<Part>> {
    let parts: Vec<Part> = content.chunks(3).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    futures::stream::iter(parts)
}

async fn bring(cache: &Cache, content: &[u8]) -> Result<Arc<Held>, CacheError> {
    cache.get(&key(content), async { Ok(parts(content)) }).await
}

fn cache(budget: u64) -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let cache = Cache::open(dir.path().join("cache"), budget).expect("cache");
    (dir, cache)
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_nothing_in_use() {
    let (_dir, cache) = cache(30);
    let first = bring(&cache, &[1; 10]).await.expect("fits");
    drop(bring(&cache, &[2; 10]).await.expect("fits"));
    drop(bring(&cache, &[3; 10]).await.expect("fits"));
    assert!(cache.state().touch(&key(&[2; 10])).is_some());
    let fourth = bring(&cache, &[4; 10]).await.expect("fits when the third goes");
    assert!(first.path().exists(), "in use");
    assert!(cache.state().touch(&key(&[3; 10])).is_none(), "the least recently used of the idle ones");
    assert!(cache.state().touch(&key(&[2; 10])).is_some());
    let held = cache.state().touch(&key(&[2; 10]));
    let full = bring(&cache, &[5; 10]).await;
    assert!(matches!(full, Err(CacheError::Full { budget: 30 })), "{full:?}");
    drop((first, fourth, held));
    assert_eq!(cache.used(), 30, "a failed fill gave its room back");
    bring(&cache, &[5; 10]).await.expect("fits now");
}

#[tokio::test]
async fn wrong_content_never_appears() {
    let (_dir, cache) = cache(100);
    let wrong = cache.get(&key(b"wanted"), async { Ok(parts(b"other")) }).await;
    assert!(matches!(wrong, Err(CacheError::Digest { .. })), "{wrong:?}");
    let failed = cache
        .get(&key(b"wanted"), async {
            let gone: Part = Err(Box::new(tonic::Status::unavailable("gone")));
            Ok(parts(b"wan").chain(futures::stream::iter([gone])))
        })
        .await;
    assert!(matches!(failed, Err(CacheError::Fetch(_))), "{failed:?}");
    assert_eq!(cache.used(), 0);
    assert_eq!(fs::read_dir(cache.root.join(fill::INCOMING)).expect("there").count(), 0);
}

#[tokio::test]
async fn many_wait_for_one_flight() {
    let (_dir, cache) = cache(100);
    let fetched = AtomicUsize::new(0);
    let one = || async {
        let fetch = async {
            fetched.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(parts(b"content"))
        };
        cache.get(&key(b"content"), fetch).await.expect("there")
    };
    let all = futures::future::join_all((0..20).map(|_| one())).await;
    assert_eq!((all.len(), fetched.load(Ordering::Relaxed)), (20, 1));
    assert!(lock(&cache.flights).is_empty());
}

#[tokio::test]
async fn the_next_life_finds_it_and_owners_are_apart() {
    let (dir, cache) = cache(100);
    drop(bring(&cache, b"content").await.expect("fits"));
    drop(cache);
    let cache = Cache::open(dir.path().join("cache"), 100).expect("cache");
    assert_eq!(cache.used(), 7);
    assert!(cache.state().touch(&key(b"content")).is_some());
    for owner in [Owner::Operator, Owner::Tenant(TenantId::new("other").expect("valid"))] {
        assert!(cache.state().touch(&Key { owner, ..key(b"content") }).is_none());
    }
    drop(cache);
    let smaller = Cache::open(dir.path().join("cache"), 5).expect("cache");
    assert_eq!(smaller.used(), 0, "a smaller budget is kept from the start");
}
