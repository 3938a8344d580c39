//! `bulkhead sandbox sentry`: one sandbox without the service. The job's streams are this process's own; its exit status and
//! signals are passed on as a shell would.

mod image;
pub(crate) mod units;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use bulkhead_jail::signals::Waited;
use bulkhead_sandbox::{
    Backend, CollectedOutput, Controller, CreateRequest, Events, Finished, Input, Job, PROGRAM_NAME,
    SentryBackend, SentryOptions, chain,
};
use bulkhead_types::{AttemptState, EnvVar, Limits, SandboxId, Termination};

use image::{Defaults, find_image};

/// Exit status when the sandbox, not the job, failed: as docker's.
const SANDBOX_FAILED: u8 = 125;
/// 128 and the number of the signal, as a shell reports it.
const SIGNAL_BASE: u8 = 128;
/// `PATH` of a job whose image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGINT: i32 = 2;
const SIGHUP: i32 = 1;
const SIGQUIT: i32 = 3;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;

/// Run one sandbox without the service
#[derive(Debug, clap::Args)]
pub(crate) struct SandboxArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// Run a command in a sentry: a user-space kernel of its own
    Sentry(Box<SentryArgs>),
}

/// Run a command in a sentry
#[derive(Debug, clap::Args)]
pub(crate) struct SentryArgs {
    /// Image in the local store, by name or digest
    #[arg(long, value_name = "NAME", conflicts_with = "rootfs")]
    image: Option<String>,
    /// Directory that holds the root file system; it is copied, never written
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Where images are and scratch files go
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = "/var/lib/bulkhead")]
    data_dir: PathBuf,
    /// Memory, hard limit [bytes, or with K, M, G; default 512M]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    memory: Option<u64>,
    /// CPUs [for example 0.5; default 1]
    #[arg(long, value_name = "CPUS", value_parser = units::cpus)]
    cpu: Option<u64>,
    /// Processes and threads at once [default 512]
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    /// Longest run [for example 90s, 5m, 500ms; default 10m]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    wall: Option<u64>,
    /// CPU time [default 10m]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    cpu_time: Option<u64>,
    /// Bytes of writable files [default 1G]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    disk: Option<u64>,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "2s")]
    grace: u64,
    /// Environment variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = units::variable)]
    env: Vec<(String, String)>,
    /// Working directory [default: the image's]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// User, as uid[:gid] or a name of the image [default: the image's]
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Host name that the job sees
    #[arg(long, value_name = "NAME", default_value = "sandbox")]
    hostname: String,
    /// Archive (tar, plain or gzip) to unpack into a directory of the sandbox; may be repeated
    #[arg(long, value_name = "FILE:DIR", value_parser = units::placement)]
    input_archive: Vec<(PathBuf, String)>,
    /// File to place into the sandbox; may be repeated
    #[arg(long, value_name = "FILE:PATH", value_parser = units::placement)]
    input: Vec<(PathBuf, String)>,
    /// Say nothing on standard error, also when a limit was hit
    #[arg(long, short)]
    quiet: bool,
    /// Write the outcome (state, reason, usage, system calls) to this file as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Send even argument-checked memory calls to the sentry
    #[arg(long)]
    mediated_memory: bool,
    /// Log every system call to standard error (slow)
    #[arg(long)]
    log_calls: bool,
    /// Print the table of system calls and exit
    #[arg(long)]
    list_syscalls: bool,
    /// With --list-syscalls: as JSON
    #[arg(long, requires = "list_syscalls")]
    json: bool,
    /// The command and its arguments [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command. Must be called while this process has one thread: signals are taken by a thread of their own.
pub(crate) fn run(args: SandboxArgs) -> ExitCode {
    let Kind::Sentry(args) = args.kind;
    if args.list_syscalls {
        return list_syscalls(args.json);
    }
    let quiet = args.quiet;
    match run_sentry(*args) {
        Ok(code) => code,
        Err(error) => {
            if !quiet {
                complain(&chain(error.as_ref()));
            }
            ExitCode::from(SANDBOX_FAILED)
        }
    }
}

type AnyError = Box<dyn std::error::Error>;

/// Standard error may be closed or full; there is no other place to say so.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "bulkhead: {text}");
}

fn list_syscalls(json: bool) -> ExitCode {
    let program = std::env::current_exe().unwrap_or_default().with_file_name(PROGRAM_NAME);
    let status = Command::new(&program).arg("--list-syscalls").args(json.then_some("--json")).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            complain(&format!("{} {status}", program.display()));
            ExitCode::from(SANDBOX_FAILED)
        }
        Err(error) => {
            complain(&format!("can't start {}: {error}", program.display()));
            ExitCode::from(SANDBOX_FAILED)
        }
    }
}

fn run_sentry(args: SentryArgs) -> Result<ExitCode, AnyError> {
    // First, before any thread is started.
    let signals = Waited::block(&[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])?;
    let limits = limits(&args)?;
    let mut options = SentryOptions::beside_current_executable(&args.data_dir)?;
    options.mediated_memory = args.mediated_memory;
    options.log_calls = args.log_calls;
    let backend = SentryBackend::new(options)?;
    let (files, defaults) = find_image(args.image.as_deref(), args.rootfs.as_deref(), &args.data_dir)?;
    let (quiet, report) = (args.quiet, args.report.clone());
    let job = job(args, files.paths(), defaults)?;
    let sandbox = backend.create(&CreateRequest { id: SandboxId::generate(), limits })?;
    forward(signals, sandbox.controller())?;
    let finished = sandbox.run(job, &mut Quiet)?;
    drop(files);
    if let Some(path) = report {
        let text = serde_json::to_vec_pretty(&json(&finished))?;
        std::fs::write(&path, text).map_err(|e| format!("can't write {}: {e}", path.display()))?;
    }
    if !quiet && worth_telling(&finished) {
        complain(&finished.reason);
    }
    Ok(exit_code(&finished))
}

