use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_client::v1;
use serde_json::Value;

use super::outputs;
use crate::failure::Failure;
use crate::print;
use crate::settings::Settings;

/// Jobs of one page, at most what the service gives.
const PAGE: i32 = 500;

/// Show a job: its state, attempts, usage and outputs
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The job: its name or ID
    job: String,
    /// Wait until it has ended
    #[arg(long, short)]
    wait: bool,
    /// Save collected files beneath this directory
    #[arg(long, value_name = "DIR")]
    save_to: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// List jobs, newest first
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only jobs in this state; may be repeated
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<v1::State>,
    /// Only jobs with this label; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = super::spec::label)]
    label: Vec<(String, String)>,
    /// At most this many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    limit: usize,
    /// As a JSON array
    #[arg(long)]
    json: bool,
}

/// Cancel jobs: SIGTERM, the grace period, SIGKILL
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// Jobs: names or IDs
    #[arg(required = true)]
    jobs: Vec<String>,
    /// As a JSON array
    #[arg(long)]
    json: bool,
}

/// Delete jobs that have ended, with their output
#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Jobs: names or IDs
    #[arg(required = true)]
    jobs: Vec<String>,
    /// Print the names of what was deleted as a JSON array
    #[arg(long)]
    json: bool,
}

fn state(text: &str) -> Result<v1::State, String> {
    let name = text.to_uppercase().replace('-', "_");
    v1::State::from_str_name(&name)
        .filter(|state| *state != v1::State::Unspecified)
        .ok_or_else(|| format!("{text:?} is no state: use for example running or out-of-memory"))
}

pub(crate) async fn get(args: GetArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    let name = settings.job_name(&args.job)?;
    let job = if args.wait { client.wait_job(&name).await? } else { client.get_job(&name).await? };
    if let Some(directory) = &args.save_to {
        for path in outputs::save(&client, &job, directory).await? {
            if !args.json {
                print::line(&format!("saved {}", path.display()))?;
            }
        }
    }
    if args.json {
        print::json(&crate::json::job(&job))?;
    } else {
        describe(&job)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(job: &v1::Job) -> Result<(), Failure> {
    let mut lines = vec![("job", job.name.clone()), ("state", job.state().as_str_name().to_owned())];
    if !job.reason.is_empty() {
        lines.push(("reason", job.reason.clone()));
    }
    if let Some(spec) = &job.spec {
        lines.push(("command", spec.argv.join(" ")));
    }
    for attempt in &job.attempts {
        let state = attempt.state().as_str_name();
        lines
            .push(("attempt", format!("{}: {state} on {} {}", attempt.number, attempt.node, attempt.reason)));
        if let Some(usage) = &attempt.usage {
            let seconds = |d: f64| format!("{d:.3} s");
            let of = |d: Option<(i64, i32)>| d.map_or(0.0, |(s, n)| s as f64 + f64::from(n) / 1e9);
            let cpu = of(usage.cpu_user.as_ref().map(|d| (d.seconds, d.nanos)))
                + of(usage.cpu_system.as_ref().map(|d| (d.seconds, d.nanos)));
            let wall = of(usage.wall.as_ref().map(|d| (d.seconds, d.nanos)));
            let memory = print::bytes(usage.peak_memory_bytes);
            lines.push(("usage", format!("{} wall, {} cpu, {memory} memory", seconds(wall), seconds(cpu))));
        }
        for file in &attempt.output_files {
            let path = String::from_utf8_lossy(&file.path);
            lines
                .push(("output", format!("{path} ({}) {}", print::bytes(file.size_bytes), file.blob_digest)));
        }
        lines.extend(attempt.output_problems.iter().map(|problem| ("problem", problem.clone())));
    }
    for (name, value) in lines {
        print::line(&format!("{name:8} {}", print::clean(&value)))?;
    }
    Ok(())
}

pub(crate) async fn list(args: ListArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    let mut request = v1::ListJobsRequest {
        parent: settings.parent()?,
        states: args.state.iter().map(|state| i32::from(*state)).collect(),
        labels: args.label.into_iter().collect(),
        ..Default::default()
    };
    let mut jobs: Vec<v1::Job> = Vec::new();
    while jobs.len() < args.limit {
        request.page_size = i32::try_from(args.limit - jobs.len()).unwrap_or(PAGE).min(PAGE);
        let page = client.list_jobs(&request).await?;
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if args.json {
        print::json(&Value::Array(jobs.iter().map(crate::json::job).collect()))?;
    } else {
        let rows: Vec<_> = jobs.iter().map(row).collect();
        print::table(&["JOB", "STATE", "CREATED", "COMMAND"], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(job: &v1::Job) -> Vec<String> {
    /// Characters of a command that a row shows.
    const COMMAND: usize = 60;
    let command = job.spec.as_ref().map(|spec| spec.argv.join(" ")).unwrap_or_default();
    vec![
        job.name.rsplit('/').next().unwrap_or_default().to_owned(),
        job.state().as_str_name().to_owned(),
        job.create_time.as_ref().map(ToString::to_string).unwrap_or_default(),
        command.chars().take(COMMAND).collect(),
    ]
}

pub(crate) async fn cancel(args: CancelArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    let mut cancelled = Vec::new();
    for job in &args.jobs {
        let job = client.cancel_job(&settings.job_name(job)?).await?;
        if args.json {
            cancelled.push(crate::json::job(&job));
        } else {
            print::line(&format!("{} {}", job.name, job.state().as_str_name()))?;
        }
    }
    if args.json {
        print::json(&Value::Array(cancelled))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn delete(args: DeleteArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    let mut deleted = Vec::new();
    let mut result = Ok(ExitCode::SUCCESS);
    for job in &args.jobs {
        let name = settings.job_name(job)?;
        if let Err(error) = client.delete_job(&name).await {
            result = Err(error.into());
            break;
        }
        if args.json {
            deleted.push(Value::String(name));
        } else {
            print::line(&name)?;
        }
    }
    // Also when one of them failed: what is gone is gone.
    if args.json {
        print::json(&Value::Array(deleted))?;
    }
    result
}
