//! The two sides that a program runs on: the host's kernel, and the sentry.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::program::Program;
use crate::run;

/// What runs the program on both sides.
const DRIVER: &str = "xtask/corpus/driver.bash";
/// What makes the native side's root.
const NATIVE: &str = "xtask/corpus/native.sh";
/// How often we look whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// What a sandbox may write.
const DISK: &str = "4G";
/// Processes and threads of a sandbox.
const PIDS: &str = "512";

/// What a run came to.
pub(super) struct Ran {
    pub(super) status: Option<ExitStatus>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) took: Duration,
}

/// A folder of a run, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/bulkhead-corpus.{}.{name}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} can't be removed: {error}", self.0.display());
        }
    }
}

/// Runs it on the host's kernel.
pub(super) fn native(program: &Program) -> Result<Ran> {
    let root = program.image.unpacked()?;
    let scratch = Scratch::new(&program.name)?;
    fs::copy(run::root().join(DRIVER), scratch.0.join("driver")).context("the driver can't be copied")?;
    fs::copy(&program.path, scratch.0.join("program")).context("the program can't be copied")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child=KILL"]);
    command.arg("sh").arg(run::root().join(NATIVE)).arg(root).arg(&scratch.0).args(&program.files);
    finish(&mut command, program.timeout)
}

/// The command that runs it in a sentry.
pub(super) fn sentry(program: &Program) -> Result<Command> {
    let stored = program.image.stored()?;
    let place = |file: &Path, path: &str| format!("{}:{path}", file.display());
    let mut command = Command::new(run::product("bulkhead")?);
    command.args(["sandbox", "sentry", "--quiet", "--cpu", "2", "--pids", PIDS, "--disk", DISK, "--memory"]);
    command.arg(&program.memory).arg("--data-dir").arg(&stored.data).args(["--image", &stored.name]);
    command.arg("--input").arg(place(&run::root().join(DRIVER), "/corpus/driver"));
    command.arg("--input").arg(place(&program.path, "/corpus/program"));
    command.args(["--workdir", "/", "--", "/bin/bash", "/corpus/driver"]).args(&program.files);
    Ok(command)
}

/// The same with `bulkhead`'s own options before the command.
pub(super) fn sentry_with(program: &Program, options: &[&str]) -> Result<Command> {
    let plain = sentry(program)?;
    let mut command = Command::new(plain.get_program());
    let arguments: Vec<_> = plain.get_args().collect();
    let (kind, rest) = arguments.split_at(2);
    command.args(kind).args(options).args(rest);
    Ok(command)
}

/// Runs a command to its end, or kills it at the time limit: then it has no status.
pub(super) fn finish(command: &mut Command, timeout: Duration) -> Result<Ran> {
    let begin = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let shown = format!("{command:?}");
    let mut child = command.spawn().with_context(|| format!("{shown} could not be started"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait().context("it can't be waited for")? {
            break Some(status);
        }
        if begin.elapsed() > timeout {
            child.kill().context("it can't be killed")?;
            child.wait().context("it can't be waited for")?;
            break None;
        }
        thread::sleep(POLL);
    };
    let took = begin.elapsed();
    let read = |reader: thread::JoinHandle<Vec<u8>>| reader.join().ok().context("a reader panicked");
    Ok(Ran { status, stdout: read(stdout)?, stderr: read(stderr)?, took })
}

fn collect<R: Read + Send + 'static>(stream: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before an error is compared all the same.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}
