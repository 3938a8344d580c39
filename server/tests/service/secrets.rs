//! Nothing of a token or of a secret value is in the logs or in the files of the database.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bulkhead_proto::v1::EnvVar;
use bulkhead_server::auth::Scope;
use bulkhead_store::cluster::PrivateCluster;
use bulkhead_store::testing::Keeper;
use bulkhead_types::AttemptState;
use tracing_subscriber::fmt::MakeWriter;

use super::harness::Running;
use super::node::{Node, outcome};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Files under `directory` that hold the text.
fn files_with(directory: &Path, text: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files_with(&path, text, found);
        } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, text)) {
            found.push(path.display().to_string());
        }
    }
}

#[tokio::test]
async fn secrets_and_tokens_are_nowhere_in_clear() {
    let log = Log::default();
    // Everything of our own at its most talkative; what HTTP/2 libraries say of headers at TRACE is theirs.
    let filter = "info,bulkhead_server=trace,bulkhead_scheduler=trace,bulkhead_store=trace,sqlx=debug";
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).init();
    let keeper = Keeper::new("secrets-postgres");
    let cluster = PrivateCluster::start(keeper.path()).await.expect("PostgreSQL starts");
    let running = Running::start_with(cluster.urls(), |_| {}).await;
    running.tenant("acme").await;
    let token = running.token(Some("acme"), &Scope::TENANT);
    let acme = running.with_token("acme", Some(&token)).await;
    let mut node = Node::connect(&running, "node-1").await;
    let (secret, open) = ("hunter2-the-secret-value", "an-open-value-that-is-stored");
    let job = acme
        .create(|spec| {
            let var = |value: &str, secret| EnvVar { name: "V".into(), value: value.into(), secret };
            spec.env = vec![var(secret, true), var(open, false)];
        })
        .await
        .expect("created");
    assert!(!format!("{job:?}").contains(secret), "it was returned");
    let bad = running.with_token("acme", Some(&token[..token.len() - 2])).await;
    bad.create(|_| {}).await.expect_err("a damaged token");
    let lease = node.lease().await;
    assert!(holds(&lease.spec_json, secret), "the node needs it");
    let id = lease.id.expect("an id");
    assert!(node.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    acme.ended(&job.name).await;
    running.stop().await;
    cluster.stop().await.expect("stops, all written");

    let logged = log.0.lock().expect("lock").clone();
    assert!(holds(&logged, "a node has connected"), "the log was captured");
    let signature = token.rsplit('.').next().expect("a part");
    for text in [secret, signature, &token[..60]] {
        assert!(!holds(&logged, text), "{text} was logged");
        let mut found = Vec::new();
        files_with(keeper.path(), text, &mut found);
        assert!(found.is_empty(), "{text} is in {found:?}");
    }
    let mut found = Vec::new();
    files_with(keeper.path(), open, &mut found);
    assert!(!found.is_empty(), "the search finds what is stored");
}
