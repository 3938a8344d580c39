//! The Python client in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result};

use crate::run;

/// Debian's own interpreter: another one on PATH may lack the venv module.
const PYTHON: &str = "/usr/bin/python3";

/// Makes the environment with the client in it, unless it is there and fresh, and returns its interpreter.
pub(crate) fn environment() -> Result<PathBuf> {
    let folder = run::target()?.join("python");
    let python = folder.join("bin/python");
    let package = run::root().join("clients/python");
    let stamp = folder.join("stamp");
    let want = fingerprint(&package)?;
    if fs::read_to_string(&stamp).is_ok_and(|have| have == want) {
        return Ok(python);
    }
    run::checked(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&folder))?;
    // Built from a copy: setuptools leaves its scratch files in the source tree.
    let copy = folder.join("source");
    copy_tree(&package, &copy)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).arg(&copy);
    run::checked(&mut pip)?;
    fs::write(&stamp, want).context("the environment's stamp can't be written")?;
    Ok(python)
}

/// Names, sizes and times of the package's files: enough to notice a change.
fn fingerprint(package: &Path) -> Result<String> {
    let mut lines = Vec::new();
    visit(package, &mut |path, meta| {
        let time = meta.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        lines.push(format!("{} {} {:?}", path.display(), meta.len(), time));
    })
    .with_context(|| format!("{} can't be read", package.display()))?;
    lines.sort();
    Ok(lines.join("\n"))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut files = Vec::new();
    visit(from, &mut |path, _| files.push(path.to_path_buf())).context("the package can't be read")?;
    for file in files {
        let copy = to.join(file.strip_prefix(from).context("a file of the package")?);
        let folder = copy.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        fs::copy(&file, &copy).with_context(|| format!("{} can't be copied", file.display()))?;
    }
    Ok(())
}

fn visit(folder: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let skip = entry.file_name() == "__pycache__" || entry.file_name() == "build";
        if meta.is_dir() && !skip {
            visit(&entry.path(), each)?;
        } else if meta.is_file() {
            each(&entry.path(), &meta);
        }
    }
    Ok(())
}
