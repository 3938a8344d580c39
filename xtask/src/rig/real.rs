//! What needs a real kernel, shown on one: a job in a microVM that runs `job.sh`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run;

/// What `job.sh` shows, as it names it.
pub(super) const NAMES: [&str; 8] = [
    "the job's limits are in its control group",
    "the disk has what its limit says",
    "a tmpfs and an overlay",
    "every namespace",
    "a BPF program and a map",
    "a container with crun",
    "systemd to a target",
    "the disk limit is exact",
];

const SUITE: &str = "bookworm";
/// What the job uses beside the essential packages.
const INCLUDE: &str = "python3,crun,systemd,mount,busybox-static";
const IMAGE: &str = "system";

/// A data directory whose store has the image, made when it is absent.
pub(super) fn store() -> Result<PathBuf> {
    let folder = run::target()?.join("rig");
    let data = folder.join("data");
    let archive = folder.join("system.tar");
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    if !archive.exists() {
        eprintln!("building a Debian image with {INCLUDE} (about 20 s)");
        let partial = folder.join(format!("partial-{}.tar", std::process::id()));
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--format=tar", "--variant=minbase"]);
        mmdebstrap.arg(format!("--include={INCLUDE}")).arg(SUITE).arg(&partial);
        run::checked(&mut mmdebstrap)?;
        fs::rename(&partial, &archive).with_context(|| format!("{} can't be named", archive.display()))?;
    }
    let mut import = Command::new(run::product("bulkhead")?);
    import.args(["image", "import", "--name", IMAGE, "--data-dir"]).arg(&data).arg(&archive);
    run::checked(import.stdout(Stdio::null()))?;
    Ok(data)
}

/// The commands that run the job.
pub(super) fn work(store: &Path) -> Result<String> {
    let program = run::product("bulkhead")?;
    let script = run::root().join("xtask/src/rig/job.sh");
    Ok(format!(
        "echo 'rig: a real kernel'\nmkdir -p /tmp/data/images\nmount --bind {}/images /tmp/data/images\n\
         {} sandbox microvm --data-dir /tmp/data --image {IMAGE} --pids 256 --memory 256M --disk 64M --input {}:/job.sh \
         -- /bin/bash /job.sh < /dev/null 2>&1\n",
        store.display(),
        program.display(),
        script.display()
    ))
}
