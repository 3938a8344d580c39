//! `cargo xtask bench AREA`: what the product costs, beside its peers, in one run on one machine.

mod contender;
mod row;
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
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Area {
    /// A sandbox from nothing to its end, and a job from submit to result.
    Start,
}

/// Runs a benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::packages()?;
    build::product()?;
    let rows = match arguments.area {
        Area::Start => {
            let mut rows = start::measure(arguments.runs)?;
            let cold = rows.iter().find(|row| row.name == start::COLD).and_then(|row| row.ours);
            rows.extend(service::measure(arguments.runs, cold)?);
            rows
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        row::print(&rows);
    }
    Ok(())
}
