//! The life of a job in the store, against a real PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_store::testing::{example_spec, new_job, test_store, test_tenant};
use bulkhead_store::{
    AttemptEnd, AttemptStart, Claim, Claimed, EndReport, Ended, JobFilter, Leader, LeaseProgress,
    OutputAppend, RequestKey, Store, StoreError,
};
use bulkhead_types::{
    AttemptKey, AttemptOutcome, AttemptState, Content, Digest, EnvVar, InputFile, JobId, JobSpec, JobState,
    NodeId, OutputStream, StreamTotals, Termination, Usage,
};

const LEASE: Duration = Duration::from_secs(30);

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid node id")
}

fn outcome(state: AttemptState) -> AttemptOutcome {
    AttemptOutcome {
        state,
        termination: Some(Termination::Exited(u8::from(state != AttemptState::Succeeded))),
        reason: "as the test says".into(),
        usage: Usage { wall_us: 1500, ..Usage::default() },
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
        outputs: Vec::new(),
        output_problems: Vec::new(),
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    }
}

fn ended(key: AttemptKey, state: AttemptState) -> AttemptEnd {
    AttemptEnd { node: None, key, report: EndReport::Outcome(Box::new(outcome(state))) }
}

async fn claim(leader: &mut Leader, job: JobId, to: &str) -> Claimed {
    let claims = [Claim { job, node: node(to), memory_bytes: 1 << 20 }];
    let mut claimed = leader.claim(&claims, LEASE, LEASE).await.expect("claims");
    claimed.pop().expect("the job waits")
}

fn request(id: &str, body: u8) -> RequestKey {
    RequestKey { method: "CreateJob", request_id: id.into(), body_sha256: [body; 32] }
}

async fn leader(store: &Store) -> Leader {
    store.fleet().leader_try().await.expect("connects").expect("nobody else leads")
}

#[tokio::test]
async fn a_job_goes_through_its_life() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates");
    assert_eq!(job.state, JobState::Queued);
    let mut leader = leader(&store).await;
    let heads = leader.queue_heads(8).await.expect("heads");
    assert_eq!(heads.iter().map(|head| head.job).collect::<Vec<_>>(), [job.id]);

    let claimed = claim(&mut leader, job.id, "node-1").await;
    assert_eq!(claimed.spec.expect("no secrets"), example_spec());
    assert_eq!(claimed.tenant, acme);
    let start = AttemptStart { node: node("node-1"), key: claimed.key, age: Duration::ZERO };
    store.fleet().attempts_write(std::slice::from_ref(&start), &[]).await.expect("starts");
    assert_eq!(store.job_get(&acme, job.id).await.expect("gets").state, JobState::Running);
    let end = ended(claimed.key, AttemptState::Succeeded);
    let answers = store.fleet().attempts_write(&[], std::slice::from_ref(&end)).await.expect("ends");
    assert_eq!(answers, [Ended::Final(JobState::Succeeded)]);
    // A duplicate changes nothing.
    assert_eq!(
        store.fleet().attempts_write(std::slice::from_ref(&start), &[end]).await.expect("again"),
        [Ended::Stale]
    );

    let job = store.job_get(&acme, job.id).await.expect("gets");
    assert_eq!(job.state, JobState::Succeeded);
    let attempt = &job.attempts[0];
    assert_eq!(attempt.outcome.as_ref().map(|outcome| outcome.state), Some(AttemptState::Succeeded));
    assert!(Some(attempt.leased) <= attempt.started && attempt.started <= attempt.finished);
    let progress = store.job_progress(&acme, job.id, 0).await.expect("progress");
    let states: Vec<_> = progress.events.iter().map(|event| (event.seq, event.state)).collect();
    let expected = [JobState::Queued, JobState::Leased, JobState::Running, JobState::Succeeded];
    assert_eq!(states, (1..).zip(expected).collect::<Vec<_>>());
    assert_eq!(store.job_progress(&acme, job.id, 3).await.expect("progress").events.len(), 1);
    assert!(leader.tenant_usage().await.expect("usage").is_empty(), "the reservation is freed");
}

