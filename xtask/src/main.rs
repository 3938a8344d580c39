//! The project's own commands: setup, image, demo, test, corpus, fuzz, bench. Run as `cargo xtask COMMAND`.

mod bench;
mod build;
mod corpus;
mod demo;
mod fuzz;
mod guest;
mod image;
mod packages;
mod python;
mod rig;
mod run;
mod service;
mod setup;
mod tests;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs the Debian packages that are missing and builds the product into target/release.
    Setup,
    /// Builds a Debian image (`demo`, or the one that is named) and imports it into the local image store.
    Image(image::Arguments),
    /// Builds the guest's kernel of microVMs (1.5 to 3 minutes, once) and prints where it is.
    GuestKernel(guest::Arguments),
    /// Starts the service, runs real jobs for two tenants and compares what happened with what must happen.
    Demo(demo::Arguments),
    /// Runs all tests.
    Test(tests::Arguments),
    /// Runs real programs on the host's kernel and in a sentry, and compares.
    Corpus(corpus::Arguments),
    /// Makes random system calls in a sentry, by many processes, and looks for panics, hangs and leaks.
    Fuzz(fuzz::Arguments),
    /// Measures the product beside its peers.
    Bench(bench::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Image(arguments) => image::run(&arguments),
        Command::GuestKernel(arguments) => guest::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => tests::run(&arguments),
        Command::Corpus(arguments) => corpus::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}
