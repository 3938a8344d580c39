//! The life of jobs, from both sides.

use std::time::Duration;

use bulkhead_proto::v1::*;
use bulkhead_proto::worker::Register;
use bulkhead_proto::worker::to_worker::Message;
use bulkhead_types::{AttemptState, JobSpec as Spec};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::harness::{Running, assert_field, assert_not_found, reason, spec};
use super::node::{GIB, Node, offer, outcome, register};

#[tokio::test]
async fn a_job_runs_and_its_result_is_read_back() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut node = Node::connect(&running, "node-1").await;
    let job = acme
        .create(|spec| {
            spec.argv = vec!["/bin/echo".into(), "hello".into()];
            spec.labels.insert("team".into(), "blue".into());
        })
        .await
        .expect("created");
    assert_eq!(job.state(), State::Queued);
    let lease = node.lease().await;
    let sent: Spec = serde_json::from_slice(&lease.spec_json).expect("a description");
    assert_eq!(sent.argv, ["/bin/echo", "hello"]);
    assert_eq!((lease.image_owner.as_str(), lease.backend.as_str()), ("operator", "sentry"));
    let meta = bulkhead_image::ImageMeta::from_json(&lease.image_config_json).expect("to the byte");
    assert_eq!(meta.digest().to_string(), lease.image_digest);
    let id = lease.id.expect("an id");
    node.started(&id).await;
    node.output(&id, 1, 0, b"hel").await;
    node.output(&id, 1, 3, b"lo\n").await;
    node.durable(1, 6).await;
    assert!(node.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    let done = acme.ended(&job.name).await;
    assert_eq!(done.state(), State::Succeeded);
    let attempt = &done.attempts[0];
    assert_eq!((attempt.number, attempt.exit_code, attempt.state()), (1, Some(0), State::Succeeded));
    assert_eq!(attempt.node, "nodes/node-1");
    assert!(attempt.lease_time.is_some() && attempt.start_time.is_some() && attempt.end_time.is_some());
    assert_eq!(attempt.usage.as_ref().expect("usage").peak_memory_bytes, 4096);
    // An end that is told again is confirmed as not taken, and changes nothing.
    assert!(!node.finish(&id, &outcome(AttemptState::Failed, 1)).await);
    let list = ListJobsRequest {
        parent: acme.parent(),
        states: vec![State::Succeeded.into()],
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        ..Default::default()
    };
    let listed = acme.jobs().list_jobs(list).await.expect("lists").into_inner();
    assert_eq!(listed.jobs.len(), 1);
    assert_eq!(listed.jobs[0].state(), State::Succeeded);
    let delete = DeleteJobRequest { name: job.name.clone(), ..Default::default() };
    acme.jobs().delete_job(delete).await.expect("deleted");
    assert_not_found(&acme.jobs().get_job(GetJobRequest { name: job.name }).await.expect_err("gone"));
    running.stop().await;
}