#[tokio::test]
async fn only_the_current_token_is_accepted() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id;
    let mut leader = leader(&store).await;
    let first = claim(&mut leader, job, "node-1").await.key;
    let lost = AttemptEnd { node: None, key: first, report: EndReport::Lost("the node is silent".into()) };
    assert_eq!(store.fleet().attempts_write(&[], &[lost]).await.expect("loses"), [Ended::Again]);
    let head = leader.queue_heads(1).await.expect("heads").pop().expect("waits again");
    assert_eq!(head.avoid_nodes, [node("node-1")]);
    let second = claim(&mut leader, job, "node-2").await.key;
    assert!(second.token > first.token && second.attempt == 2);

    // The first node comes back: nothing of it counts.
    let late = ended(first, AttemptState::Succeeded);
    let start = AttemptStart { node: node("node-1"), key: first, age: Duration::ZERO };
    assert_eq!(store.fleet().attempts_write(&[start], &[late]).await.expect("late"), [Ended::Stale]);
    let thief = AttemptEnd { node: Some(node("node-1")), ..ended(second, AttemptState::Succeeded) };
    let answer = store.fleet().attempts_write(&[], &[thief]).await.expect("another node's attempt");
    assert_eq!(answer, [Ended::Stale]);
    let holder = node("node-1");
    let chunk = OutputAppend {
        node: &holder,
        key: first,
        stream: OutputStream::Stdout,
        offset: 0,
        bytes: b"late",
        flush: true,
    };
    assert!(matches!(store.fleet().output_append(chunk).await, Err(StoreError::StaleAttempt { .. })));
    let progress =
        [first, second].map(|key| LeaseProgress { key, cpu_us: 1, memory_bytes: 1, output_bytes: 0 });
    let renew = |name: &str| {
        let (store, name) = (store.clone(), node(name));
        async move { store.fleet().leases_renew(&name, &progress, LEASE).await.expect("renews") }
    };
    assert!(renew("node-1").await.is_empty());
    assert_eq!(renew("node-2").await.iter().map(|status| status.key).collect::<Vec<_>>(), [second]);
    let end = ended(second, AttemptState::Failed);
    let answers = store.fleet().attempts_write(&[], &[end.clone(), end]).await.expect("ends");
    assert_eq!(answers, [Ended::Final(JobState::Failed), Ended::Stale]);
    let record = store.job_get(&acme, job).await.expect("gets");
    let states: Vec<_> = record.attempts.iter().filter_map(|a| a.outcome.as_ref().map(|o| o.state)).collect();
    assert_eq!(states, [AttemptState::Lost, AttemptState::Failed]);
}

#[tokio::test]
async fn attempts_are_retried_as_the_policy_says() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let mut leader = leader(&store).await;
    let mut spec = example_spec();
    spec.retry.max_attempts = 2;
    spec.retry.on_lost = true;
    spec.retry.on_failure = true;
    let job = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    // One that never arrived does not count.
    for round in 0..3 {
        let key = claim(&mut leader, job, "node-1").await.key;
        let report = EndReport::Undelivered("the connection was lost".into());
        let answers =
            store.fleet().attempts_write(&[], &[AttemptEnd { node: None, key, report }]).await.expect("ends");
        assert_eq!(answers, [Ended::Again], "round {round}");
    }
    for expected in [Ended::Again, Ended::Final(JobState::Failed)] {
        let key = claim(&mut leader, job, "node-1").await.key;
        let end = ended(key, AttemptState::Failed);
        assert_eq!(store.fleet().attempts_write(&[], &[end]).await.expect("ends"), [expected]);
    }
    // A job whose policy does not retry what is lost.
    let mut spec = example_spec();
    spec.retry.on_lost = false;
    let job = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    let key = claim(&mut leader, job, "node-1").await.key;
    let end = AttemptEnd { node: None, key, report: EndReport::Lost("gone".into()) };
    let answers = store.fleet().attempts_write(&[], &[end]).await.expect("ends");
    assert_eq!(answers, [Ended::Final(JobState::Lost)]);
}

#[tokio::test]
async fn a_job_that_no_connection_survives_is_lost_in_the_end() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let mut leader = leader(&store).await;
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id;
    for _ in 0..100 {
        let key = claim(&mut leader, job, "node-1").await.key;
        let end = AttemptEnd { node: None, key, report: EndReport::Undelivered("no connection".into()) };
        if store.fleet().attempts_write(&[], &[end]).await.expect("ends") != [Ended::Again] {
            break;
        }
    }
    let record = store.job_get(&acme, job).await.expect("gets");
    assert_eq!(record.state, JobState::Lost);
    assert!(record.attempts.len() < 20, "{} attempts", record.attempts.len());
}

