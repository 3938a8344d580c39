use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_client::{Client, Event, Watch, v1};
use tokio::signal::unix::{SignalKind, signal};

use super::outputs;
use super::spec::SpecArgs;
use crate::failure::{Failure, RUN_FAILED};
use crate::print;
use crate::settings::Settings;

/// 128 and the number of the signal, as a shell reports it.
const SIGNAL_BASE: i32 = 128;
/// A time limit, as timeout(1) reports it.
const TIMED_OUT: u8 = 124;
/// Cancelled: as a shell reports SIGINT.
const CANCELLED: u8 = 130;

/// Run a job: its streams are this command's, its exit status too
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: the job's own; 128+N if signal N ended it; 124 if a time limit did; 130 if it was \
cancelled; 125 if it could not be run. Ctrl-C cancels the job, a second one leaves it."
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    spec: SpecArgs,
    /// Print the job's name and do not wait
    #[arg(long, short)]
    detach: bool,
    /// Save collected files beneath this directory
    #[arg(long, value_name = "DIR")]
    save_to: Option<PathBuf>,
    /// Say nothing but what the job says
    #[arg(long, short)]
    quiet: bool,
    /// Print the job as JSON on standard output when it has ended, and what it wrote on standard error
    #[arg(long)]
    json: bool,
}

/// Submit a job and print its name
#[derive(Debug, clap::Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    spec: SpecArgs,
    /// A UUID: the same submission again is the same job
    #[arg(long, value_name = "UUID")]
    request_id: Option<uuid::Uuid>,
    /// Print the whole job as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn submit(args: SubmitArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let (client, parent) = (settings.client()?, settings.parent()?);
    let spec = args.spec.into_spec(&client, &parent).await?;
    let id = args.request_id.unwrap_or_else(uuid::Uuid::new_v4).to_string();
    let job = client.create_job_with_id(&parent, spec, &id).await?;
    if args.json {
        print::json(&crate::json::job(&job))?;
    } else {
        print::line(&job.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn run(args: RunArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let (client, parent) = (settings.client()?, settings.parent()?);
    if args.save_to.is_some() && !args.spec.collects() {
        return Err(Failure::new(
            "--save-to saves what --output and --output-dir collect, and there is neither",
        ));
    }
    let spec = args.spec.into_spec(&client, &parent).await?;
    let job = client.create_job(&parent, spec).await?;
    if args.detach {
        print::line(&job.name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut streams = Streams { all_to_stderr: args.json, attempt: 0, quiet: args.quiet };
    if let Some(code) = follow(&client, &job.name, &mut streams).await? {
        return Ok(code);
    }
    let job = client.wait_job(&job.name).await?;
    let saved = match &args.save_to {
        Some(directory) => outputs::save(&client, &job, directory).await?,
        None => Vec::new(),
    };
    if !args.quiet {
        report(&job, &saved);
    }
    if args.json {
        print::json(&crate::json::job(&job))?;
    }
    Ok(exit_code(&job))
}

/// What wakes the loop below.
enum Woke {
    Event(Option<Event>),
    Signal,
}

/// Shows the job until it has ended. Ctrl-C or SIGTERM cancels it; the second one leaves, with an exit code.
async fn follow(client: &Client, name: &str, streams: &mut Streams) -> Result<Option<ExitCode>, Failure> {
    let mut watch: Watch = client.watch_job(name);
    let listen = |kind| signal(kind).map_err(|e| Failure::of("can't wait for signals", &e));
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminations = listen(SignalKind::terminate())?;
    let mut asked = false;
    loop {
        let woke = tokio::select! {
            event = watch.next() => Woke::Event(event?),
            _ = interrupts.recv() => Woke::Signal,
            _ = terminations.recv() => Woke::Signal,
        };
        match woke {
            Woke::Event(Some(event)) => streams.show(event)?,
            Woke::Event(None) => return Ok(None),
            Woke::Signal if asked => return Ok(Some(ExitCode::from(CANCELLED))),
            Woke::Signal => {
                asked = true;
                client.cancel_job(name).await?;
            }
        }
    }
}

/// Where the job's output goes.
struct Streams {
    all_to_stderr: bool,
    attempt: u32,
    quiet: bool,
}

impl Streams {
    fn show(&mut self, event: Event) -> Result<(), Failure> {
        let Event::Output(chunk) = event else { return Ok(()) };
        if chunk.attempt != self.attempt {
            if self.attempt != 0 && !self.quiet {
                tell(&format!("attempt {}: the job starts again", chunk.attempt));
            }
            self.attempt = chunk.attempt;
        }
        let to_stderr = self.all_to_stderr || chunk.stream() == v1::Stream::Stderr;
        let written = match to_stderr {
            true => io::stderr().write_all(&chunk.data),
            false => io::stdout().write_all(&chunk.data).and_then(|()| io::stdout().flush()),
        };
        match written {
            // A reader that has had enough does not end the job.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::of("can't write", &error))
            }
            _ => Ok(()),
        }
    }
}

fn tell(text: &str) {
    // Standard error may be closed; then there is nobody to tell.
    let _ = writeln!(io::stderr(), "bulkhead: {}", print::clean(text));
}

/// What a person should know beside the job's own output: nothing, when it exited by itself.
fn report(job: &v1::Job, saved: &[PathBuf]) {
    if !matches!(job.state(), v1::State::Succeeded | v1::State::Failed) || exited(job).is_none() {
        tell(&format!("{}: {}", job.state().as_str_name(), job.reason));
    } else if matches!(exited(job), Some(126 | 127)) {
        tell(&job.reason);
    }
    if let Some(attempt) = job.attempts.last() {
        for totals in
            [&attempt.stdout, &attempt.stderr].into_iter().flatten().filter(|totals| totals.truncated)
        {
            tell(&format!("{} of {} bytes of output were kept", totals.kept_bytes, totals.total_bytes));
        }
        for problem in &attempt.output_problems {
            tell(problem);
        }
    }
    for path in saved {
        tell(&format!("saved {}", path.display()));
    }
}

fn exited(job: &v1::Job) -> Option<i32> {
    job.attempts.last()?.exit_code
}

fn exit_code(job: &v1::Job) -> ExitCode {
    let last = job.attempts.last();
    let by_itself = last.and_then(|attempt| attempt.exit_code).filter(|code| *code != 0);
    let by_signal = last.and_then(|attempt| attempt.signal).map(|signal| SIGNAL_BASE + signal);
    let code = match job.state() {
        v1::State::Succeeded => return ExitCode::SUCCESS,
        v1::State::TimedOut => return ExitCode::from(TIMED_OUT),
        v1::State::Cancelled => return ExitCode::from(CANCELLED),
        _ => by_itself.or(by_signal),
    };
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(RUN_FAILED))
}
