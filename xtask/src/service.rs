//! A service of our own, on a data directory of its own, for the demo, the tests and the benchmarks.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use crate::run;

/// Longest that the service may take to say that it is ready.
const READY: Duration = Duration::from_secs(60);
/// Longest that it may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// What a tenant may do.
pub(crate) const TENANT_SCOPES: &str = "jobs.read,jobs.write,blobs.read,blobs.write,images.read,images.write";

/// Issues a token into a file, so that it shows in no process list.
pub(crate) fn token(data: &Path, tenant: &str, scopes: &str) -> Result<PathBuf> {
    let mut command = Command::new(run::product("bulkhead")?);
    command.arg("token").arg("--data-dir").arg(data).args(["--tenant", tenant, "--scope", scopes]);
    let file = data.join(format!("{tenant}.token"));
    fs::write(&file, run::output(&mut command)?).context("the token can't be written")?;
    Ok(file)
}

/// A data directory that goes when it is dropped, unless it is to be kept.
pub(crate) struct DataDirectory {
    /// Where it is.
    pub(crate) path: PathBuf,
    keep: bool,
}

impl DataDirectory {
    /// Makes an empty one; `what` is for its name.
    pub(crate) fn new(what: &str, keep: bool) -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/bulkhead-{what}.{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self { path, keep })
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        if self.keep {
            println!("kept: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} can't be removed: {error}", self.path.display());
        }
    }
}

/// A running `bulkhead serve`.
pub(crate) struct Service {
    /// The process.
    pub(crate) child: Child,
    /// Where the public API listens.
    pub(crate) address: String,
}

impl Service {
    /// Starts the service on a free port of the loopback and waits until it is ready.
    pub(crate) fn start(data: &Path) -> Result<Self> {
        Self::start_by(Command::new(run::product("bulkhead")?), data)
    }

    /// The same, on a node that has no virtual machines: it finds no guest.
    pub(crate) fn start_without_guest(data: &Path) -> Result<Self> {
        let mut command = Command::new(run::product("bulkhead")?);
        command.env("BULKHEAD_GUEST_DIR", data.join("no-guest"));
        Self::start_by(command, data)
    }

    fn start_by(mut command: Command, data: &Path) -> Result<Self> {
        command.arg("serve").arg("--data-dir").arg(data);
        command.args(["--listen", "127.0.0.1:0", "--worker-listen", "127.0.0.1:0", "--ready-fd", "1"]);
        let log = fs::File::create(data.join("serve.log")).context("the service's log can't be made")?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("bulkhead serve could not be started")?;
        let stdout = child.stdout.take().context("its standard output is a pipe")?;
        match ready_line(stdout) {
            Ok(address) => Ok(Self { child, address }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(data.join("serve.log")).unwrap_or_default();
                Err(error.context(log))
            }
        }
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> Result<()> {
        run::checked(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("bulkhead serve can't be waited for")? {
                if status.success() {
                    return Ok(());
                }
                bail!("bulkhead serve ended with {status}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().context("bulkhead serve can't be killed")?;
        bail!("bulkhead serve did not stop within {} s", STOP.as_secs())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop();
        }
    }
}

/// The line of JSON that the service writes when it is ready tells where it is.
fn ready_line(stdout: std::process::ChildStdout) -> Result<String> {
    let (send, receive) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(read.map(|_| line));
    });
    let line = receive.recv_timeout(READY).context("bulkhead serve did not become ready in time")?;
    let line = line.context("bulkhead serve's standard output can't be read")?;
    let ready: serde_json::Value =
        serde_json::from_str(&line).context("bulkhead serve ended before it was ready")?;
    let endpoint = ready["endpoint"].as_str().context("bulkhead serve did not say where it is")?;
    Ok(endpoint.strip_prefix("http://").unwrap_or(endpoint).to_owned())
}
