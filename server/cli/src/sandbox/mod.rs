//! `bulkhead sandbox sentry|microvm`: one sandbox without the service. The job's streams are this process's own; its exit status and
//! signals are passed on as a shell would.

mod image;
mod job;
mod microvm;
pub(crate) mod units;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use bulkhead_jail::signals::Waited;
use bulkhead_sandbox::{
    Backend, CollectedOutput, Controller, CreateRequest, Events, Finished, MachineStatistics, Milestone,
    PROGRAM_NAME, SentryBackend, SentryOptions, chain, monotonic_ns,
};
use bulkhead_types::{AttemptState, SandboxId, Termination};

use image::find_image;
use job::{JobArgs, job, limits};

/// Exit status when the sandbox, not the job, failed: as docker's.
const SANDBOX_FAILED: u8 = 125;
/// 128 and the number of the signal, as a shell reports it.
const SIGNAL_BASE: u8 = 128;
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
    /// Run a command in a virtual machine: a Linux kernel of its own
    Microvm(Box<microvm::MicrovmArgs>),
}

/// Run a command in a sentry
#[derive(Debug, clap::Args)]
pub(crate) struct SentryArgs {
    #[command(flatten)]
    job: JobArgs,
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
}

/// Runs the command. Must be called while this process has one thread: signals are taken by a thread of their own.
pub(crate) fn run(args: SandboxArgs) -> ExitCode {
    let (quiet, ran) = match args.kind {
        Kind::Sentry(args) if args.list_syscalls => return list_syscalls(args.json),
        Kind::Sentry(args) => (args.job.quiet, run_sentry(*args)),
        Kind::Microvm(args) => (args.job.quiet, microvm::run(*args)),
    };
    ran.unwrap_or_else(|error| {
        if !quiet {
            complain(&chain(error.as_ref()));
        }
        ExitCode::from(SANDBOX_FAILED)
    })
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
    run_in(args.job, false, |data_dir| {
        let mut options = SentryOptions::beside_current_executable(data_dir)?;
        options.mediated_memory = args.mediated_memory;
        options.log_calls = args.log_calls;
        Ok(Box::new(SentryBackend::new(options)?))
    })
}

/// Runs the job in a sandbox of the backend that `make` makes for a data directory. `statistics`: say what a machine counted.
fn run_in(
    args: JobArgs,
    statistics: bool,
    make: impl FnOnce(&Path) -> Result<Box<dyn Backend>, AnyError>,
) -> Result<ExitCode, AnyError> {
    let begun_ns = monotonic_ns();
    // First, before any thread is started.
    let signals = Waited::block(&[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])?;
    let limits = limits(&args)?;
    let backend = make(&args.data_dir)?;
    let (sandbox, image) = std::thread::scope(|scope| {
        // A sandbox is made of nothing that an image says, so the image is looked up meanwhile.
        let image = scope.spawn(|| {
            find_image(args.image.as_deref(), args.rootfs.as_deref(), &args.data_dir)
                .map_err(|e| chain(e.as_ref()))
        });
        let sandbox = backend.create(&CreateRequest { id: SandboxId::generate(), limits });
        (sandbox, image.join())
    });
    let (files, defaults) = image.map_err(|_| "looking the image up failed")??;
    let sandbox = sandbox?;
    let (quiet, report) = (args.quiet, args.report.clone());
    let job = job(args, files.paths(), defaults)?;
    forward(signals, sandbox.controller())?;
    let mut told = Told::default();
    let finished = sandbox.run(job, &mut told)?;
    drop(files);
    if let Some(path) = report {
        let text = serde_json::to_vec_pretty(&json(&finished, begun_ns, &told))?;
        std::fs::write(&path, text).map_err(|e| format!("can't write {}: {e}", path.display()))?;
    }
    if let Some(machine) = told.machine.filter(|_| statistics) {
        for line in microvm::lines(&machine) {
            complain(&line);
        }
    }
    if !quiet && worth_telling(&finished) {
        complain(&finished.reason);
    }
    Ok(exit_code(&finished))
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

/// The streams say all that there is to say of a job; what was reached when goes into the report.
#[derive(Default)]
struct Told {
    machine: Option<MachineStatistics>,
    milestones: Vec<(Milestone, u64)>,
}

impl Events for Told {
    fn milestone(&mut self, what: Milestone, at_ns: u64) {
        self.milestones.push((what, at_ns));
    }

    fn started(&mut self) {}

    fn machine_statistics(&mut self, statistics: MachineStatistics) {
        self.machine = Some(statistics);
    }

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

fn json(finished: &Finished, begun_ns: u64, told: &Told) -> serde_json::Value {
    let reached =
        told.milestones.iter().map(|(what, at_ns)| serde_json::json!({ "reached": what, "at_ns": at_ns }));
    serde_json::json!({
        // By the clock CLOCK_MONOTONIC, which all processes of a machine share.
        "begun_ns": begun_ns,
        "milestones": reached.collect::<Vec<_>>(),
        "state": finished.state,
        "termination": finished.termination,
        "reason": finished.reason,
        "usage": finished.usage,
        "top_syscalls": finished.top_syscalls,
        "unsupported_syscalls": finished.unsupported_syscalls,
        "machine": told.machine,
    })
}
