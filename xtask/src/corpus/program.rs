//! The corpus's programs: shell scripts with a header that says how each runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::image::Image;
use crate::run;

/// Where they lie, from the top of the checkout.
const FOLDER: &str = "xtask/corpus/programs";
/// Longest run where the header says nothing; a program that takes as long hangs.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Memory of the sandbox where the header says nothing.
const MEMORY: &str = "1G";

/// A program.
pub(super) struct Program {
    /// The script's name without `.sh`.
    pub(super) name: String,
    /// The script.
    pub(super) path: PathBuf,
    /// The image that it runs on.
    pub(super) image: &'static Image,
    /// Whether `cargo xtask test` runs it, and not only `test --all`.
    pub(super) light: bool,
    /// Memory limit of the sandbox.
    pub(super) memory: String,
    /// Longest run, on either side.
    pub(super) timeout: Duration,
    /// Files and folders below /work whose names, modes, owners, sizes and contents are compared.
    pub(super) files: Vec<String>,
}

/// All programs, sorted by name.
pub(super) fn all() -> Result<Vec<Program>> {
    let folder = run::root().join(FOLDER);
    let entries = fs::read_dir(&folder).with_context(|| format!("{} can't be listed", folder.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut programs = Vec::new();
    for path in paths.with_context(|| format!("{} can't be listed", folder.display()))? {
        programs.push(read(&path).with_context(|| format!("{}", path.display()))?);
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Reads a header: lines `# KEY: VALUE` after the first one, up to the first line that is none.
fn read(path: &Path) -> Result<Program> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).context("its name is not UTF-8")?.to_owned();
    let text = fs::read_to_string(path).context("can't be read")?;
    let (mut image, mut light) = (None, None);
    let (mut memory, mut timeout, mut files) = (MEMORY.to_owned(), TIMEOUT, Vec::new());
    for line in text.lines().skip(1) {
        let Some((key, value)) = line.strip_prefix("# ").and_then(|line| line.split_once(": ")) else {
            break;
        };
        match (key, value) {
            ("image", value) => image = Some(Image::named(value)?),
            ("weight", "light") => light = Some(true),
            ("weight", "heavy") => light = Some(false),
            ("memory", value) => value.clone_into(&mut memory),
            ("timeout", value) => {
                timeout = Duration::from_secs(value.parse().context("timeout is a number of seconds")?);
            }
            ("files", value) => files = value.split_whitespace().map(str::to_owned).collect(),
            ("what", _) => {}
            _ => bail!("the header's line {line:?} is none that we know"),
        }
    }
    let image = image.context("the header names no image")?;
    let light = light.context("the header's weight is neither light nor heavy")?;
    Ok(Program { name, path: path.to_owned(), image, light, memory, timeout, files })
}
