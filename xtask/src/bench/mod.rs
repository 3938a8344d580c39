//! `cargo xtask bench AREA`: what the product costs, beside its peers, in one run on one machine.

mod contender;
mod idle;
mod microvm;
mod microvm_peer;
mod phases;
mod row;
mod sentry;
mod service;
mod start;

use anyhow::Result;

use crate::{build, setup};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure.
    #[arg(value_enum)]
    area: Area,
    /// Print one JSON array of rows and nothing else on standard output.
    #[arg(long)]
    json: bool,
    /// Runs of each contender, interleaved.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// With `sentry`: interleaved rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    wanted: sentry::Wanted,
    /// Measure the programs that lie in the target folder, without building them first.
    #[arg(long)]
    as_built: bool,
    /// With `sentry`: another binary of a peer, as runsc=PATH.
    #[arg(long)]
    peer: Vec<String>,
}

/// Most boots of a machine: on a software KVM each takes seconds, and their instructions hardly differ.
const MACHINES: usize = 5;

#[derive(Clone, Copy, clap::ValueEnum)]
enum Area {
    /// A sandbox from nothing to its end, and a job from submit to result.
    Start,
    /// The sentry: single operations and whole programs in a running sandbox.
    Sentry,
    /// Virtual machines: boot, exits, the guest's own speed, the VMM's memory.
    Microvm,
}

/// Runs a benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::packages()?;
    if !arguments.as_built {
        build::product()?;
    }
    let rows = match arguments.area {
        Area::Start => {
            let mut rows = start::measure(arguments.runs)?;
            let cold = rows.iter().find(|row| row.name == start::COLD).and_then(|row| row.ours);
            rows.extend(service::measure(arguments.runs, cold)?);
            rows
        }
        Area::Microvm => microvm::measure(arguments.runs.min(MACHINES))?,
        Area::Sentry => {
            sentry::measure(&arguments.wanted, arguments.rounds, arguments.runs, &arguments.peer)?
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        row::print(&rows);
    }
    Ok(())
}
