use std::io::{self, Write};
use std::process::ExitCode;

use bulkhead_client::{Event, v1};

use crate::failure::Failure;
use crate::print;
use crate::settings::Settings;

/// Show a job's output: what is there, or with --follow also what comes
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The job: its name or ID
    job: String,
    /// Go on until the job has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this attempt [default: the last; with --follow or --json every one]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Each event as one JSON object a line, state changes too
    #[arg(long)]
    json: bool,
}

pub(crate) async fn logs(args: LogsArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    let name = settings.job_name(&args.job)?;
    let job = client.get_job(&name).await?;
    let every = args.follow || args.json;
    let only = args.attempt.or_else(|| job.attempts.last().map(|last| last.number).filter(|_| !every));
    let mut watch = client.watch_job(&name);
    if !args.follow {
        watch = watch.stored_only();
    }
    loop {
        match watch.next().await? {
            None => return Ok(ExitCode::SUCCESS),
            Some(Event::State(change)) if args.json => {
                print::line(&crate::json::state_change(&change).to_string())?;
            }
            Some(Event::Output(chunk)) if only.is_none_or(|only| only == chunk.attempt) => {
                if args.json {
                    print::line(&crate::json::output_chunk(&chunk).to_string())?;
                } else if !show(&chunk)? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some(_) => {}
        }
    }
}

/// Writes the bytes as they are; false when the reader has had enough.
fn show(chunk: &v1::OutputChunk) -> Result<bool, Failure> {
    let written = match chunk.stream() {
        v1::Stream::Stderr => io::stderr().write_all(&chunk.data),
        _ => io::stdout().write_all(&chunk.data).and_then(|()| io::stdout().flush()),
    };
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::of("can't write", &error)),
    }
}
