//! The queue under contention: many claimers, cancels meanwhile, one leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bulkhead_store::testing::{
    connect, example_spec, new_job, rival_leader, test_database, test_store, test_tenant,
};
use bulkhead_store::{
    AttemptEnd, AttemptStart, Claim, EndReport, Ended, LeaseProgress, NewNode, Store, WRITE_BATCH,
};
use bulkhead_types::{
    AttemptKey, AttemptState, JobId, JobState, NodeCapacity, NodeId, Priority, SandboxOverhead, TenantId,
};

const LEASE: Duration = Duration::from_secs(30);

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid node id")
}

async fn fill(store: &Store, tenant: &TenantId, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(store.job_create(tenant, new_job(example_spec()), None).await.expect("creates").id);
    }
    ids
}

fn claims(ids: &[JobId], to: &NodeId) -> Vec<Claim> {
    ids.iter().map(|job| Claim { job: *job, node: to.clone(), memory_bytes: 1 }).collect()
}

#[tokio::test]
async fn each_job_is_claimed_once_however_many_claim() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let ids = fill(&store, &acme, 120).await;
    let claimer = |number: usize| {
        let (store, ids) = (store.clone(), ids.clone());
        tokio::spawn(async move {
            let mut leader = rival_leader(&store).await;
            let to = node(&format!("node-{number}"));
            let mut mine = Vec::new();
            // Everyone wants all of them, in batches, from different ends.
            for round in 0..8 {
                let at = (round * 17 + number * 31) % ids.len();
                let mut wanted = ids.clone();
                wanted.rotate_left(at);
                wanted.truncate(40);
                let got = leader.claim(&claims(&wanted, &to), LEASE, LEASE).await.expect("claims");
                mine.extend(got.into_iter().map(|claimed| (claimed.key.job, claimed.key.token)));
            }
            mine
        })
    };
    let mut seen = BTreeMap::new();
    for task in (0..5).map(claimer).collect::<Vec<_>>() {
        for (job, token) in task.await.expect("no panic") {
            assert_eq!(token, 1);
            assert!(seen.insert(job, token).is_none(), "{job} was claimed twice");
        }
    }
    assert_eq!(seen.len(), ids.len());
    for id in ids {
        assert_eq!(store.job_get(&acme, id).await.expect("gets").attempts.len(), 1);
    }
}

#[tokio::test]
async fn claims_cancels_and_ends_at_once_leave_one_terminal_state_each() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let ids = fill(&store, &acme, 60).await;
    let cancel = {
        let (store, acme, ids) = (store.clone(), acme.clone(), ids.clone());
        tokio::spawn(async move {
            for id in ids.iter().rev() {
                store.job_cancel(&acme, *id, None).await.expect("cancels");
            }
        })
    };
    let run = {
        let (store, ids) = (store.clone(), ids.clone());
        tokio::spawn(async move {
            let mut leader = rival_leader(&store).await;
            for part in ids.chunks(7) {
                let claimed = leader.claim(&claims(part, &node("n")), LEASE, LEASE).await.expect("claims");
                let starts: Vec<AttemptStart> = (claimed.iter())
                    .map(|c| AttemptStart { node: node("n"), key: c.key, age: Duration::ZERO })
                    .collect();
                let ends: Vec<AttemptEnd> = (claimed.iter())
                    .map(|c| AttemptEnd { node: None, key: c.key, report: EndReport::Lost("test".into()) })
                    .collect();
                store.fleet().attempts_write(&starts, &ends).await.expect("writes");
            }
        })
    };
    cancel.await.expect("cancels");
    run.await.expect("runs");
    for id in ids {
        let job = store.job_get(&acme, id).await.expect("gets");
        let events = store.job_progress(&acme, id, 0).await.expect("progress").events;
        let ends = events.iter().filter(|event| event.state.is_terminal()).count();
        assert_eq!(
            (ends, job.state.is_terminal()),
            (usize::from(job.state.is_terminal()), ends == 1),
            "{job:?}"
        );
        // Lost, tried again, and cancelled while it waited, or cancelled while it ran.
        if job.cancel_requested.is_some() {
            assert_eq!(job.state, JobState::Cancelled, "{events:?}");
        }
        assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{events:?}");
    }
}

