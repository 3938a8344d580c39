//! Watching: order, resumption, several watchers, slow ones, broken ones.

use bulkhead_proto::v1::watch_job_response::Event;
use bulkhead_proto::v1::*;
use bulkhead_types::AttemptState;
use futures::StreamExt;
use tonic::{Code, Streaming};

use super::harness::{Client, PATIENCE, Running, reason};
use super::node::{Node, outcome};

async fn watch(client: &Client, request: WatchJobRequest) -> Streaming<WatchJobResponse> {
    client.jobs().watch_job(request).await.expect("watches").into_inner()
}

async fn next(events: &mut Streaming<WatchJobResponse>) -> Option<Event> {
    let message = tokio::time::timeout(PATIENCE, events.message()).await.expect("in time");
    message.expect("no error").map(|message| message.event.expect("an event"))
}

async fn all(mut events: Streaming<WatchJobResponse>) -> Vec<Event> {
    let mut seen = Vec::new();
    while let Some(event) = next(&mut events).await {
        seen.push(event);
    }
    seen
}

fn states(events: &[Event]) -> Vec<(i64, State)> {
    let states = events.iter().filter_map(|event| match event {
        Event::StateChange(change) => Some((change.sequence, change.state())),
        Event::OutputChunk(_) => None,
    });
    states.collect()
}

/// The bytes of a stream, which must follow each other from `start`.
fn bytes(events: &[Event], attempt: u32, stream: Stream, start: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if let Event::OutputChunk(chunk) = event
            && chunk.attempt == attempt
            && chunk.stream() == stream
        {
            assert_eq!(chunk.offset, start + bytes.len() as i64);
            assert!(!chunk.data.is_empty() && chunk.data.len() <= 64 << 10);
            bytes.extend_from_slice(&chunk.data);
        }
    }
    bytes
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn what_is_stored_is_told_and_then_the_watch_ends() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut node = Node::connect(&running, "node-1").await;
    let job = acme.create(|_| {}).await.expect("created");
    let request = || WatchJobRequest { name: job.name.clone(), stored_only: true, ..Default::default() };
    let id = node.lease().await.id.expect("an id");
    node.started(&id).await;
    let stdout = pattern(200_000);
    for (index, chunk) in stdout.chunks(50_000).enumerate() {
        node.output(&id, 1, index as i64 * 50_000, chunk).await;
    }
    node.durable(1, 200_000).await;
    acme.runs(&job.name).await;
    // The job goes on, the watch does not.
    let seen = all(watch(&acme, request()).await).await;
    assert_eq!(bytes(&seen, 1, Stream::Stdout, 0), stdout);
    assert_eq!(states(&seen), [(1, State::Queued), (2, State::Leased), (3, State::Running)]);
    let mut rest = request();
    rest.after_sequence = 3;
    rest.positions.push(StreamPosition { attempt: 1, stream: Stream::Stdout.into(), offset: 200_000 });
    assert!(all(watch(&acme, rest).await).await.is_empty());
    assert!(node.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    let seen = all(watch(&acme, request()).await).await;
    assert_eq!(bytes(&seen, 1, Stream::Stdout, 0), stdout);
    assert_eq!(states(&seen).last(), Some(&(4, State::Succeeded)));
    running.stop().await;
}

