//! What a microVM's guest consists of: its kernel, and the agent in its initramfs.

pub(crate) mod cpio;
mod initramfs;
mod kernel;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::run as programs;

pub(crate) use kernel::{Arguments, run};

/// Builds both where they are absent and puts them beside the product's programs, where it looks for them. Answers that
/// folder.
pub(crate) fn install() -> Result<PathBuf> {
    let folder = programs::target()?.join("release/guest");
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    for (from, name) in [(kernel::kernel()?, "vmlinux"), (initramfs::initramfs()?, "initramfs")] {
        // By renaming: a machine that starts meanwhile gets the old one or the new one.
        let partial = folder.join(format!("{name}.partial-{}", std::process::id()));
        fs::copy(&from, &partial).with_context(|| format!("{} can't be copied", from.display()))?;
        fs::rename(&partial, folder.join(name)).with_context(|| format!("{name} can't be named"))?;
    }
    Ok(folder)
}
