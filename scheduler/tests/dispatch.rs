//! The scheduler with a real store, and nodes that the tests play.

mod harness;

use std::time::{Duration, Instant};

use bulkhead_scheduler::{Ended, IntakeError, NodeCommand};
use bulkhead_store::testing::{connect, example_spec, new_job, test_database, test_store, test_tenant};
use bulkhead_store::{Store, StoreError};
use bulkhead_types::{AttemptState, JobId, JobState, OutputStream, TenantId};
use harness::{Control, FakeNode, ended, hasty, node_id, patient, reached, until};

const GIB: u64 = 1 << 30;

async fn submit(store: &Store, tenant: &TenantId) -> JobId {
    store.job_create(tenant, new_job(example_spec()), None).await.expect("creates").id
}

#[tokio::test]
async fn a_job_runs_on_a_node_and_its_result_is_read() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let job = submit(&store, &acme).await;
    // No node is known yet: it waits.
    assert_eq!(store.job_get(&acme, job).await.expect("gets").state, JobState::Queued);
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let assignment = node.next_start().await;
    assert_eq!((assignment.key.job, assignment.key.attempt), (job, 1));
    assert_eq!(assignment.spec, example_spec());
    node.started(assignment.key).await;
    let append = |offset| {
        node.intake.output_chunk(&node.session, assignment.key, OutputStream::Stdout, offset, b"hello", true)
    };
    assert_eq!(append(0).await.expect("appends"), 5);
    assert!(matches!(append(9).await, Err(IntakeError::Store(StoreError::OutputGap { .. }))));
    let tenant = node.intake.attempt_tenant(&node.session, assignment.key).await.expect("is the node's");
    assert_eq!(tenant, acme);
    assert_eq!(
        node.finished(assignment.key, AttemptState::Succeeded).await,
        Ended::Final(JobState::Succeeded)
    );
    let record = ended(&store, &acme, job).await;
    assert_eq!(record.state, JobState::Succeeded);
    assert_eq!(record.attempts[0].node, node_id("n1"));
    let output = store.output_read(&acme, job, 1, OutputStream::Stdout, 0, 99).await.expect("reads");
    assert_eq!(output.bytes, b"hello");
    assert_eq!(node.finished(assignment.key, AttemptState::Failed).await, Ended::Stale);
    control.stop().await;
}

#[tokio::test]
async fn what_no_node_could_hold_is_rejected_and_what_one_could_waits() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", GIB, vec![]).await.expect("connects");
    let mut spec = example_spec();
    spec.limits.memory_bytes = 100 * GIB;
    let huge = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    let record = ended(&store, &acme, huge).await;
    assert_eq!(record.state, JobState::Rejected);
    assert!(record.reason.contains("n1") && record.reason.contains("1023 MiB"), "{}", record.reason);
    // Two that do not fit at once: the second runs when the first has ended.
    let mut spec = example_spec();
    spec.limits.memory_bytes = 600 << 20;
    for _ in 0..2 {
        store.job_create(&acme, new_job(spec.clone()), None).await.expect("creates");
    }
    let first = node.next_start().await;
    assert!(node.commands.try_recv().is_err(), "the node is full");
    node.finished(first.key, AttemptState::Failed).await;
    let second = node.next_start().await;
    assert_ne!(first.key.job, second.key.job);
    control.stop().await;
}

#[tokio::test]
async fn a_draining_node_gets_nothing_until_it_is_undrained() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let id = node_id("n1");
    control.intake.node_drain(&id, true, None).await.expect("drains");
    assert!(matches!(node.next_command().await, NodeCommand::Drain(true)));
    let job = submit(&store, &acme).await;
    let mut other = FakeNode::connect(&control.intake, "n2", 8 * GIB, vec![]).await.expect("connects");
    assert_eq!(other.next_start().await.key.job, job, "the other one gets it");
    control.intake.leaving(&other.session);
    let second = submit(&store, &acme).await;
    control.intake.node_drain(&id, false, None).await.expect("undrains");
    assert_eq!(node.next_start().await.key.job, second);
    let unknown = control.intake.node_drain(&node_id("n9"), true, None).await;
    assert!(matches!(unknown, Err(IntakeError::Store(StoreError::NotFound { .. }))));
    control.stop().await;
}

