//! `cargo xtask image`: a Debian image for the demo, the tests and the README's tour.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{build, run, setup};

/// Debian's release; the same as the machines that the project supports.
const SUITE: &str = "bookworm";
/// What the image holds beside the essential packages.
const INCLUDE: &str = "python3,bash,coreutils,busybox";
/// The name under which the image is imported.
const NAME: &str = "demo";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service's data directory, whose image store gets the image.
    #[arg(long, default_value = "/var/lib/bulkhead")]
    data_dir: PathBuf,
}

/// Builds the image and imports it into the local store.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::packages()?;
    build::product()?;
    import(&arguments.data_dir)
}

/// Imports the image as `demo` into the store of a data directory.
pub(crate) fn import(data: &Path) -> Result<()> {
    let mut command = Command::new(run::product("bulkhead")?);
    command.args(["image", "import", "--name", NAME, "--data-dir"]).arg(data).arg(archive()?);
    // Its digest is of no interest here, and a benchmark's standard output is rows and nothing else.
    run::checked(command.stdout(Stdio::null()))
}

/// The image's public EROFS file, in a store of the tests' own.
pub(crate) fn erofs() -> Result<PathBuf> {
    let data = run::target()?.join("images/store");
    import(&data)?;
    let mut show = Command::new(run::product("bulkhead")?);
    show.args(["image", "show", NAME, "--json", "--data-dir"]).arg(&data);
    let shown: Value = serde_json::from_str(&run::output(&mut show)?).context("bulkhead image show")?;
    let digest = shown["digest"].as_str().context("bulkhead image show names no digest")?;
    let folder = digest.strip_prefix("sha256:").context("a digest begins with its algorithm")?;
    Ok(data.join("images/operator/sha256").join(folder).join("public.erofs"))
}

/// The root file system as a tar, built when it is absent; the name holds what it was built from.
pub(crate) fn archive() -> Result<PathBuf> {
    let folder = run::target()?.join("images");
    let path = folder.join(format!("{SUITE}-{}.tar", INCLUDE.replace(',', "-")));
    if path.exists() {
        return Ok(path);
    }
    eprintln!("building a Debian image with {INCLUDE} (about 15 s)");
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let partial = folder.join(format!("partial-{}.tar", std::process::id()));
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--format=tar", "--variant=minbase"]).arg(format!("--include={INCLUDE}"));
    mmdebstrap.arg(SUITE).arg(&partial);
    run::checked(&mut mmdebstrap)?;
    fs::rename(&partial, &path).with_context(|| format!("{} can't be named", path.display()))?;
    Ok(path)
}
