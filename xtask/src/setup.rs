//! Installs what a bare Debian 12 machine lacks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{PACKAGES, Package};
use crate::{build, guest, run};

/// Debian's PostgreSQL packages make and start a cluster of their own unless this file says no; ours is private
/// and lies in the service's data directory.
const CLUSTER_CONFIG: &str = "/etc/postgresql-common/createcluster.conf";

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<()> {
    packages()?;
    build::product()?;
    guest::install()?;
    println!("ready: {}", run::target()?.join("release/bulkhead").display());
    Ok(())
}

/// Installs the packages that are missing, when root; otherwise says what to run.
pub(crate) fn packages() -> Result<()> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !is_installed(package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    for package in &missing {
        println!("missing: {} ({})", package.name, package.reason);
    }
    if !run::is_root()? {
        bail!("not root; run this once: sudo apt-get install -y --no-install-recommends {}", names.join(" "));
    }
    install(&names)
}

fn is_installed(name: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]).output();
    query.is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn install(names: &[&str]) -> Result<()> {
    prevent_cluster()?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments);
        run::checked(&mut command)
    };
    apt(&["update"])?;
    let mut arguments =
        vec!["install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"];
    arguments.extend(names);
    apt(&arguments)
}

fn prevent_cluster() -> Result<()> {
    let path = Path::new(CLUSTER_CONFIG);
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().context("the file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    fs::write(path, "create_main_cluster = false\n")
        .with_context(|| format!("{CLUSTER_CONFIG} can't be written"))
}
