//! Running other programs, and where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The top of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where cargo puts things: this program lies in its `release` folder.
pub(crate) fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is xtask itself?")?;
    let release = own.parent().and_then(Path::parent).context("xtask lies in no target folder")?;
    Ok(release.to_path_buf())
}

/// A program of the product, built by [`crate::build`].
pub(crate) fn product(name: &str) -> Result<PathBuf> {
    let path = target()?.join("release").join(name);
    if !path.exists() {
        bail!("{} is not built: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// Runs a command with our own standard streams; fails unless it exits 0.
pub(crate) fn checked(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("{shown} could not be started"))?;
    if !status.success() {
        bail!("{shown} failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed; fails unless it exits 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("{shown} could not be started"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed something else than text"))
}

/// The user's id, as `id -u` says it.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}
