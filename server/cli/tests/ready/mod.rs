//! Starts `bulkhead serve` and waits until it says that it is ready.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than a start takes on a busy machine whose processors are emulated, a recovery of PostgreSQL included.
const PATIENCE: Duration = Duration::from_secs(300);

/// `serve` is the command with its data directory and whatever the test wants; it listens on free ports of the
/// loopback, and what it says goes to the end of `log`. Answers with the process and its line.
pub(crate) fn start(mut serve: Command, log: &Path) -> (Child, serde_json::Value) {
    let said = File::options().create(true).append(true).open(log).expect("a log");
    serve.args([
        "--listen",
        "127.0.0.1:0",
        "--worker-listen",
        "127.0.0.1:0",
        "--ready-fd",
        "1",
        "--drain",
        "1s",
    ]);
    serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    let mut child = serve.spawn().expect("bulkhead runs");
    let stdout = child.stdout.take().expect("a pipe");
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(read.map(|_| line));
    });
    let line = receive.recv_timeout(PATIENCE).map(|line| line.expect("its standard output"));
    let ready = line.ok().and_then(|line| serde_json::from_str(&line).ok());
    match ready {
        Some(ready) => (child, ready),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the service did not become ready:\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}
