//! Attempts that are ended: by their owner, their limits, their server, their node.

use std::sync::atomic::Ordering;

use bulkhead_proto::worker::from_worker::Message;
use bulkhead_proto::worker::to_worker::Message as ToMessage;
use bulkhead_proto::worker::{CancelAttempt, Registered};
use bulkhead_types::AttemptState;

use crate::server::{Session, World, registered, script};

async fn started(session: &mut Session) {
    while !matches!(session.next().await, Message::Started(_)) {}
}

/// A script that writes its process's number to a file and stays.
fn endless(world: &World, then: &str) -> (String, std::path::PathBuf) {
    let file = world.dir.path().join("pid");
    (format!("echo $$ > {0}.tmp; mv {0}.tmp {0}; {then} while :; do sleep 0.05; done", file.display()), file)
}

async fn pid(world: &World, file: &std::path::Path) -> String {
    world.until("the job's pid", || file.exists()).await;
    std::fs::read_to_string(file).expect("pid").trim().to_owned()
}

async fn is_gone(world: &World, pid: &str) {
    let proc = std::path::Path::new("/proc").join(pid);
    world.until("the job's end", || !proc.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_gets_its_grace_and_keeps_its_output() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    let (text, file) = endless(&world, "trap 'echo bye; exit 0' TERM;");
    let id = session.lease(&script(&text)).await;
    started(&mut session).await;
    pid(&world, &file).await;
    // The trap is set a moment after the pid is written; TERM before it would end the shell, without the word.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    session.send(ToMessage::Cancel(CancelAttempt { id: Some(id.clone()), immediately: false })).await;
    let seen = session.until_finished(&id).await;
    assert_eq!((seen.outcome().state, seen.text(1).as_str()), (AttemptState::Cancelled, "bye\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_output_ends_a_job_and_the_rest_is_counted() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    let mut spec = script("yes");
    spec.limits.output_bytes = 100_000;
    let id = session.lease(&spec).await;
    let seen = session.until_finished(&id).await;
    let stdout = seen.outcome().stdout;
    assert_eq!((seen.outcome().state, stdout.kept_bytes), (AttemptState::OutputLimit, 100_000));
    assert!(stdout.truncated());
    assert_eq!(seen.streams[&1].1.len(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_the_server_no_longer_wants_is_killed_and_forgotten() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    let (text, file) = endless(&world, "trap '' TERM;");
    let id = session.lease(&script(&text)).await;
    started(&mut session).await;
    let pid = pid(&world, &file).await;
    drop(session);
    let mut session = world.connection().await;
    session.register(Registered { unwanted: vec![id], ..registered() }).await;
    is_gone(&world, &pid).await;
    world.spool_is_empty().await;

    let (text, file) = endless(&world, "trap '' TERM;");
    std::fs::remove_file(&file).expect("the first job's");
    let id = session.lease(&script(&text)).await;
    let pid = self::pid(&world, &file).await;
    session.send(ToMessage::Cancel(CancelAttempt { id: Some(id), immediately: true })).await;
    is_gone(&world, &pid).await;
    world.spool_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_from_the_server_a_lease_ends() {
    let mut world = World::new().await;
    let mut session = world.connection().await;
    session.register(Registered { lease_ms: 1500, ..registered() }).await;
    let (text, file) = endless(&world, "");
    let id = session.lease(&script(&text)).await;
    let pid = pid(&world, &file).await;
    // Heartbeats come, with progress, and are not answered.
    loop {
        if let Message::Heartbeat(beat) = session.raw().await
            && beat
                .progress
                .first()
                .is_some_and(|progress| (progress.cpu_us, progress.memory_bytes) == (7, 9))
        {
            break;
        }
    }
    is_gone(&world, &pid).await;
    let mut session = world.session().await;
    let seen = session.until_finished(&id).await;
    assert_eq!(seen.outcome().state, AttemptState::Lost);
    assert!(seen.outcome().reason.contains("contact"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_cant_be_made_is_the_nodes_failure_and_says_why() {
    let mut world = World::new().await;
    world.backend.broken.store(true, Ordering::Relaxed);
    let mut session = world.session().await;
    let id = session.lease(&script("true")).await;
    let seen = session.until_finished(&id).await;
    assert_eq!(seen.outcome().state, AttemptState::Lost);
    assert!(seen.outcome().reason.contains("memory limit can't be enforced"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_worker_takes_nothing_new_ends_what_runs_and_exits() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    let (text, file) = endless(&world, "echo working;");
    let running = session.lease(&script(&text)).await;
    let pid = pid(&world, &file).await;
    let mut seen = crate::server::Seen::default();
    while seen.text(1) != "working\n" {
        if let Message::Output(chunk) = session.next().await {
            session.take(chunk, &mut seen).await;
        }
    }
    world.shut_down();
    while !matches!(session.next().await, Message::Draining(_)) {}
    let refused = session.lease(&script("echo never")).await;
    let mut ended = 0;
    while ended < 2 {
        let Message::Finished(finished) = session.next().await else { continue };
        let outcome: bulkhead_types::AttemptOutcome =
            serde_json::from_slice(&finished.outcome_json).expect("an outcome");
        assert_eq!(outcome.state, AttemptState::Lost, "{outcome:?}");
        let want = if finished.id.as_ref() == Some(&refused) { "takes no new jobs" } else { "drained" };
        assert!(outcome.reason.contains(want), "{outcome:?}");
        session.accept(finished.id.as_ref().expect("an id")).await;
        ended += 1;
    }
    is_gone(&world, &pid).await;
    world.ended().await;
    world.spool_is_empty().await;
    assert_ne!(running, refused);
}