fn limits(args: &SentryArgs) -> Result<Limits, AnyError> {
    let pick = |limit: bulkhead_types::Limit, value: Option<u64>| {
        limit.resolve(i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX))
    };
    let memory_bytes = pick(Limits::MEMORY, args.memory)?;
    Ok(Limits {
        memory_bytes,
        memory_request_bytes: memory_bytes,
        cpu_milli: pick(Limits::CPU, args.cpu)?,
        processes: pick(Limits::PROCESSES, args.pids)?,
        wall_time_ms: pick(Limits::WALL_TIME, args.wall)?,
        cpu_time_ms: pick(Limits::CPU_TIME, args.cpu_time)?,
        disk_bytes: pick(Limits::DISK, args.disk)?,
        // The streams are this process's own: whoever reads them decides how much is enough.
        output_bytes: Limits::OUTPUT.max,
    })
}

fn job(args: SentryArgs, image: bulkhead_sandbox::ImageFiles, defaults: Defaults) -> Result<Job, AnyError> {
    let argv = defaults.argv(args.command);
    if argv.is_empty() {
        return Err("no command: the image has none, so give one after --".into());
    }
    let mut env = defaults.env;
    if !env.iter().any(|(name, _)| name == "PATH") {
        env.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    for (name, value) in args.env {
        env.retain(|(other, _)| *other != name);
        env.push((name, value));
    }
    let open = |path: &PathBuf| -> Result<Box<dyn io::Read + Send>, AnyError> {
        let file = std::fs::File::open(path).map_err(|e| format!("can't open {}: {e}", path.display()))?;
        Ok(Box::new(file))
    };
    let mut inputs = Vec::new();
    for (path, directory) in args.input_archive {
        inputs.push(Input::Archive { directory, source: open(&path)? });
    }
    for (source, path) in args.input {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&source).map_or(0o644, |m| m.permissions().mode() & 0o7777);
        inputs.push(Input::File { path, mode, source: open(&source)? });
    }
    Ok(Job {
        image,
        argv,
        env: env.into_iter().map(|(name, value)| EnvVar { name, value, secret: false }).collect(),
        working_directory: args.workdir.unwrap_or(defaults.working_directory),
        user: args.user.unwrap_or(defaults.user),
        hostname: args.hostname,
        stdin: io::stdin().as_fd().try_clone_to_owned()?,
        stdout: io::stdout().as_fd().try_clone_to_owned()?,
        stderr: io::stderr().as_fd().try_clone_to_owned()?,
        inputs,
        outputs: Vec::new(),
        grace_period_ms: args.grace,
    })
}

/// Passes signals on to the job. SIGTERM and SIGHUP end it, by force after the grace period; SIGINT is the job's to handle
/// (a shell in it goes on), but a second one within the same run ends it.
fn forward(signals: Waited, controller: Arc<dyn Controller>) -> io::Result<()> {
    std::thread::Builder::new().name("signals".into()).stack_size(64 * 1024).spawn(move || {
        let mut interrupted = false;
        while let Ok(signal) = signals.next() {
            match signal {
                SIGTERM | SIGHUP => controller.cancel(),
                SIGINT if interrupted => controller.cancel(),
                other => {
                    interrupted |= other == SIGINT;
                    controller.signal(other.unsigned_abs() as u8);
                }
            }
        }
    })?;
    Ok(())
}

/// The streams say all that there is to say.
struct Quiet;

impl Events for Quiet {
    fn started(&mut self) {}

    fn output(&mut self, _: CollectedOutput) -> io::Result<Box<dyn Write + '_>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A job's own end needs no comment; a limit, a command that can't be started and a missing system call do.
fn worth_telling(finished: &Finished) -> bool {
    match finished.state {
        AttemptState::Succeeded | AttemptState::Signaled | AttemptState::Cancelled => false,
        AttemptState::Failed => {
            matches!(finished.termination, Some(Termination::Exited(126 | 127)))
                && !finished.reason.starts_with("exited with status")
        }
        _ => true,
    }
}

fn exit_code(finished: &Finished) -> ExitCode {
    ExitCode::from(match finished.termination {
        Some(Termination::Exited(code)) => code,
        Some(Termination::Signaled(signal)) => SIGNAL_BASE.saturating_add(signal),
        None if finished.state == AttemptState::Cancelled => SIGNAL_BASE + SIGTERM as u8,
        // The job was ended together with its sandbox.
        None => SIGNAL_BASE + 9,
    })
}

fn json(finished: &Finished) -> serde_json::Value {
    serde_json::json!({
        "state": finished.state,
        "termination": finished.termination,
        "reason": finished.reason,
        "usage": finished.usage,
        "top_syscalls": finished.top_syscalls,
        "unsupported_syscalls": finished.unsupported_syscalls,
    })
}
