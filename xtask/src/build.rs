//! Building the product.

use std::process::Command;

use anyhow::Result;

use crate::run;

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(run::root());
    command
}

/// Builds every program of the workspace, with the one profile that tests and benches use too.
pub(crate) fn product() -> Result<()> {
    run::checked(cargo().args(["build", "--release", "--workspace", "--bins", "--locked"]))
}