#[tokio::test]
async fn a_start_that_is_not_known_is_asked_for_until_it_is() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let job = submit(&store, &acme).await;
    let key = node.next_start().await.key;
    // As after a crash of PostgreSQL that took the report back.
    assert_eq!(node.heartbeat(&[key]).await.unstarted, [key]);
    node.started(key).await;
    node.started(key).await;
    reached(&store, &acme, job, |state| state == JobState::Running).await;
    assert!(node.heartbeat(&[key]).await.unstarted.is_empty());
    assert_eq!(node.finished(key, AttemptState::Succeeded).await, Ended::Final(JobState::Succeeded));
    let states: Vec<_> = store.job_progress(&acme, job, 0).await.expect("progress").events;
    let states: Vec<_> = states.into_iter().map(|event| event.state).collect();
    assert_eq!(states, [JobState::Queued, JobState::Leased, JobState::Running, JobState::Succeeded]);
    control.stop().await;
}

#[tokio::test]
async fn a_node_keeps_room_for_outputs_and_what_a_job_prints() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let mut spec = example_spec();
    // The node has 1 TiB of disk: two of these files fit, but not with the copies that are collected.
    spec.limits.disk_bytes = 400 * GIB;
    let plain = store.job_create(&acme, new_job(spec.clone()), None).await.expect("creates").id;
    assert_eq!(node.next_start().await.key.job, plain);
    spec.outputs.push(bulkhead_types::OutputSpec::Glob("/out/*".into()));
    let collects = store.job_create(&acme, new_job(spec.clone()), None).await.expect("creates").id;
    let usage = store.fleet().node_usage(Duration::from_secs(60)).await.expect("usage");
    assert_eq!(usage[0].disk_bytes, 400 * GIB + spec.limits.output_bytes);
    // A small one shows that the scheduler has looked at the queue, and left the other one there.
    let small = submit(&store, &acme).await;
    assert_eq!(node.next_start().await.key.job, small);
    assert_eq!(store.job_get(&acme, collects).await.expect("gets").state, JobState::Queued);
    spec.limits.disk_bytes = 600 * GIB;
    let never = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    let reason = ended(&store, &acme, never).await.reason;
    assert!(reason.contains("collected") && reason.contains("(n1)"), "{reason}");
    control.stop().await;
}

#[tokio::test]
async fn a_cancel_reaches_the_node() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let job = submit(&store, &acme).await;
    let key = node.next_start().await.key;
    node.started(key).await;
    reached(&store, &acme, job, |state| state == JobState::Running).await;
    store.job_cancel(&acme, job, None).await.expect("cancels");
    assert!(matches!(node.next_command().await, NodeCommand::Cancel(cancelled) if cancelled == key));
    assert_eq!(node.heartbeat(&[key]).await.cancelled, [key], "and is repeated");
    node.finished(key, AttemptState::Cancelled).await;
    assert_eq!(ended(&store, &acme, job).await.state, JobState::Cancelled);
    control.stop().await;
}

#[tokio::test]
async fn attempts_outlive_the_control_process() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let (runs, spooled) = (submit(&store, &acme).await, submit(&store, &acme).await);
    let keys = [node.next_start().await.key, node.next_start().await.key];
    for key in keys {
        node.started(key).await;
    }
    reached(&store, &acme, runs, |state| state == JobState::Running).await;
    control.kill().await;

    let control = Control::start(&store, patient()).await;
    let node = FakeNode::connect(&control.intake, "n1", 8 * GIB, keys.to_vec()).await.expect("connects");
    assert_eq!(node.registered.current.iter().map(|lease| lease.key).collect::<Vec<_>>(), keys);
    assert!(node.registered.stale.is_empty());
    node.finished(keys[1], AttemptState::Succeeded).await;
    assert_eq!(node.heartbeat(&[keys[0]]).await.stale, []);
    node.finished(keys[0], AttemptState::Failed).await;
    let record = ended(&store, &acme, runs).await;
    assert_eq!((record.state, record.attempts.len()), (JobState::Failed, 1));
    assert_eq!(ended(&store, &acme, spooled).await.attempts.len(), 1);
    control.stop().await;
}

#[tokio::test]
async fn what_a_node_lost_is_tried_again_at_once() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let job = submit(&store, &acme).await;
    let first = node.next_start().await.key;
    node.started(first).await;
    reached(&store, &acme, job, |state| state == JobState::Running).await;
    // It was killed, and starts with nothing; the lease is far from its end.
    let mut reborn = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let again = reborn.next_start().await.key;
    assert_eq!((again.job, again.attempt), (job, 2));
    assert!(again.token > first.token);
    // The connection of its earlier life is over.
    let late =
        node.intake.attempt_finished(&node.session, first, harness::outcome(AttemptState::Succeeded)).await;
    assert!(matches!(late, Err(IntakeError::Superseded { .. })));
    assert_eq!(reborn.finished(first, AttemptState::Succeeded).await, Ended::Stale);
    assert_eq!(reborn.finished(again, AttemptState::Succeeded).await, Ended::Final(JobState::Succeeded));
    control.stop().await;
}

