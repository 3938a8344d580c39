//! The `bulkhead` command.

mod doctor;
mod image;
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
    Doctor(doctor::DoctorArgs),
    Image(image::ImageArgs),
    Sandbox(sandbox::SandboxArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Doctor(args) => doctor::run(args),
        Command::Image(args) => image::run(args),
        Command::Sandbox(args) => sandbox::run(args),
    }
}
