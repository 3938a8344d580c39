//! `cargo xtask demo`: the whole service on this machine, and real jobs for two tenants.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use crate::{build, image, python, run, setup};

/// Longest that the service may take to say that it is ready.
const READY: Duration = Duration::from_secs(60);
/// Longest that it may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// What a tenant of the demo may do.
const TENANT_SCOPES: &str = "jobs.read,jobs.write,blobs.read,blobs.write,images.read,images.write";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Keep the service's data directory and print where it is.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::packages()?;
    build::product()?;
    let begin = Instant::now();
    let python = python::environment()?;
    let data = DataDirectory::new(arguments.keep)?;
    image::import(&data.path)?;
    println!("demo: image and client ready after {:.1} s", begin.elapsed().as_secs_f64());
    let mut service = Service::start(&data.path)?;
    println!("demo: service ready at {} after {:.1} s", service.address, begin.elapsed().as_secs_f64());
    let result = drive(&python, &service, &data.path);
    service.stop()?;
    println!("demo: {:.1} s after the build", begin.elapsed().as_secs_f64());
    result?;
    run::checked(Command::new(run::product("bulkhead")?).args(["doctor", "--leftovers"]))
}

fn drive(python: &Path, service: &Service, data: &Path) -> Result<()> {
    let mut demo = Command::new(python);
    demo.arg(run::root().join("xtask/demo/demo.py"));
    demo.args(["--server", &service.address, "--serve-pid", &service.child.id().to_string()]);
    demo.arg("--operator").arg(token(data, "operator", "operator")?);
    for tenant in ["acme", "globex"] {
        let file = token(data, tenant, TENANT_SCOPES)?;
        demo.arg("--tenant").arg(format!("{tenant}={}", file.display()));
    }
    run::checked(&mut demo)
}

/// Issues a token into a file, so that it shows in no process list.
fn token(data: &Path, tenant: &str, scopes: &str) -> Result<PathBuf> {
    let mut command = Command::new(run::product("bulkhead")?);
    command.arg("token").arg("--data-dir").arg(data).args(["--tenant", tenant, "--scope", scopes]);
    let file = data.join(format!("demo-{tenant}.token"));
    fs::write(&file, run::output(&mut command)?).context("the token can't be written")?;
    Ok(file)
}

struct DataDirectory {
    path: PathBuf,
    keep: bool,
}

impl DataDirectory {
    fn new(keep: bool) -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/bulkhead-demo.{}", std::process::id()));
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
    child: Child,
    /// Where the public API listens.
    pub(crate) address: String,
}

impl Service {
    /// Starts the service on a free port of the loopback and waits until it is ready.
    pub(crate) fn start(data: &Path) -> Result<Self> {
        let mut command = Command::new(run::product("bulkhead")?);
        command.arg("serve").arg("--data-dir").arg(data).args(["--listen", "127.0.0.1:0"]);
        command.args(["--log-file"]).arg(data.join("serve.log"));
        let mut child =
            command.stdout(Stdio::piped()).spawn().context("bulkhead serve could not be started")?;
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

/// The first line on standard output is `ready ADDRESS`.
fn ready_line(stdout: std::process::ChildStdout) -> Result<String> {
    let (send, receive) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(read.map(|_| line));
    });
    let line = receive.recv_timeout(READY).context("bulkhead serve did not become ready in time")?;
    let line = line.context("bulkhead serve's standard output can't be read")?;
    let address = line.strip_prefix("ready ").context("bulkhead serve ended before it was ready")?;
    Ok(address.trim().to_owned())
}