#[tokio::test]
async fn watchers_see_everything_in_order_wherever_they_begin() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut node = Node::connect(&running, "node-1").await;
    let job = acme.create(|_| {}).await.expect("created");
    let request = || WatchJobRequest { name: job.name.clone(), ..Default::default() };
    // Two that are there from the start, and one that never reads.
    let early = tokio::spawn(all(watch(&acme, request()).await));
    let second = tokio::spawn(all(watch(&acme, request()).await));
    let _slow = watch(&acme, request()).await;
    // One whose connection breaks in the middle.
    let mut broken = watch(&acme, request()).await;
    assert!(matches!(next(&mut broken).await, Some(Event::StateChange(_))));
    drop(broken);
    let id = node.lease().await.id.expect("an id");
    node.started(&id).await;
    let (stdout, stderr) = (pattern(300_000), b"warning\xff\0".to_vec());
    for (index, chunk) in stdout.chunks(60_000).enumerate() {
        node.output(&id, 1, index as i64 * 60_000, chunk).await;
    }
    node.output(&id, 2, 0, &stderr).await;
    node.durable(2, stderr.len() as i64).await;
    // What is durable can be read while the job runs, also behind what the database holds.
    let mut middle = request();
    middle.positions.push(StreamPosition { attempt: 1, stream: Stream::Stdout.into(), offset: 250_000 });
    let mut middle = watch(&acme, middle).await;
    let mut seen = Vec::new();
    while bytes(&seen, 1, Stream::Stdout, 250_000).len() < 50_000 {
        seen.push(next(&mut middle).await.expect("the job runs"));
    }
    assert_eq!(bytes(&seen, 1, Stream::Stdout, 250_000), stdout[250_000..]);
    assert!(node.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    for events in [
        early.await.expect("no panic"),
        second.await.expect("no panic"),
        all(watch(&acme, request()).await).await,
    ] {
        let expected = [State::Queued, State::Leased, State::Running, State::Succeeded];
        assert_eq!(states(&events), (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(bytes(&events, 1, Stream::Stdout, 0), stdout);
        assert_eq!(bytes(&events, 1, Stream::Stderr, 0), stderr);
        assert!(matches!(events.last(), Some(Event::StateChange(_))), "the terminal state is the last");
    }
    // Afterwards the whole is a blob, read from any offset; states that were seen are not told again.
    let mut late = request();
    late.after_sequence = 3;
    late.positions.push(StreamPosition { attempt: 1, stream: Stream::Stdout.into(), offset: 299_990 });
    let late = all(watch(&acme, late).await).await;
    assert_eq!(states(&late), [(4, State::Succeeded)]);
    assert_eq!(bytes(&late, 1, Stream::Stdout, 299_990), stdout[299_990..]);
    let only = WatchJobRequest { states_only: true, ..request() };
    let only = all(watch(&acme, only).await).await;
    assert_eq!(only.len(), states(&only).len());
    running.stop().await;
}

#[tokio::test]
async fn a_retry_never_appends_to_an_earlier_attempt() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let mut node = Node::connect(&running, "node-1").await;
    let job = acme
        .create(|spec| {
            spec.retry_policy =
                Some(RetryPolicy { max_attempts: 2, retry_on_failure: true, ..Default::default() });
        })
        .await
        .expect("created");
    node.run_one(b"first", &outcome(AttemptState::Failed, 1)).await;
    node.run_one(b"second try", &outcome(AttemptState::Succeeded, 0)).await;
    let events =
        all(watch(&acme, WatchJobRequest { name: job.name.clone(), ..Default::default() }).await).await;
    assert_eq!(bytes(&events, 1, Stream::Stdout, 0), b"first");
    assert_eq!(bytes(&events, 2, Stream::Stdout, 0), b"second try");
    let of = |wanted: u32| {
        events.iter().position(|event| matches!(event, Event::OutputChunk(chunk) if chunk.attempt == wanted))
    };
    let requeued = events.iter().position(
        |event| matches!(event, Event::StateChange(change) if change.state() == State::Queued && change.attempt == 1),
    );
    assert!(of(1) < requeued && requeued < of(2), "{events:?}");
    assert_eq!(acme.ended(&job.name).await.attempts.len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_stopping_service_tells_its_watchers_to_come_back() {
    let running = Running::start().await;
    let acme = running.tenant("acme").await;
    let job = acme.create(|_| {}).await.expect("created");
    let mut events = watch(&acme, WatchJobRequest { name: job.name, ..Default::default() }).await;
    assert!(matches!(next(&mut events).await, Some(Event::StateChange(_))));
    let stopping = tokio::spawn(running.stop());
    let status = events.next().await.expect("an end").expect_err("not a clean one: the job goes on");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "UNAVAILABLE"));
    stopping.await.expect("stops in order");
}
