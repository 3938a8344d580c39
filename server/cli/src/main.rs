//! The `bulkhead` command: the service, the worker, the client, and one sandbox without any of them.

mod content;
mod doctor;
mod failure;
mod jobs;
mod json;
mod operators;
mod print;
mod progress;
mod sandbox;
mod service;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use failure::{FAILED, Failure, RUN_FAILED};
use settings::Settings;

/// Runs untrusted jobs for many tenants
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    after_help = "Exit status: 0 done; 1 refused or failed, said why on standard \
error; 2 wrong usage. `run` and `sandbox` pass on the job's own, and exit 125 when they failed themselves."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command of a client.
#[derive(Debug, clap::Args)]
struct Remote<A: clap::Args> {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    args: A,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(Box<service::ServeArgs>),
    Control(Box<service::ControlArgs>),
    Worker(Box<service::WorkerArgs>),
    Run(Box<Remote<jobs::RunArgs>>),
    Submit(Box<Remote<jobs::SubmitArgs>>),
    Get(Remote<jobs::GetArgs>),
    Logs(Remote<jobs::LogsArgs>),
    List(Remote<jobs::ListArgs>),
    Cancel(Remote<jobs::CancelArgs>),
    Delete(Remote<jobs::DeleteArgs>),
    Image(Remote<content::ImageArgs>),
    Blob(Remote<content::BlobArgs>),
    Node(Remote<operators::NodeArgs>),
    Tenant(Remote<operators::TenantArgs>),
    Token(operators::TokenArgs),
    Sandbox(sandbox::SandboxArgs),
    Doctor(doctor::DoctorArgs),
    /// Print the version of this program, and of the service if one is given
    Version(Remote<VersionArgs>),
}

/// Versions
#[derive(Debug, clap::Args)]
struct VersionArgs {
    /// As JSON: client, and with a service also server and api
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let failed = if matches!(command, Command::Run(_)) { RUN_FAILED } else { FAILED };
    let result = match command {
        // Before any thread is started: signals are taken by a thread of its own.
        Command::Sandbox(args) => return sandbox::run(args),
        Command::Doctor(args) => return doctor::run(args),
        Command::Token(args) => operators::token(args),
        Command::Serve(args) => in_service(service::serve(*args)),
        Command::Control(args) => in_service(service::control(*args)),
        Command::Worker(args) => in_service(service::worker(*args)),
        command => in_runtime(client(command)),
    };
    result.unwrap_or_else(|failure| failure.report(failed))
}

async fn client(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(remote) => jobs::run(remote.args, &remote.settings).await,
        Command::Submit(remote) => jobs::submit(remote.args, &remote.settings).await,
        Command::Get(remote) => jobs::get(remote.args, &remote.settings).await,
        Command::Logs(remote) => jobs::logs(remote.args, &remote.settings).await,
        Command::List(remote) => jobs::list(remote.args, &remote.settings).await,
        Command::Cancel(remote) => jobs::cancel(remote.args, &remote.settings).await,
        Command::Delete(remote) => jobs::delete(remote.args, &remote.settings).await,
        Command::Image(remote) => content::image(remote.args, &remote.settings).await,
        Command::Blob(remote) => content::blob(remote.args, &remote.settings).await,
        Command::Node(remote) => operators::node(remote.args, &remote.settings).await,
        Command::Tenant(remote) => operators::tenant(remote.args, &remote.settings).await,
        Command::Version(remote) => version(&remote.args, &remote.settings).await,
        Command::Serve(_)
        | Command::Control(_)
        | Command::Worker(_)
        | Command::Token(_)
        | Command::Sandbox(_)
        | Command::Doctor(_) => Err(Failure::new("this is no command of a client")),
    }
}

async fn version(args: &VersionArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = env!("CARGO_PKG_VERSION");
    let server = match settings.names_service() {
        true => Some(settings.client()?.version().await?),
        false => None,
    };
    if args.json {
        let mut versions = serde_json::json!({ "client": client });
        if let Some(server) = &server {
            versions["server"] = server.version.clone().into();
            versions["api"] = server.api.clone().into();
        }
        print::json(&versions)?;
    } else {
        print::line(&format!("bulkhead {client}"))?;
        if let Some(server) = server {
            print::line(&format!("service {} ({})", server.version, server.api))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn in_service(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    bulkhead_telemetry::init(bulkhead_telemetry::LogFormat::Text, "info")
        .map_err(|e| Failure::of("logging can't be set up", &e))?;
    in_runtime(work)
}

fn in_runtime(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    // One provider for the process; nothing else has installed one yet.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::of("the runtime can't be started", &e))?;
    let result = runtime.block_on(work);
    // A thread that waits for standard input must not keep the process.
    runtime.shutdown_background();
    result
}
