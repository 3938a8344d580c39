//! The machine that has a hardware KVM: QEMU with an emulated SVM, Debian's kernel and a few of its modules.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::guest::cpio::{self, Entry};
use crate::run;

/// What to load, in this order; paths below the kernel's modules.
const MODULES: [&str; 15] = [
    "virt/lib/irqbypass",
    "arch/x86/kvm/kvm",
    "drivers/crypto/ccp/ccp",
    "arch/x86/kvm/kvm-amd",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "fs/netfs/netfs",
    "fs/fscache/fscache",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/9p/9p",
    "fs/overlayfs/overlay",
];
/// The longest run, in seconds: several times of what all tests take.
const LIMIT: &str = "1200";

/// Runs a script there; passes its console on and answers it.
pub(super) fn run(work: &str) -> Result<String> {
    let kernel = debian_kernel()?;
    let initramfs = initramfs(&kernel, work)?;
    let mut qemu = Command::new("timeout");
    qemu.args([LIMIT, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,+svm"]);
    qemu.args(["-m", "3072", "-smp", "2", "-nographic", "-no-reboot", "-kernel"]).arg(&kernel.image);
    qemu.arg("-initrd").arg(&initramfs);
    // Everything of this machine, and nothing of it can be changed.
    qemu.args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
    qemu.args(["-append", "console=ttyS0 quiet mitigations=off panic=-1"]);
    let mut child =
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("QEMU could not be started")?;
    let stdout = child.stdout.take().context("its standard output is a pipe")?;
    let mut console = String::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("the console can't be read")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        println!("| {line}");
        console.push_str(line);
        console.push('\n');
    }
    child.wait().context("QEMU can't be waited for")?;
    fs::remove_file(&initramfs).context("the rig's initramfs can't be removed")?;
    Ok(console)
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// Debian's kernel, taken out of its package when it is not there yet; it is not installed.
fn debian_kernel() -> Result<Kernel> {
    let folder = run::target()?.join("rig/kernel");
    if !folder.join("boot").exists() {
        eprintln!("fetching Debian's kernel for the machine with a hardware KVM");
        let partial = folder.with_extension(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("{} can't be made", partial.display()))?;
        let depends = run::output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
        let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let name = name.context("linux-image-amd64 depends on no kernel: run apt-get update")?;
        let mut download = Command::new("apt-get");
        download.args(["download", "-qq", &format!("linux-image-{name}")]).current_dir(&partial);
        run::checked(download.stderr(Stdio::null()))?;
        let package = only(&partial, ".deb")?;
        run::checked(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
        fs::remove_file(&package).context("the package can't be removed")?;
        let _older = fs::remove_dir_all(&folder);
        fs::rename(&partial, &folder).with_context(|| format!("{} can't be named", folder.display()))?;
    }
    let version = only(&folder.join("lib/modules"), "")?;
    Ok(Kernel { image: only(&folder.join("boot"), "vmlinuz")?, modules: version.join("kernel") })
}

/// The one file of a folder whose name has this in it.
fn only(folder: &Path, part: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} can't be read", folder.display()))?;
    let mut found = entries.filter_map(Result::ok).map(|entry| entry.path());
    let wanted =
        found.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)));
    match wanted {
        Some(path) => Ok(path),
        None => bail!("{} has no {part}", folder.display()),
    }
}

fn initramfs(kernel: &Kernel, work: &str) -> Result<PathBuf> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("{} can't be read", path.display()));
    let mut entries = vec![
        Entry::program("init", include_bytes!("init.sh").to_vec()),
        Entry::file("work.sh", work.as_bytes().to_vec()),
    ];
    for name in ["bin", "proc", "sys", "dev", "host", "upper", "new", "modules"] {
        entries.push(Entry::directory(name));
    }
    entries.push(Entry::program("bin/busybox", read(Path::new("/bin/busybox"))?));
    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        entries.push(Entry::file(
            &format!("modules/{name}.ko"),
            read(&kernel.modules.join(format!("{module}.ko")))?,
        ));
        order.push_str(&format!("{name}\n"));
    }
    entries.push(Entry::file("modules/order", order.into_bytes()));
    let path = run::target()?.join(format!("rig/initramfs-{}", std::process::id()));
    let mut out = BufWriter::new(File::create(&path).with_context(|| format!("{}", path.display()))?);
    cpio::write(&mut out, &entries)
        .and_then(|()| out.flush())
        .context("the rig's initramfs can't be written")?;
    Ok(path)
}
