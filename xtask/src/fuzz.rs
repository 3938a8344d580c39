//! `cargo xtask fuzz`: the random calls of the tests, as many as one likes.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{build, run, setup};

/// Calls of one sandbox: the next one begins with another seed, so that a run goes through many beginnings.
const CALLS_OF_A_SANDBOX: u64 = 500_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// System calls altogether
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Seed of the first sandbox; each further one has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs sandboxes one after the other until all calls are made; stops at the first that fails, with its seed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !run::is_root()? {
        bail!("a sandbox needs root: run this as root");
    }
    setup::packages()?;
    let begin = Instant::now();
    let (mut seed, mut left) = (arguments.seed, arguments.calls);
    while left > 0 {
        let calls = left.min(CALLS_OF_A_SANDBOX);
        let mut test = build::cargo();
        test.args(["test", "--quiet", "--release", "--locked", "-p", "bulkhead-sentry", "--test", "fuzz"]);
        test.env("BULKHEAD_FUZZ_CALLS", calls.to_string()).env("BULKHEAD_FUZZ_SEED", seed.to_string());
        if run::checked(&mut test).is_err() {
            bail!("seed {seed} failed: again with `cargo xtask fuzz --seed {seed} --calls {calls}`");
        }
        left -= calls;
        let (made, seconds) = (arguments.calls - left, begin.elapsed().as_secs_f64());
        println!("fuzz: {made} calls in {seconds:.0} s, no panic, hang or leak");
        seed += 1;
    }
    Ok(())
}
