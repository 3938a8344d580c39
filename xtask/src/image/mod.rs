//! `cargo xtask image`: Debian images for the demo, the tests, the corpus and the README's tour.

mod list;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{build, run, setup};
pub(crate) use list::{DEMO, Image};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which one: demo, toolchain, languages or data; imported under that name.
    #[arg(default_value = DEMO.name)]
    name: String,
    /// The service's data directory, whose image store gets the image.
    #[arg(long, default_value = "/var/lib/bulkhead")]
    data_dir: PathBuf,
}

/// Builds the image and imports it into the local store.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let image = Image::named(&arguments.name)?;
    setup::packages()?;
    build::product()?;
    import_as(image.name, image, &arguments.data_dir)
}

/// Imports the image as `demo` into the store of a data directory.
pub(crate) fn import(data: &Path) -> Result<()> {
    import_as(DEMO.name, DEMO, data)
}

fn import_as(name: &str, image: &Image, data: &Path) -> Result<()> {
    let mut command = Command::new(run::product("bulkhead")?);
    command.args(["image", "import", "--name", name, "--data-dir"]).arg(data).arg(image.archive()?);
    // Its digest is of no interest here, and a benchmark's standard output is rows and nothing else.
    run::checked(command.stdout(Stdio::null()))
}

/// An image in the store of the tests' own, imported once.
pub(crate) struct Stored {
    /// The store's data directory.
    pub(crate) data: PathBuf,
    /// The image's name in it.
    pub(crate) name: String,
}

impl Image {
    /// Imports it into the tests' own store, unless it is there.
    pub(crate) fn stored(&self) -> Result<Stored> {
        let stored = Stored { data: folder()?.join("store"), name: self.key() };
        if run::output(stored.show()?.stderr(Stdio::null())).is_err() {
            import_as(&stored.name, self, &stored.data)?;
        }
        Ok(stored)
    }

    /// The root file system as a tar, built when it is absent.
    fn archive(&self) -> Result<PathBuf> {
        let folder = folder()?;
        let path = folder.join(format!("{}.tar", self.key()));
        if path.exists() {
            return Ok(path);
        }
        eprintln!("building the Debian image {} (15 s to 3 min)", self.name);
        fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let partial = folder.join(format!("partial-{}.tar", std::process::id()));
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.env("SOURCE_DATE_EPOCH", list::EPOCH).args(list::OPTIONS);
        mmdebstrap.arg(format!("--include={}", self.packages.join(","))).arg(list::SUITE).arg(&partial);
        run::checked(&mut mmdebstrap)?;
        fs::rename(&partial, &path).with_context(|| format!("{} can't be named", path.display()))?;
        Ok(path)
    }

    /// Its root file system as a directory, unpacked once. To be read only.
    pub(crate) fn unpacked(&self) -> Result<PathBuf> {
        let path = folder()?.join(format!("{}.root", self.key()));
        if path.exists() {
            return Ok(path);
        }
        let partial = folder()?.join(format!("partial-{}.root", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("{} can't be made", partial.display()))?;
        let archive = self.archive()?;
        run::checked(
            Command::new("tar").arg("--numeric-owner").arg("-xpf").arg(archive).arg("-C").arg(&partial),
        )?;
        fs::rename(&partial, &path).with_context(|| format!("{} can't be named", path.display()))?;
        Ok(path)
    }
}

impl Stored {
    fn show(&self) -> Result<Command> {
        let mut show = Command::new(run::product("bulkhead")?);
        show.args(["image", "show", &self.name, "--json", "--data-dir"]).arg(&self.data);
        Ok(show)
    }
}

/// The demo image's public EROFS file, in the tests' own store.
pub(crate) fn erofs() -> Result<PathBuf> {
    let stored = DEMO.stored()?;
    let shown: Value =
        serde_json::from_str(&run::output(&mut stored.show()?)?).context("bulkhead image show")?;
    let digest = shown["digest"].as_str().context("bulkhead image show names no digest")?;
    let folder = digest.strip_prefix("sha256:").context("a digest begins with its algorithm")?;
    Ok(stored.data.join("images/operator/sha256").join(folder).join("public.erofs"))
}

fn folder() -> Result<PathBuf> {
    Ok(run::target()?.join("images"))
}

/// The demo image's root file system as a tar, built when it is absent.
pub(crate) fn archive() -> Result<PathBuf> {
    DEMO.archive()
}
