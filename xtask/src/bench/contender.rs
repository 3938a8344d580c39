//! Ways to run one program: bare, in our sandbox, in a peer's.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, str};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::run;

/// The memory that each contender that can limit it is given, in bytes.
const MEMORY: u64 = 512 << 20;
/// The processes.
const PROCESSES: u64 = 512;

/// Where the contenders find the image.
pub(super) struct Place {
    /// The unpacked root file system, for those that want a directory.
    pub(super) root: std::path::PathBuf,
    /// A folder for their own files.
    pub(super) scratch: std::path::PathBuf,
    /// Our data directory, with the image in its store.
    pub(super) data: std::path::PathBuf,
}

/// Someone who can run a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    Native,
    Ours,
    Bubblewrap,
    Crun,
    Runsc,
}

impl Contender {
    pub(super) const PEERS: [Self; 3] = [Self::Bubblewrap, Self::Crun, Self::Runsc];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ours => "bulkhead",
            Self::Bubblewrap => "bwrap",
            Self::Crun => "crun",
            Self::Runsc => "runsc (Debian, 2022, ptrace)",
        }
    }

    pub(super) fn command(self, place: &Place, program: &[&str], round: usize) -> Result<Command> {
        let mut command;
        match self {
            Self::Native => {
                command = Command::new(program[0]);
                command.args(&program[1..]);
            }
            Self::Ours => {
                command = Command::new(run::product("bulkhead")?);
                command.args(["sandbox", "sentry", "--image", "demo", "--data-dir"]).arg(&place.data);
                command.arg("--").args(program);
            }
            Self::Bubblewrap => {
                command = Command::new("bwrap");
                command.arg("--bind").arg(&place.root).arg("/");
                command.args([
                    "--proc",
                    "/proc",
                    "--dev",
                    "/dev",
                    "--unshare-all",
                    "--die-with-parent",
                    "--",
                ]);
                command.args(program);
            }
            Self::Crun | Self::Runsc => command = self.oci(place, program, round)?,
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Ours, writing what it reached when to a file.
    pub(super) fn reporting(place: &Place, program: &[&str], report: &Path) -> Result<Command> {
        let mut command = Command::new(run::product("bulkhead")?);
        command.args(["sandbox", "sentry", "--image", "demo", "--data-dir"]).arg(&place.data);
        command.arg("--report").arg(report).arg("--").args(program);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// What removes a container that runs, where the contender does not end with its command.
    pub(super) fn removal(self, place: &Place, round: usize) -> Option<Command> {
        let mut command = match self {
            Self::Runsc => {
                let mut command = Command::new("runsc");
                command.arg("--root").arg(place.scratch.join("runsc-state"));
                command
            }
            Self::Crun => Command::new("crun"),
            _ => return None,
        };
        command.args(["delete", "--force"]).arg(container(round));
        Some(command)
    }

    fn oci(self, place: &Place, program: &[&str], round: usize) -> Result<Command> {
        let bundle = place.scratch.join(self.name().split(' ').next().unwrap_or_default());
        fs::create_dir_all(&bundle).context("a bundle can't be made")?;
        fs::write(bundle.join("config.json"), serde_json::to_vec(&bundle_config(&place.root, program))?)
            .context("a bundle's configuration can't be written")?;
        let mut command = Command::new(if self == Self::Crun { "crun" } else { "runsc" });
        if self == Self::Runsc {
            command.args(["--platform=ptrace", "--network=none", "--ignore-cgroups"]);
            command.arg("--root").arg(place.scratch.join("runsc-state"));
        }
        command.args(["run", "--bundle"]).arg(&bundle);
        command.arg(container(round));
        Ok(command)
    }

    /// Runs the program once and says how long it took, in milliseconds, from exec to exit.
    pub(super) fn time(self, place: &Place, program: &[&str], round: usize, expect: &str) -> Result<f64> {
        let mut command = self.command(place, program, round)?;
        let begin = Instant::now();
        let output = command.output().with_context(|| format!("{} could not be started", self.name()))?;
        let time = begin.elapsed().as_secs_f64() * 1000.0;
        if !output.status.success() || str::from_utf8(&output.stdout).is_ok_and(|out| out.trim() != expect) {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", self.name(), output.status, stderr.trim());
        }
        Ok(time)
    }
}

/// A container's name, which no other run uses.
fn container(round: usize) -> String {
    format!("bulkhead-bench-{}-{round}", std::process::id())
}

fn bundle_config(root: &Path, program: &[&str]) -> Value {
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false, "cwd": "/", "args": program, "noNewPrivileges": true,
            "user": { "uid": 0, "gid": 0 },
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "root": { "path": root, "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": { "memory": { "limit": MEMORY }, "pids": { "limit": PROCESSES } },
        },
    })
}
