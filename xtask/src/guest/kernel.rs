//! `cargo xtask guest-kernel`: Debian's kernel source, unpatched, with our configuration, built into a `vmlinux`.
//!
//! The configuration is `allnoconfig` and the fragments of `deploy/guest-kernel`, in the order of their names. A result is
//! kept under a hash of everything that it was made from; sources and objects are removed, since they are thirty times
//! its size.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{run, setup};

/// The package with the kernel's source, and where it puts it.
const PACKAGE: &str = "linux-source-6.1";
const SOURCE: &str = "/usr/src/linux-source-6.1.tar.xz";
/// Where the fragments are, from the top of the checkout.
const FRAGMENTS: &str = "deploy/guest-kernel";
/// The fragment that is a bootable kernel alone.
const MINIMAL: &str = "00-minimal";
/// How the build is done; part of the hash, to be raised when a change here changes the result.
const RECIPE: u32 = 1;
/// Between two lines about the progress.
const PROGRESS: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the smallest kernel that boots from a virtio disk (no control groups, namespaces, sockets).
    #[arg(long)]
    minimal: bool,
    /// Leave these fragments of deploy/guest-kernel out, to see what they cost (`40-network`).
    #[arg(long, value_delimiter = ',', conflicts_with = "minimal")]
    without: Vec<String>,
}

/// Builds the kernel when it is absent and prints where it is; the product's is put where the product looks for it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::packages()?;
    if !arguments.minimal && arguments.without.is_empty() {
        println!("{}", super::install()?.join("vmlinux").display());
        return Ok(());
    }
    let fragments = fragments()?;
    if let Some(unknown) = arguments.without.iter().find(|name| !fragments.iter().any(|f| f.name == **name)) {
        bail!("{FRAGMENTS} has no fragment {unknown}");
    }
    let chosen = fragments.into_iter().filter(|fragment| match arguments.minimal {
        true => fragment.name == MINIMAL,
        false => !arguments.without.contains(&fragment.name),
    });
    println!("{}", build(&chosen.collect::<Vec<_>>())?.display());
    Ok(())
}

/// The product's kernel, built when it is absent.
pub(super) fn kernel() -> Result<PathBuf> {
    build(&fragments()?)
}

struct Fragment {
    name: String,
    text: String,
}

fn fragments() -> Result<Vec<Fragment>> {
    let folder = run::root().join(FRAGMENTS);
    let mut fragments = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))? {
        let path = entry.context("a name of the folder")?.path();
        if path.extension().is_some_and(|extension| extension == "config") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            fragments.push(Fragment { name, text });
        }
    }
    fragments.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(fragments)
}

fn build(fragments: &[Fragment]) -> Result<PathBuf> {
    let configuration: String = fragments.iter().map(|fragment| fragment.text.as_str()).collect();
    let folder = run::target()?.join("guest-kernel").join(key(&configuration)?);
    let kernel = folder.join("vmlinux");
    if kernel.exists() {
        return Ok(kernel);
    }
    eprintln!("guest kernel: building it once (one and a half to three minutes on two free cores)");
    let begin = Instant::now();
    let work = folder.with_extension(format!("partial-{}", std::process::id()));
    let made = make(&work, &configuration);
    if made.is_ok() {
        let result = work.join("result");
        fs::rename(&result, &folder).with_context(|| format!("{} can't be named", folder.display()))?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("{} can't be removed", work.display()))?;
    made?;
    eprintln!("guest kernel: done in {} s", begin.elapsed().as_secs());
    Ok(kernel)
}

/// The name of a result: everything that it depends on.
fn key(configuration: &str) -> Result<String> {
    let source = run::output(Command::new("dpkg-query").args(["-W", "-f=${Version}", PACKAGE]))?;
    let compiler = run::output(Command::new("gcc").arg("--version"))?;
    let digest = Sha256::digest(format!("{RECIPE}\n{source}\n{compiler}\n{configuration}"));
    let mut name = String::new();
    for byte in digest.iter().take(8) {
        write!(name, "{byte:02x}").context("a string can be written to")?;
    }
    Ok(name)
}

/// Leaves `result/{vmlinux,System.map,config}` in the folder.
fn make(work: &Path, configuration: &str) -> Result<()> {
    let result = work.join("result");
    fs::create_dir_all(&result).with_context(|| format!("{} can't be made", result.display()))?;
    let fragment = work.join("fragment");
    fs::write(&fragment, configuration).context("the fragment can't be written")?;
    run::checked(Command::new("tar").args(["-xf", SOURCE, "-C"]).arg(work))?;
    let source = work.join(PACKAGE);
    let make = || {
        let mut command = Command::new("make");
        command.arg("-C").arg(&source).env("KCONFIG_ALLCONFIG", &fragment);
        // The same input gives the same bytes.
        command.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01").env("KBUILD_BUILD_USER", "bulkhead");
        command.env("KBUILD_BUILD_HOST", "bulkhead").env_remove("MAKEFLAGS");
        command
    };
    run::output(make().args(["--silent", "allnoconfig"]))?;
    check(configuration, &fs::read_to_string(source.join(".config")).context("the configuration")?)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    compile(make().arg(format!("-j{jobs}")).arg("vmlinux"))?;
    run::checked(
        Command::new("strip").arg("-s").arg("-o").arg(result.join("vmlinux")).arg(source.join("vmlinux")),
    )?;
    for (from, to) in [("System.map", "System.map"), (".config", "config")] {
        fs::copy(source.join(from), result.join(to)).with_context(|| format!("{from} can't be kept"))?;
    }
    Ok(())
}

/// A misspelt option, or one whose needs are not met, vanishes without a word: say so.
fn check(wanted: &str, got: &str) -> Result<()> {
    let is_set = |line: &&str| line.starts_with("CONFIG_");
    let missing: Vec<&str> =
        wanted.lines().filter(is_set).filter(|line| !got.lines().any(|has| has == *line)).collect();
    if !missing.is_empty() {
        bail!("the kernel does not take these options: {}", missing.join(" "));
    }
    Ok(())
}

/// Runs make and tells how far it is.
fn compile(make: &mut Command) -> Result<()> {
    let mut child = make.stdout(Stdio::piped()).spawn().context("make could not be started")?;
    let stdout = child.stdout.take().context("its standard output is a pipe")?;
    let (begin, mut told, mut files) = (Instant::now(), Instant::now(), 0_u32);
    for line in BufReader::new(stdout).lines() {
        let line = line.context("make's output can't be read")?;
        files += u32::from(line.trim_start().starts_with("CC "));
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            eprintln!("guest kernel: {files} files compiled, {} s", begin.elapsed().as_secs());
        }
    }
    let status = child.wait().context("make can't be waited for")?;
    if !status.success() {
        bail!("the kernel's make failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_not_taken_is_named() {
        let got = "CONFIG_A=y\n# CONFIG_B is not set\n";
        assert!(check("# a reason\nCONFIG_A=y\n", got).is_ok());
        let error = check("CONFIG_A=y\nCONFIG_B=y\n", got).expect_err("B is not taken");
        assert!(error.to_string().ends_with("CONFIG_B=y"), "{error}");
    }

    #[test]
    fn every_option_is_behind_a_reason() {
        for fragment in fragments().expect("the fragments") {
            assert!(fragment.text.starts_with('#'), "{} does not say what it is for", fragment.name);
        }
    }
}