#[tokio::test]
async fn cancel_is_legal_in_every_state() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let mut leader = leader(&store).await;
    let create =
        || async { store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id };

    let queued = create().await;
    let record = store.job_cancel(&acme, queued, None).await.expect("cancels");
    assert_eq!((record.state, record.attempts.len()), (JobState::Cancelled, 0));
    assert!(!record.reason.is_empty());
    assert_eq!(store.job_cancel(&acme, queued, None).await.expect("again").state, JobState::Cancelled);
    assert!(leader.queue_heads(8).await.expect("heads").is_empty());

    let leased = create().await;
    let key = claim(&mut leader, leased, "node-1").await.key;
    let record = store.job_cancel(&acme, leased, None).await.expect("cancels");
    assert_eq!(record.state, JobState::Leased);
    assert!(record.cancel_requested.is_some());
    let pending = store.fleet().cancels_pending().await.expect("pending");
    assert_eq!(pending, [(key, node("node-1"))]);
    // Lost after its owner asked for its end: cancelled, not tried again.
    let end = AttemptEnd { node: None, key, report: EndReport::Lost("gone".into()) };
    let answers = store.fleet().attempts_write(&[], &[end]).await.expect("ends");
    assert_eq!(answers, [Ended::Final(JobState::Cancelled)]);

    let running = create().await;
    let key = claim(&mut leader, running, "node-1").await.key;
    let start = AttemptStart { node: node("node-1"), key, age: Duration::ZERO };
    store.fleet().attempts_write(&[start], &[]).await.expect("starts");
    store.job_cancel(&acme, running, None).await.expect("cancels");
    let progress = [LeaseProgress { key, cpu_us: 1, memory_bytes: 1, output_bytes: 0 }];
    let status = store.fleet().leases_renew(&node("node-1"), &progress, LEASE).await.expect("renews");
    assert!(status[0].cancelled);
    // It was faster than the cancel.
    let end = ended(key, AttemptState::Succeeded);
    let answers = store.fleet().attempts_write(&[], &[end]).await.expect("ends");
    assert_eq!(answers, [Ended::Final(JobState::Succeeded)]);
    assert_eq!(store.job_cancel(&acme, running, None).await.expect("late").state, JobState::Succeeded);
}

#[tokio::test]
async fn only_ended_jobs_are_deleted_and_with_all_that_is_theirs() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id;
    let error = store.job_delete(&acme, job, None).await.expect_err("waits");
    assert!(matches!(error, StoreError::NotEnded { state: JobState::Queued, .. }), "{error}");
    let mut leader = leader(&store).await;
    let key = claim(&mut leader, job, "node-1").await.key;
    let holder = node("node-1");
    let chunk = OutputAppend {
        node: &holder,
        key,
        stream: OutputStream::Stderr,
        offset: 0,
        bytes: b"hello",
        flush: true,
    };
    store.fleet().output_append(chunk).await.expect("appends");
    store.fleet().attempts_write(&[], &[ended(key, AttemptState::Succeeded)]).await.expect("ends");
    let delete = RequestKey { method: "DeleteJob", request_id: "d".into(), body_sha256: [0; 32] };
    store.job_delete(&acme, job, Some(&delete)).await.expect("deletes");
    store.job_delete(&acme, job, Some(&delete)).await.expect("the repeated request succeeds again");
    let not_found = |error: StoreError| matches!(error, StoreError::NotFound { .. });
    assert!(not_found(store.job_get(&acme, job).await.expect_err("gone")));
    assert!(not_found(store.job_delete(&acme, job, None).await.expect_err("gone")));
    let slice = store.output_read(&acme, job, 1, OutputStream::Stderr, 0, 99).await.expect("reads");
    assert!(slice.bytes.is_empty());
}