#[tokio::test]
async fn there_is_one_leader_and_it_is_replaced() {
    let urls = test_database().await;
    let (first, second) = (connect(&urls).await, connect(&urls).await);
    let leader = first.fleet().leader_try().await.expect("connects").expect("leads");
    assert!(second.fleet().leader_try().await.expect("connects").is_none());
    leader.resign().await;
    let mut tries = 0;
    while second.fleet().leader_try().await.expect("connects").is_none() {
        tries += 1;
        assert!(tries < 1000, "the lock is not freed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn heads_are_per_tenant_and_by_priority() {
    let store = test_store().await;
    let (acme, other) = (test_tenant(&store, "acme").await, test_tenant(&store, "other").await);
    let ids = fill(&store, &acme, 5).await;
    fill(&store, &other, 1).await;
    let mut spec = example_spec();
    spec.priority = Priority::High;
    let urgent = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    let mut leader = rival_leader(&store).await;
    let heads = leader.queue_heads(3).await.expect("heads");
    let of = |tenant: &TenantId| -> Vec<JobId> {
        heads.iter().filter(|head| head.tenant == *tenant).map(|head| head.job).collect()
    };
    assert_eq!(of(&acme), [urgent, ids[0], ids[1]]);
    assert_eq!(of(&other).len(), 1);
    let rejected = leader.reject(&[(ids[0], "too\0large".into())]).await.expect("rejects");
    assert_eq!(rejected, [ids[0]]);
    let job = store.job_get(&acme, ids[0]).await.expect("gets");
    assert_eq!((job.state, job.reason.as_str()), (JobState::Rejected, "too\u{fffd}large"));
    assert!(leader.reject(&[(ids[0], String::new())]).await.expect("again").is_empty());
}

fn new_node(name: &str) -> NewNode {
    NewNode {
        id: node(name),
        capacity: NodeCapacity { memory_bytes: 1 << 30, cpu_milli: 2000, disk_bytes: 1 << 30, sandboxes: 8 },
        overhead: SandboxOverhead::fixed(1 << 20),
        backends: vec!["SENTRY".into()],
        offers: Vec::new(),
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        version: "0.1.0".into(),
    }
}

#[tokio::test]
async fn leases_expire_unless_renewed_and_reservations_add_up() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let fleet = store.fleet();
    for name in ["node-1", "node-2"] {
        fleet.node_put(&new_node(name)).await.expect("puts");
    }
    let ids = fill(&store, &acme, 3).await;
    let mut leader = rival_leader(&store).await;
    let claim = |job: JobId, to: &str| [Claim { job, node: node(to), memory_bytes: 100 }];
    let long = leader.claim(&claim(ids[0], "node-1"), LEASE, LEASE).await.expect("claims")[0].key;
    let short = leader.claim(&claim(ids[1], "node-1"), Duration::ZERO, LEASE).await.expect("claims")[0].key;
    let stuck = leader.claim(&claim(ids[2], "node-2"), LEASE, Duration::ZERO).await.expect("claims")[0].key;
    let usage = fleet.node_usage(LEASE).await.expect("usage");
    let found: Vec<_> = usage.iter().map(|u| (u.node.id.as_str(), u.memory_bytes, u.sandboxes)).collect();
    assert_eq!(found, [("node-1", 200, 2), ("node-2", 100, 1)]);
    assert_eq!(usage[0].node.labels, new_node("x").labels);

    let overdue = fleet.leases_overdue().await.expect("overdue");
    let kinds: BTreeSet<(AttemptKey, bool)> = overdue.iter().map(|lease| (lease.key, lease.stuck)).collect();
    assert_eq!(kinds, BTreeSet::from([(short, false), (stuck, true)]));
    // A start moves the deadline to the job's own limit.
    let start = AttemptStart { node: node("node-2"), key: stuck, age: Duration::ZERO };
    fleet.attempts_write(&[start], &[]).await.expect("starts");
    let progress = |key| LeaseProgress { key, cpu_us: 1, memory_bytes: 2, output_bytes: 3 };
    let renewed = fleet
        .leases_renew(&node("node-1"), &[progress(short), progress(stuck)], LEASE)
        .await
        .expect("renews");
    assert_eq!(
        renewed.iter().map(|status| status.key).collect::<Vec<_>>(),
        [short],
        "another node's is not renewed"
    );
    assert!(fleet.leases_overdue().await.expect("overdue").is_empty());
    let of_node = fleet.leases_of_node(&node("node-1")).await.expect("leases");
    assert_eq!(
        of_node.iter().map(|status| status.key).collect::<BTreeSet<_>>(),
        BTreeSet::from([long, short])
    );

    // A new leader first gives everyone time.
    fleet.leases_renew(&node("node-1"), &[progress(short)], Duration::ZERO).await.expect("expires");
    assert_eq!(fleet.leases_overdue().await.expect("overdue").len(), 1);
    fleet.leases_extend_all(LEASE).await.expect("extends");
    assert!(fleet.leases_overdue().await.expect("overdue").is_empty());
}

#[tokio::test]
async fn other_processes_are_told_of_the_largest_batch() {
    let urls = test_database().await;
    let store = connect(&urls).await;
    let mut listener = sqlx::postgres::PgListener::connect_with(
        &sqlx::PgPool::connect_with(urls.scheduler().clone()).await.expect("connects"),
    )
    .await
    .expect("listens");
    listener.listen_all(["bulkhead_jobs"]).await.expect("listens");
    let acme = test_tenant(&store, "acme").await;
    let ids = fill(&store, &acme, WRITE_BATCH).await;
    let mut leader = rival_leader(&store).await;
    let claimed = leader.claim(&claims(&ids, &node("n")), LEASE, LEASE).await.expect("claims");
    assert_eq!(claimed.len(), WRITE_BATCH);
    let mut told = BTreeSet::new();
    while told.len() < WRITE_BATCH {
        let next = tokio::time::timeout(Duration::from_secs(30), listener.recv()).await;
        let notification = next.expect("other processes are told").expect("is connected");
        told.extend(notification.payload().split(',').map(|id| id.parse::<JobId>().expect("an id")));
    }
    assert_eq!(told, ids.iter().copied().collect::<BTreeSet<_>>());
    let ends: Vec<AttemptEnd> = (claimed.iter())
        .map(|c| AttemptEnd { node: None, key: c.key, report: EndReport::Lost("test".into()) })
        .collect();
    let answers = store.fleet().attempts_write(&[], &ends).await.expect("ends");
    assert_eq!(answers, vec![Ended::Again; WRITE_BATCH]);
    let record = store.job_get(&acme, ids[0]).await.expect("gets");
    assert_eq!(record.attempts[0].outcome.as_ref().map(|outcome| outcome.state), Some(AttemptState::Lost));
}