#[tokio::test]
async fn a_request_id_makes_every_mutation_idempotent() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let id = || uuid::Uuid::new_v4().to_string();
    let mut jobs = acme.jobs();
    let mut secret = spec();
    secret.env.push(EnvVar { name: "T".into(), value: "one".into(), secret: true });
    let create = CreateJobRequest { parent: acme.parent(), spec: Some(secret), request_id: id() };
    let first = jobs.create_job(create.clone()).await.expect("created").into_inner();
    let again = jobs.create_job(create.clone()).await.expect("the first answer").into_inner();
    assert_eq!(first.name, again.name);
    let mut other = create.clone();
    other.spec.as_mut().expect("spec").env[0].value = "two".into();
    let status = jobs.create_job(other).await.expect_err("another body");
    assert_field(&status, "request_id");
    assert_eq!(reason(&status), "REQUEST_ID_REUSED");
    // Sixteen at once: one job.
    let burst = CreateJobRequest { parent: acme.parent(), spec: Some(spec()), request_id: id() };
    let calls = (0..16).map(|_| {
        let (mut jobs, burst) = (acme.jobs(), burst.clone());
        async move { jobs.create_job(burst).await.expect("created").into_inner().name }
    });
    let names = futures::future::join_all(calls).await;
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let cancel = CancelJobRequest { name: first.name.clone(), request_id: id() };
    for _ in 0..2 {
        let cancelled = jobs.cancel_job(cancel.clone()).await.expect("cancelled").into_inner();
        assert_eq!(cancelled.state(), State::Cancelled);
    }
    let wrong = CancelJobRequest { name: names[0].clone(), ..cancel };
    assert_field(&jobs.cancel_job(wrong).await.expect_err("another body"), "request_id");
    let delete = DeleteJobRequest { name: first.name, request_id: id() };
    for _ in 0..2 {
        jobs.delete_job(delete.clone()).await.expect("deleted");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_no_node_can_hold_is_rejected_and_a_missing_backend_is_said() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let large = |spec: &mut JobSpec| {
        spec.limits = Some(Limits { memory_bytes: 200 * GIB, ..Default::default() });
    };
    let waits = acme.create(large).await.expect("no node is known");
    assert_eq!(waits.state(), State::Queued);
    let _node = Node::connect_with(&running, "node-1", register(8 * GIB)).await;
    // The nodes are looked at anew after a second at most; until then the scheduler rejects a moment later.
    let rejected = acme.create(large).await.expect("created");
    for job in [waits, rejected] {
        let job = acme.ended(&job.name).await;
        assert_eq!(job.state(), State::Rejected);
        assert!(job.attempts.is_empty() && job.reason.contains("node-1"), "{}", job.reason);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let at_once = acme.create(large).await.expect("created");
    assert_eq!(at_once.state(), State::Rejected, "at once");
    assert!(at_once.reason.contains("node-1"), "{}", at_once.reason);
    let status =
        acme.create(|spec| spec.backend = Backend::Microvm.into()).await.expect_err("no such backend");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "BACKEND_UNAVAILABLE");
    // What doctor says there, with what to do.
    let text = status.message();
    assert!(text.contains("node-1") && text.contains("modprobe kvm_intel"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn a_job_for_a_virtual_machine_goes_where_there_are_some() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut without = Node::connect_with(&running, "node-1", register(64 * GIB)).await;
    let offers = vec![offer("sentry", ""), offer("microvm", "")];
    let with = Register { offers, ..register(8 * GIB) };
    let mut with = Node::connect_with(&running, "node-2", with).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let job = acme.create(|spec| spec.backend = Backend::Microvm.into()).await.expect("node-2 has them");
    let lease = with.lease().await;
    assert_eq!(lease.backend, "microvm");
    let id = lease.id.expect("an id");
    with.started(&id).await;
    assert!(with.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    let done = acme.ended(&job.name).await;
    assert_eq!(done.attempts[0].backend(), Backend::Microvm);
    // A sentry goes where it leaves the least memory free; both have those.
    acme.create(|_| {}).await.expect("created");
    let lease = tokio::select! {
        lease = with.lease() => lease,
        lease = without.lease() => lease,
    };
    assert_eq!(lease.backend, "sentry");
    running.stop().await;
}

#[tokio::test]
async fn a_full_quota_says_when_to_come_back() {
    let running = Running::start().await;
    let operator = running.operator().await;
    let tenant = Tenant { max_active_jobs: 2, weight: 300, ..Default::default() };
    let create =
        CreateTenantRequest { tenant_id: "small".into(), tenant: Some(tenant), ..Default::default() };
    let created = operator.tenants().create_tenant(create).await.expect("created").into_inner();
    assert_eq!((created.weight, created.max_active_jobs), (300, 2));
    let token = running.token(Some("small"), &bulkhead_server::auth::Scope::TENANT);
    let small = running.with_token("small", Some(&token)).await;
    let first = small.create(|_| {}).await.expect("fits");
    small.create(|_| {}).await.expect("fits");
    let status = small.create(|_| {}).await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "JOB_QUOTA_EXCEEDED");
    assert!(status.get_error_details().retry_info().expect("retry").retry_delay.is_some());
    let cancel = CancelJobRequest { name: first.name, ..Default::default() };
    small.jobs().cancel_job(cancel).await.expect("cancelled");
    small.create(|_| {}).await.expect("there is room again");
    running.stop().await;
}

#[tokio::test]
async fn cancel_is_legal_in_every_state_and_delete_only_at_the_end() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let queued = acme.create(|_| {}).await.expect("created");
    let cancel = |name: &str| {
        let (mut jobs, name) = (acme.jobs(), name.to_owned());
        async move { jobs.cancel_job(CancelJobRequest { name, ..Default::default() }).await.expect("legal") }
    };
    assert_eq!(cancel(&queued.name).await.get_ref().state(), State::Cancelled);
    let mut node = Node::connect(&running, "node-1").await;
    let job = acme.create(|_| {}).await.expect("created");
    let id = node.lease().await.id.expect("an id");
    node.started(&id).await;
    let delete = DeleteJobRequest { name: job.name.clone(), ..Default::default() };
    let status = acme.jobs().delete_job(delete.clone()).await.expect_err("it runs");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "JOB_NOT_ENDED"));
    assert!(cancel(&job.name).await.get_ref().cancel_requested);
    let told = node
        .until(|message| match message {
            Message::Cancel(cancel) => Some(cancel),
            _ => None,
        })
        .await;
    assert!(!told.immediately, "with its grace period");
    assert_eq!(told.id.as_ref(), Some(&id));
    assert!(node.finish(&id, &outcome(AttemptState::Cancelled, 0)).await);
    let done = acme.ended(&job.name).await;
    assert_eq!(done.state(), State::Cancelled);
    assert_eq!(cancel(&job.name).await.get_ref().state(), State::Cancelled, "an ended job stays as it is");
    acme.jobs().delete_job(delete).await.expect("deleted");
    running.stop().await;
}

