//! Ways to run a program on the benchmark's root: bare, in our sandbox, in a peer's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::run;

/// The name of the benchmark's image in its own store.
pub(super) const IMAGE: &str = "bench";

/// Mounts that a bare program needs, in a mount namespace of its own; then the program, on the same root.
const BARE: &str = r#"mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/tmp" \
    && exec chroot "$0" "$@""#;

/// Where everything lies.
pub(super) struct Place {
    /// The unpacked root file system.
    pub(super) root: PathBuf,
    /// Our data directory, with the same root as an image.
    pub(super) data: PathBuf,
    /// A folder for the peers' own files.
    pub(super) scratch: PathBuf,
}

/// Someone who can run a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Party {
    Native,
    Ours,
    Bubblewrap,
    /// gVisor; a binary of the user's, or Debian's.
    Runsc(Option<PathBuf>),
    Syd,
}

/// What a program is given beyond a job's defaults.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    /// Everyone on one core: the program, its sandbox and what serves it.
    pub(super) one_core: bool,
    /// Both processors, and the memory, disk and time that compilers want: only ours has limits by default.
    pub(super) large: bool,
    /// Milliseconds for each row of the guest program.
    pub(super) row_ms: u64,
    /// Most time for a peer.
    pub(super) at_most: Duration,
}

impl Party {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Native => "native".into(),
            Self::Ours => "bulkhead".into(),
            Self::Bubblewrap => "bwrap".into(),
            Self::Runsc(None) => "runsc (Debian, 2022, ptrace)".into(),
            Self::Runsc(Some(path)) => format!("runsc ({})", path.display()),
            Self::Syd => "syd".into(),
        }
    }

    /// Whether it is someone else's sandbox.
    pub(super) fn is_peer(&self) -> bool {
        !matches!(self, Self::Native | Self::Ours)
    }

    /// The command that runs `program` on the root.
    pub(super) fn command(&self, place: &Place, program: &[&str], how: How) -> Result<Command> {
        let mut argv: Vec<String> = Vec::new();
        if self.is_peer() {
            let seconds = how.at_most.as_secs().to_string();
            argv.extend(["timeout", "--kill-after", "5", &seconds].map(str::to_owned));
        }
        if how.one_core {
            argv.extend(["taskset", "--cpu-list", "0"].map(str::to_owned));
        }
        argv.extend(self.argv(place, program, how)?);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env("BENCH_MS", how.row_ms.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    fn argv(&self, place: &Place, program: &[&str], how: How) -> Result<Vec<String>> {
        let (root, row_ms) = (place.root.display().to_string(), format!("BENCH_MS={}", how.row_ms));
        let bare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BARE, &root];
        let mut argv: Vec<String> = match self {
            Self::Native => bare.map(str::to_owned).to_vec(),
            Self::Syd => {
                let wrapped = ["syd", "-p", "off", "--"].into_iter().chain(bare);
                wrapped.map(str::to_owned).collect()
            }
            Self::Ours => {
                let product = run::product("bulkhead")?.display().to_string();
                let data = place.data.display().to_string();
                let mut argv =
                    vec![product, "sandbox".into(), "sentry".into(), "--image".into(), IMAGE.into()];
                argv.extend(["--data-dir".into(), data, "--env".into(), row_ms]);
                if how.large {
                    let limits = ["--cpu", "2", "--memory", "3G", "--disk", "3G", "--wall", "15m"];
                    argv.extend(limits.map(str::to_owned));
                    argv.extend(["--cpu-time", "30m"].map(str::to_owned));
                }
                argv.push("--".into());
                argv
            }
            Self::Bubblewrap => {
                let options = "--proc /proc --dev /dev --tmpfs /tmp --tmpfs /dev/shm --unshare-all --die-with-parent --";
                let front = ["bwrap", "--bind", &root, "/"].into_iter();
                front.chain(options.split(' ')).map(str::to_owned).collect()
            }
            Self::Runsc(binary) => return oci(binary.as_deref(), place, program, &row_ms),
        };
        argv.extend(program.iter().map(|&word| word.to_owned()));
        Ok(argv)
    }

    /// Runs a program to its end; its standard output.
    pub(super) fn output(&self, place: &Place, program: &[&str], how: How) -> Result<String> {
        let output = self.command(place, program, how)?.output();
        let output = output.with_context(|| format!("{} could not be started", self.name()))?;
        if !output.status.success() {
            if let Self::Runsc(binary) = self {
                remove(binary.as_deref(), place);
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.trim().lines().last().unwrap_or_default().to_owned();
            bail!("{} ended with {}: {last}", self.name(), output.status);
        }
        String::from_utf8(output.stdout).context("the guest program printed no text")
    }
}

/// The name of gVisor's container: one at a time.
fn container() -> String {
    format!("bulkhead-bench-{}", std::process::id())
}

fn runsc(binary: Option<&Path>) -> String {
    binary.map_or("runsc".into(), |path| path.display().to_string())
}

/// Removes what a container that failed may have left.
fn remove(binary: Option<&Path>, place: &Place) {
    let mut command = Command::new(runsc(binary));
    command.arg("--root").arg(place.scratch.join("runsc-state")).args(["delete", "--force", &container()]);
    // There may be nothing to remove.
    let _removed = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn oci(binary: Option<&Path>, place: &Place, program: &[&str], env: &str) -> Result<Vec<String>> {
    let bundle = place.scratch.join("bundle");
    fs::create_dir_all(&bundle).context("a bundle can't be made")?;
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    let tmpfs = |at: &str| json!({ "destination": at, "type": "tmpfs", "source": "tmpfs" });
    let config = json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false, "cwd": "/", "args": program, "noNewPrivileges": true,
            "user": { "uid": 0, "gid": 0 },
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", env],
        },
        "root": { "path": place.root, "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            tmpfs("/dev"), tmpfs("/dev/shm"), tmpfs("/tmp"),
        ],
        "linux": { "namespaces": namespaces },
    });
    fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)
        .context("a bundle's configuration can't be written")?;
    let mut argv = vec![runsc(binary), "--network=none".into(), "--ignore-cgroups".into()];
    if binary.is_none() {
        argv.push("--platform=ptrace".into());
    }
    argv.extend(["--root".into(), place.scratch.join("runsc-state").display().to_string()]);
    argv.extend(["run".into(), "--bundle".into(), bundle.display().to_string()]);
    argv.push(container());
    Ok(argv)
}

/// Whether a peer's program is on the path.
pub(super) fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}