#[tokio::test]
async fn a_silent_node_loses_its_attempts_once_and_gets_nothing_before_it_stopped_them() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, hasty()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let mut spec = example_spec();
    spec.retry.max_attempts = 1;
    let job = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    let key = node.next_start().await.key;
    node.started(key).await;
    let record = ended(&store, &acme, job).await;
    assert_eq!(record.state, JobState::Lost);
    assert!(record.reason.contains("n1"), "{}", record.reason);
    assert!(matches!(node.next_command().await, NodeCommand::Stop(stopped) if stopped == key));
    assert_eq!(node.finished(key, AttemptState::Succeeded).await, Ended::Stale);
    drop(node);
    // It was only cut off: it comes back and still runs it.
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![key]).await.expect("connects");
    assert_eq!(node.registered.stale, [key]);
    let next = submit(&store, &acme).await;
    assert_eq!(node.heartbeat(&[key]).await.stale, [key]);
    assert_eq!(store.job_get(&acme, next).await.expect("gets").state, JobState::Queued);
    assert_eq!(node.heartbeat(&[]).await.stale, []);
    assert_eq!(node.next_start().await.key.job, next, "now it has room");
    control.stop().await;
}

#[tokio::test]
async fn an_attempt_that_cannot_be_sent_comes_back_without_being_counted() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    let mut spec = example_spec();
    spec.retry.max_attempts = 1;
    spec.limits.memory_bytes = 64 << 20;
    // More than the node's channel takes while nobody reads it: 64, and 16 sandboxes.
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(store.job_create(&acme, new_job(spec.clone()), None).await.expect("creates").id);
    }
    until("the node is full", async || {
        let usage = store.fleet().node_usage(Duration::from_secs(60)).await.expect("usage");
        usage[0].sandboxes == 16
    })
    .await;
    // It goes, and nothing of what was sent was read.
    drop(node);
    let mut node = FakeNode::connect(&control.intake, "n1", 8 * GIB, vec![]).await.expect("connects");
    for _ in 0..jobs.len() {
        let key = node.next_start().await.key;
        node.started(key).await;
        node.finished(key, AttemptState::Succeeded).await;
    }
    for job in jobs {
        assert_eq!(ended(&store, &acme, job).await.state, JobState::Succeeded);
    }
    control.stop().await;
}

#[tokio::test]
async fn a_second_control_process_waits_and_takes_over() {
    let urls = test_database().await;
    let (first_store, second_store) = (connect(&urls).await, connect(&urls).await);
    let first = Control::start(&first_store, patient()).await;
    let waiting = bulkhead_scheduler::Scheduler::new(second_store.fleet().clone(), patient());
    let refused = FakeNode::connect(&waiting.intake(), "n1", GIB, vec![]).await;
    assert!(matches!(refused, Err(IntakeError::NotLeader)));
    drop(waiting);
    first.stop().await;
    let second = Control::start(&second_store, patient()).await;
    FakeNode::connect(&second.intake, "n1", GIB, vec![]).await.expect("connects to the new leader");
    second.stop().await;
}

/// Not a bound: a figure to be seen, with what a round trip costs.
#[tokio::test]
async fn the_time_from_submit_to_result_is_printed() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let control = Control::start(&store, patient()).await;
    let mut node = FakeNode::connect(&control.intake, "n1", 64 * GIB, vec![]).await.expect("connects");
    let (runner, store_too) = (node.intake.clone(), store.clone());
    let session = node.session.clone();
    let worker = tokio::spawn(async move {
        while let Some(command) = node.commands.recv().await {
            if let NodeCommand::Start(assignment) = command {
                let key = assignment.key;
                runner.attempt_started(&session, key, Duration::ZERO).await.expect("taken");
                let outcome = harness::outcome(AttemptState::Succeeded);
                runner.attempt_finished(&session, key, outcome).await.expect("taken");
            }
        }
    });
    let mut times = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        let job = submit(&store_too, &acme).await;
        ended(&store_too, &acme, job).await;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("submit to result, one client, no sandbox: p50 {:?}, p99 {:?}", times[100], times[198]);
    control.kill().await;
    worker.abort();
}
