//! Jobs that end by themselves, over connections that do not always hold.

use std::sync::atomic::Ordering;

use bulkhead_proto::worker::from_worker::Message;
use bulkhead_proto::worker::to_worker::Message as ToMessage;
use bulkhead_proto::worker::{AttemptId, OutputAck, Registered};
use bulkhead_types::{AttemptKey, AttemptState, Content, InputFile, OutputSpec, Termination};

use crate::server::{Seen, World, digest, registered, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_is_forgotten_when_confirmed() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    for token in 0..2 {
        let id = session.lease(&script("echo out; echo err >&2; echo $PATH; exit 3")).await;
        let seen = session.until_finished(&id).await;
        assert!(seen.started, "{token}");
        assert!(seen.text(1).starts_with("out\n/usr/local/sbin"), "{seen:?}");
        assert_eq!(seen.text(2), "err\n");
        let outcome = seen.outcome();
        assert_eq!(
            (outcome.state, outcome.termination),
            (AttemptState::Failed, Some(Termination::Exited(3)))
        );
        assert_eq!((outcome.stderr.total_bytes, outcome.stderr.truncated()), (4, false));
        assert_eq!(outcome.usage.cpu_user_us, 1);
        session.accept(&id).await;
        world.spool_is_empty().await;
    }
    assert_eq!(world.shared.image_fetches.load(Ordering::Relaxed), 1, "the second job found it in the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_output_arrives_whole() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    let id = session.lease(&script("head -c 5000000 /dev/zero; head -c 100000 /dev/zero >&2")).await;
    let seen = session.until_finished(&id).await;
    assert_eq!((seen.streams[&1].1.len(), seen.streams[&2].1.len()), (5_000_000, 100_000));
    assert_eq!(seen.outcome().state, AttemptState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_come_in_and_outputs_go_out_before_the_end_is_told() {
    let mut world = World::new().await;
    world.shared.blobs.lock().expect("lock").insert(digest(b"a blob").to_string(), b"a blob".to_vec());
    let mut session = world.session().await;
    let at = |name: &str| world.dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let mut spec =
        script(&format!("cat {0} {1} - > {2}; printf 'refuse me' > {3}", at("a"), at("b"), at("o"), at("r")));
    spec.stdin = Some(Content::Blob(digest(b"a blob")));
    let file = |path, content| InputFile { path, mode: 0o644, content };
    spec.input_files = vec![
        file(at("a"), Content::Inline(b"inline, ".to_vec())),
        file(at("b"), Content::Blob(digest(b"a blob"))),
    ];
    spec.outputs = vec![OutputSpec::Glob(at("o")), OutputSpec::Glob(at("r"))];
    let id = session.lease(&spec).await;
    let seen = session.until_finished(&id).await;
    let want = b"inline, a bloba blob";
    let stored = world.shared.stored.lock().expect("lock").clone();
    assert_eq!(stored.get(&digest(want).to_string()).map(Vec::as_slice), Some(&want[..]));
    let outcome = seen.outcome();
    assert_eq!(outcome.outputs.len(), 1, "{outcome:?}");
    assert_eq!((outcome.outputs[0].digest, outcome.outputs[0].size_bytes), (digest(want), want.len() as u64));
    assert!(outcome.output_problems[0].contains("no room for this"), "{outcome:?}");

    // A blob that is gone is the job's own problem.
    spec.stdin = Some(Content::Blob(digest(b"never uploaded")));
    let id = session.lease(&spec).await;
    let seen = session.until_finished(&id).await;
    assert_eq!(seen.outcome().state, AttemptState::Failed);
    assert!(seen.outcome().reason.contains("is gone"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_without_the_server_and_its_spool_is_taken_up_where_it_was() {
    let mut world = World::new().await;
    let mut session = world.session().await;
    let flag = world.dir.path().join("go-on");
    let wait = format!("printf early; while ! [ -e {} ]; do sleep 0.01; done; printf late", flag.display());
    let id = session.lease(&script(&wait)).await;
    let mut seen = Seen::default();
    while seen.text(1) != "early" {
        if let Message::Output(chunk) = session.next().await {
            session.take(chunk, &mut seen).await;
        }
    }
    drop(session);
    std::fs::write(&flag, "").expect("flag");

    let mut session = world.connection().await;
    let positions = vec![OutputAck { id: Some(id.clone()), stream: 1, durable: 5 }];
    let register = session.register(Registered { positions, ..registered() }).await;
    assert_eq!(register.attempts, std::slice::from_ref(&id));
    let seen = session.until_finished(&id).await;
    assert_eq!(seen.streams[&1], (5, b"late".to_vec()), "from the server's position");
    assert_eq!(seen.outcome().state, AttemptState::Succeeded);
    assert_eq!(seen.outcome().stdout.total_bytes, 9);

    // Not confirmed: told again, to whichever server comes.
    drop(session);
    let mut session = world.session().await;
    assert_eq!(session.until_finished(&id).await.outcome().state, AttemptState::Succeeded);
    session.accept(&id).await;
    world.spool_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_life_left_is_reported_as_lost_with_its_output() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let job = bulkhead_types::JobId::generate();
    let spool = dir.path().join(format!("spool/{job}.1.9"));
    std::fs::create_dir_all(&spool).expect("spool");
    let key = AttemptKey { job, attempt: 1, token: 9 };
    let name = serde_json::json!({ "tenant": "acme", "key": key });
    std::fs::write(spool.join("attempt.json"), name.to_string()).expect("written");
    std::fs::write(spool.join("stdout"), "so far").expect("written");

    let mut world = World::in_directory(dir).await;
    let mut session = world.session().await;
    let id = AttemptId { tenant: "acme".into(), job: job.to_string(), attempt: 1, token: 9 };
    let seen = session.until_finished(&id).await;
    assert_eq!(seen.text(1), "so far");
    assert_eq!(seen.outcome().state, AttemptState::Lost);
    session
        .send(ToMessage::FinishedAck(bulkhead_proto::worker::FinishedAck { id: Some(id), accepted: false }))
        .await;
    world.spool_is_empty().await;
}
