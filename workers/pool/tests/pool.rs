//! The pool around a backend whose sandboxes only count.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead_pool::{Pool, PoolOptions};
use bulkhead_sandbox::{Backend, Controller, CreateRequest, Events, Finished, Job, Sandbox, SandboxError};
use bulkhead_types::{Limits, SandboxId, SandboxOverhead};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Counts {
    /// Ids of those that exist.
    alive: Mutex<Vec<SandboxId>>,
    cold: AtomicUsize,
    /// Those that wait are dead, or can't be limited.
    broken: Mutex<Vec<SandboxId>>,
    unlimited: AtomicBool,
    fails: AtomicBool,
}

struct Counting(Arc<Counts>);

struct Counted {
    id: SandboxId,
    limits: Limits,
    counts: Arc<Counts>,
}

impl Counting {
    fn made(&self, id: SandboxId, limits: Limits) -> Box<dyn Sandbox> {
        self.0.alive.lock().expect("lock").push(id);
        Box::new(Counted { id, limits, counts: Arc::clone(&self.0) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.alive.lock().expect("lock").retain(|id| *id != self.id);
    }
}

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn overhead(&self) -> SandboxOverhead {
        SandboxOverhead::fixed(1)
    }

    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError> {
        self.0.cold.fetch_add(1, Ordering::Relaxed);
        Ok(self.made(request.id, request.limits))
    }

    fn create_ahead(&self) -> Option<Result<Box<dyn Sandbox>, SandboxError>> {
        if self.0.fails.load(Ordering::Relaxed) {
            return Some(Err(SandboxError::Host("none today".into())));
        }
        Some(Ok(self.made(SandboxId::generate(), Limits::default())))
    }
}

impl Sandbox for Counted {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn limit(&mut self, limits: &Limits) -> Result<(), SandboxError> {
        if self.counts.unlimited.load(Ordering::Relaxed) {
            return Err(SandboxError::Limit { limit: "memory", problem: "no".into() });
        }
        self.limits = *limits;
        Ok(())
    }

    fn is_alive(&self) -> bool {
        !self.counts.broken.lock().expect("lock").contains(&self.id)
    }

    fn controller(&self) -> Arc<dyn Controller> {
        unreachable!("no test runs a job")
    }

    fn run(self: Box<Self>, _: Job, _: &mut dyn Events) -> Result<Finished, SandboxError> {
        unreachable!("no test runs a job")
    }
}

fn request() -> CreateRequest {
    let limits = Limits { memory_bytes: 77 << 20, ..Limits::default() };
    CreateRequest { id: SandboxId::generate(), limits }
}

fn pool(most: usize) -> (Arc<Counts>, Arc<AtomicBool>, Pool) {
    let (counts, short) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
    let seen = Arc::clone(&short);
    let options = PoolOptions { most, memory_is_short: Box::new(move || seen.load(Ordering::Relaxed)) };
    let pool = Pool::new(Arc::new(Counting(Arc::clone(&counts))), options).expect("a thread");
    (counts, short, pool)
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_job_gets_a_warm_sandbox_once() {
    let (counts, _, pool) = pool(2);
    let mut seen = Vec::new();
    for _ in 0..20 {
        eventually("it is filled", || pool.warm() == 2);
        let request = request();
        let sandbox = pool.create(&request).expect("created");
        assert_ne!(sandbox.id(), request.id, "it was made before");
        assert!(!seen.contains(&sandbox.id()), "nobody had it");
        seen.push(sandbox.id());
    }
    assert_eq!(counts.cold.load(Ordering::Relaxed), 0);
    drop(pool);
    assert!(counts.alive.lock().expect("lock").is_empty(), "nothing stays");
}

#[test]
fn a_burst_is_served_cold_and_makes_the_pool_larger_for_a_while() {
    let (counts, _, pool) = pool(6);
    eventually("the least", || pool.warm() == 2);
    let burst: Vec<_> = (0..40).map(|_| pool.create(&request()).expect("created")).collect();
    let cold = counts.cold.load(Ordering::Relaxed);
    assert!(cold > 0 && cold <= 38, "{cold} cold ones");
    assert!(counts.alive.lock().expect("lock").len() >= burst.len());
    eventually("as many as were wanted, at most the most", || pool.warm() == 6);
    eventually("the burst is forgotten", || pool.warm() == 2);
    drop(burst);
    eventually("the pool's own are left", || counts.alive.lock().expect("lock").len() == 2);
}

#[test]
fn the_dead_are_replaced_and_never_handed_out() {
    let (counts, _, pool) = pool(2);
    eventually("it is filled", || pool.warm() == 2);
    let dead = counts.alive.lock().expect("lock").clone();
    *counts.broken.lock().expect("lock") = dead.clone();
    let sandbox = pool.create(&request()).expect("created");
    assert!(!dead.contains(&sandbox.id()));
    let gone = || counts.alive.lock().expect("lock").iter().all(|id| !dead.contains(id));
    eventually("they are replaced", || gone() && pool.warm() == 2);
}

#[test]
fn one_that_cannot_have_the_limits_is_not_used() {
    let (counts, _, pool) = pool(2);
    eventually("it is filled", || pool.warm() == 2);
    counts.unlimited.store(true, Ordering::Relaxed);
    let request = request();
    assert_eq!(pool.create(&request).expect("a cold one").id(), request.id);
}

#[test]
fn nothing_is_held_when_memory_is_short_or_the_pool_is_closed_or_holds_none() {
    let (counts, short, pool) = pool(3);
    eventually("it is filled", || pool.warm() == 2);
    short.store(true, Ordering::Relaxed);
    eventually("given up", || pool.warm() == 0 && counts.alive.lock().expect("lock").is_empty());
    short.store(false, Ordering::Relaxed);
    eventually("it is filled again", || pool.warm() == 2);
    pool.close();
    assert!(counts.alive.lock().expect("lock").is_empty());
    let cold = request();
    assert_eq!(pool.create(&cold).expect("still creates").id(), cold.id);
    let (counts, _, none) = self::pool(0);
    assert_eq!(none.create(&cold).expect("creates").id(), cold.id);
    assert!(
        counts.alive.lock().expect("lock").is_empty(),
        "the one that was created is dropped, none is held"
    );
}

#[test]
fn a_failure_is_tried_again_and_stops_no_job() {
    let (counts, _, pool) = pool(2);
    counts.fails.store(true, Ordering::Relaxed);
    eventually("no more warm ones come", || {
        drop(pool.create(&request()).expect("cold ones still come"));
        pool.warm() == 0 && counts.cold.load(Ordering::Relaxed) > 3
    });
    counts.fails.store(false, Ordering::Relaxed);
    eventually("it is tried again", || pool.warm() > 0);
}