#[tokio::test]
async fn a_request_id_answers_once_and_the_same() {
    let store = test_store().await;
    let (acme, other) = (test_tenant(&store, "acme").await, test_tenant(&store, "other").await);
    let first =
        store.job_create(&acme, new_job(example_spec()), Some(&request("r", 1))).await.expect("creates");
    let again =
        store.job_create(&acme, new_job(example_spec()), Some(&request("r", 1))).await.expect("again");
    assert_eq!(first.id, again.id);
    let reused = store.job_create(&acme, new_job(example_spec()), Some(&request("r", 2))).await;
    assert!(matches!(reused, Err(StoreError::RequestIdReused { .. })));
    // Another tenant's ids are its own.
    let others =
        store.job_create(&other, new_job(example_spec()), Some(&request("r", 2))).await.expect("creates");
    assert_ne!(others.id, first.id);
    // Many at once: one job.
    let key = request("many", 1);
    let many = (0..4).map(|_| store.job_create(&acme, new_job(example_spec()), Some(&key)));
    let ids: Vec<JobId> =
        futures::future::try_join_all(many).await.expect("all answer").iter().map(|j| j.id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for bad in [String::new(), "x".repeat(129), "a\0".into()] {
        let result = store.job_create(&acme, new_job(example_spec()), Some(&request(&bad, 1))).await;
        assert!(matches!(result, Err(StoreError::RequestIdInvalid)));
    }
}

#[tokio::test]
async fn lists_are_paged_filtered_and_newest_first() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let mut spec = example_spec();
        spec.labels = BTreeMap::from([("parity".into(), (number % 2).to_string())]);
        ids.push(store.job_create(&acme, new_job(spec), None).await.expect("creates").id);
    }
    store.job_cancel(&acme, ids[0], None).await.expect("cancels");
    let all = JobFilter::default();
    let mut seen = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let (jobs, next) = store.job_list(&acme, &all, 3, token.as_deref()).await.expect("lists");
        assert!(jobs.len() <= 3);
        seen.extend(jobs.iter().map(|job| job.id));
        match next {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ids.iter().rev().copied().collect::<Vec<_>>());
    let even = JobFilter { labels: BTreeMap::from([("parity".into(), "0".into())]), ..all.clone() };
    assert_eq!(store.job_list(&acme, &even, 1000, None).await.expect("lists").0.len(), 4);
    let cancelled = JobFilter { states: vec![JobState::Cancelled], ..even.clone() };
    let (jobs, next) = store.job_list(&acme, &cancelled, 1000, None).await.expect("lists");
    assert_eq!((jobs.len(), jobs[0].id, next), (1, ids[0], None));
    let wrong = store.job_list(&acme, &even, 3, token.as_deref()).await;
    assert!(token.is_some() && matches!(wrong, Err(StoreError::PageTokenInvalid)));
}

fn secret_spec() -> JobSpec {
    let mut spec = example_spec();
    spec.stdin = Some(Content::Inline(b"typed".to_vec()));
    spec.input_files =
        vec![InputFile { path: "/a".into(), mode: 0o600, content: Content::Inline(vec![0, 1, 255]) }];
    spec.env = vec![
        EnvVar { name: "PLAIN".into(), value: "clear".into(), secret: false },
        EnvVar { name: "TOKEN".into(), value: "hunter2-nonce".into(), secret: true },
    ];
    spec
}

#[tokio::test]
async fn secrets_reach_the_node_and_nothing_else() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let created = store.job_create(&acme, new_job(secret_spec()), None).await.expect("creates");
    let got = store.job_get(&acme, created.id).await.expect("gets");
    assert_eq!(got.spec, created.spec);
    assert!(!format!("{got:?}").contains("hunter2"));
    assert_eq!(got.spec.env[1].value, "");
    assert_eq!(got.spec.input_files, secret_spec().input_files);
    assert_eq!(got.spec.stdin, secret_spec().stdin);
    let mut leader = leader(&store).await;
    let claimed = claim(&mut leader, created.id, "node-1").await;
    assert_eq!(claimed.spec.expect("opens"), secret_spec());
}

