//! The `bulkhead` command.

mod sandbox;

use std::process::ExitCode;

use clap::Parser;

/// Runs untrusted jobs for many tenants.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Sandbox(sandbox::SandboxArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Sandbox(args) => sandbox::run(args),
    }
}
