//! The guest's agent as an initramfs.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cpio;
use crate::{build, run};

/// The one that rustup always has; linked statically, since the initramfs holds nothing but the agent.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the agent and the archive around it.
pub(super) fn initramfs() -> Result<PathBuf> {
    let folder = run::target()?.join("guest");
    let mut command = build::cargo();
    command.args(["build", "--quiet", "--locked", "--package", "bulkhead-guest", "--bin", "bulkhead-guest"]);
    command.args(["--profile", "guest", "--target", TARGET, "--target-dir"]).arg(&folder);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    run::checked(&mut command)?;
    let agent = folder.join(TARGET).join("guest/bulkhead-guest");
    let program = fs::read(&agent).with_context(|| format!("{} can't be read", agent.display()))?;
    let path = folder.join("initramfs.cpio");
    let partial = folder.join(format!("initramfs.partial-{}", std::process::id()));
    let mut out = BufWriter::new(File::create(&partial).with_context(|| format!("{}", partial.display()))?);
    cpio::write(&mut out, &[cpio::Entry::program("init", program)])
        .and_then(|()| out.flush())
        .context("the initramfs can't be written")?;
    fs::rename(&partial, &path).with_context(|| format!("{} can't be named", path.display()))?;
    Ok(path)
}