#[tokio::test]
async fn wait_answers_before_the_deadline_and_the_job_does_not_care() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let job = acme.create(|_| {}).await.expect("created");
    let wait = |timeout: Duration| {
        let mut request = Request::new(WaitJobRequest { name: job.name.clone() });
        request.set_timeout(timeout);
        let mut jobs = acme.jobs();
        async move { jobs.wait_job(request).await }
    };
    let answer = wait(Duration::from_secs(2)).await.expect("an answer, not DEADLINE_EXCEEDED");
    assert_eq!(answer.get_ref().state(), State::Queued);
    // A client that goes away takes nothing with it.
    let gone = tokio::spawn(wait(Duration::from_secs(30)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    gone.abort();
    let waiting = tokio::spawn(wait(Duration::from_secs(30)));
    let mut node = Node::connect(&running, "node-1").await;
    node.run_one(b"", &outcome(AttemptState::Failed, 3)).await;
    let job = waiting.await.expect("no panic").expect("an answer").into_inner();
    assert_eq!((job.state(), job.attempts[0].exit_code), (State::Failed, Some(3)));
    running.stop().await;
}

#[tokio::test]
async fn pages_of_jobs_are_complete_and_in_order() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut names = Vec::new();
    for _ in 0..7 {
        names.push(acme.create(|_| {}).await.expect("created").name);
    }
    names.reverse();
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListJobsRequest { parent: acme.parent(), page_size: 3, page_token, ..Default::default() };
        let page = acme.jobs().list_jobs(request).await.expect("lists").into_inner();
        assert!(page.jobs.len() <= 3);
        seen.extend(page.jobs.into_iter().map(|job| job.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, names);
    // Jobs with large commands come in pages that any client accepts (4 MiB).
    for _ in 0..5 {
        acme.create(|spec| spec.argv = vec!["x".repeat(120_000); 8]).await.expect("created");
    }
    let request = ListJobsRequest { parent: acme.parent(), page_size: 1000, ..Default::default() };
    let page = acme.jobs().list_jobs(request).await.expect("fits into 4 MiB").into_inner();
    assert!(!page.jobs.is_empty() && page.jobs.len() < 12 && !page.next_page_token.is_empty());
    running.stop().await;
}
