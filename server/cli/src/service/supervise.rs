use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// The first wait before a process that died is started again; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A process that lived this long had started well: the waits begin anew.
const LIVED: Duration = Duration::from_secs(30);
/// How long the first start may take: recovery of the database, migrations, a registration.
const READY: Duration = Duration::from_secs(120);

/// A process of this same program that is to run always.
pub(super) struct Supervised {
    name: &'static str,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    running: Running,
}

/// One life of it.
struct Running {
    child: Child,
    /// The process lives only as long as this end is held; the kernel drops it when we die, however we do.
    _life: Option<ChildStdin>,
    since: Instant,
}

impl Supervised {
    /// Starts the process and waits until it says that it is ready; returns what it said.
    ///
    /// # Errors
    /// When it ends before that, or takes too long.
    pub(super) async fn start(
        name: &'static str,
        arguments: Vec<OsString>,
        environment: Vec<(&'static str, String)>,
    ) -> Result<(Self, String), Failure> {
        let mut running = Running::spawn(name, &arguments, &environment)?;
        let said = tokio::time::timeout(READY, running.ready()).await;
        match said {
            Ok(Some(said)) => Ok((Self { name, arguments, environment, running }, said)),
            Ok(None) => {
                let status = running.child.wait().await;
                let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
                Err(Failure::new(format!("the {name} process ended before it was ready ({status})")))
            }
            Err(_) => {
                // Its own end follows with the pipe; this is only faster.
                let _ = running.child.start_kill();
                Err(Failure::new(format!("the {name} process was not ready within {} s", READY.as_secs())))
            }
        }
    }

    /// Its process id now.
    pub(super) fn pid(&self) -> Option<u32> {
        self.running.child.id()
    }

    /// Keeps it running until `stop`; then SIGTERM, and after `patience` SIGKILL.
    pub(super) async fn keep(
        mut self,
        stop: CancellationToken,
        patience: Duration,
        hurry: CancellationToken,
    ) {
        let mut wait = FIRST_WAIT;
        loop {
            let ended = tokio::select! {
                ended = self.running.child.wait() => ended,
                () = stop.cancelled() => return self.end(patience, &hurry).await,
            };
            self.tell(ended);
            if self.running.since.elapsed() > LIVED {
                wait = FIRST_WAIT;
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => return,
                }
                wait = (wait * 2).min(LONGEST_WAIT);
                match Running::spawn(self.name, &self.arguments, &self.environment) {
                    Ok(running) => {
                        tracing::info!(process = self.name, pid = running.child.id(), "started again");
                        self.running = running;
                        break;
                    }
                    Err(failure) => tracing::error!(process = self.name, ?failure, "can't be started again"),
                }
            }
        }
    }

    fn tell(&self, ended: std::io::Result<ExitStatus>) {
        match ended {
            Ok(status) => tracing::warn!(process = self.name, %status, "ended"),
            Err(error) => tracing::error!(process = self.name, %error, "can't be waited for"),
        }
    }

    async fn end(&mut self, patience: Duration, hurry: &CancellationToken) {
        let pid = self.running.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // It may have ended just now; it is our child, so its number is no other process's.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let in_order = tokio::select! {
            ended = tokio::time::timeout(patience, self.running.child.wait()) => ended.is_ok(),
            () = hurry.cancelled() => false,
        };
        if !in_order {
            tracing::warn!(process = self.name, "did not end in time and is killed");
            let _ = self.running.child.kill().await;
        }
    }
}

impl Running {
    fn spawn(
        name: &str,
        arguments: &[OsString],
        environment: &[(&'static str, String)],
    ) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::of(format!("can't start the {name} process"), &e);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .arg(name)
            .args(arguments)
            .arg("--supervised")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C of the terminal is for the supervisor, which stops its processes in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        Ok(Self { _life: child.stdin.take(), child, since: Instant::now() })
    }

    /// The rest of its line `ready ...`; none when it ends without one.
    async fn ready(&mut self) -> Option<String> {
        let mut lines = BufReader::new(self.child.stdout.take()?).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(said) = line.strip_prefix("ready ") {
                return Some(said.to_owned());
            }
        }
        None
    }
}