#[tokio::test]
async fn output_is_stored_once_and_without_gaps() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id;
    let mut leader = leader(&store).await;
    let key = claim(&mut leader, job, "node-1").await.key;
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0] ^ 0x80).collect();
    let holder = node("node-1");
    let append = |offset: usize, length: usize| {
        let chunk = OutputAppend {
            node: &holder,
            key,
            stream: OutputStream::Stdout,
            offset: offset as u64,
            bytes: &bytes[offset..offset + length],
            flush: true,
        };
        let store = store.clone();
        async move { store.fleet().output_append(chunk).await }
    };
    assert_eq!(append(0, 10).await.expect("appends"), 10);
    assert_eq!(append(0, 10).await.expect("a duplicate"), 10);
    assert_eq!(append(5, 15).await.expect("an overlap"), 20);
    let gap = append(21, 5).await.expect_err("a gap");
    assert!(matches!(gap, StoreError::OutputGap { offset: 21, stored_bytes: 20 }), "{gap}");
    assert_eq!(append(20, 60_000).await.expect("appends"), 60_020);
    assert_eq!(append(60_020, 39_980).await.expect("over the 64 KiB"), 100_000);
    let read = |offset: u64, max: usize| {
        let (store, acme) = (store.clone(), acme.clone());
        async move { store.output_read(&acme, job, 1, OutputStream::Stdout, offset, max).await.expect("reads") }
    };
    let slice = read(0, usize::MAX).await;
    assert_eq!((slice.bytes.len(), slice.stored_bytes), (64 << 10, 100_000));
    assert!(slice.bytes == bytes[..64 << 10]);
    assert_eq!(read(7, 20).await.bytes, bytes[7..27]);
    assert!(read(64 << 10, 10).await.bytes.is_empty());
    let digest = Digest::from_bytes([5; 32]);
    store.fleet().output_seal(&holder, key, OutputStream::Stdout, digest).await.expect("seals");
    assert_eq!(read(0, 1).await.digest, Some(digest));
    let streams = store.job_progress(&acme, job, 0).await.expect("progress").streams;
    assert_eq!((streams.len(), streams[0].stored_bytes), (1, 100_000));
}

#[tokio::test]
async fn a_missing_blob_or_tenant_is_named() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let other = test_tenant(&store, "other").await;
    let digest = Digest::from_bytes([9; 32]);
    store.blob_put(&other, digest, 3).await.expect("puts");
    let mut spec = example_spec();
    spec.stdin = Some(Content::Blob(digest));
    let error =
        store.job_create(&acme, new_job(spec.clone()), None).await.expect_err("another tenant's blob");
    assert!(matches!(error, StoreError::BlobNotFound { digest: named } if named == digest), "{error}");
    store.blob_put(&acme, digest, 3).await.expect("puts");
    let job = store.job_create(&acme, new_job(spec), None).await.expect("creates").id;
    // The blob stays as long as the job names it.
    assert!(store.fleet().blobs_prune(Duration::ZERO, 100).await.expect("prunes").is_empty());
    assert!(matches!(store.blob_get(&other, digest).await, Err(StoreError::NotFound { .. })));
    store.job_cancel(&acme, job, None).await.expect("cancels");
    store.job_delete(&acme, job, None).await.expect("deletes");
    assert_eq!(store.fleet().blobs_prune(Duration::ZERO, 100).await.expect("prunes"), [digest]);
    let nobody = bulkhead_types::TenantId::new("nobody").expect("valid");
    let error = store.job_create(&nobody, new_job(example_spec()), None).await.expect_err("no tenant");
    assert!(matches!(error, StoreError::NotFound { what: "tenant", .. }), "{error}");
}

#[tokio::test]
async fn a_job_that_no_node_could_hold_is_rejected_as_it_is_made() {
    let store = test_store().await;
    let acme = test_tenant(&store, "acme").await;
    let mut spec = example_spec();
    spec.env.push(EnvVar { name: "T".into(), value: "secret".into(), secret: true });
    let job = bulkhead_store::NewJob { refusal: Some("too large\0".into()), ..new_job(spec) };
    let made = store.job_create(&acme, job, Some(&request("once", 1))).await.expect("creates");
    assert_eq!(made.state, JobState::Rejected);
    assert!(made.reason.starts_with("too large") && made.ended.is_some(), "{made:?}");
    assert_eq!(store.job_get(&acme, made.id).await.expect("gets"), made);
    let mut leader = leader(&store).await;
    assert!(leader.queue_heads(8).await.expect("heads").is_empty());
    let events = store.job_progress(&acme, made.id, 0).await.expect("progress").events;
    let states: Vec<_> = events.iter().map(|event| (event.seq, event.state)).collect();
    assert_eq!(states, [(1, JobState::Queued), (2, JobState::Rejected)]);
}
