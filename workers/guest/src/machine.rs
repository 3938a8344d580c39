//! What is done before there is a job: the kernel's file systems, the network, control groups.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bulkhead_wire::Failed;
use rustix::fs::{Mode, mkdir, symlink};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::umask;

use crate::cgroup::Groups;
use crate::options::Options;
use crate::system;

/// The machine without a job. Its kernel file systems wait below `base` for the job's root.
pub(crate) struct Machine {
    pub(crate) base: PathBuf,
    /// Absent where the agent is told to leave them alone.
    pub(crate) groups: Option<Groups>,
}

/// The kernel's own file systems, below the root.
pub(crate) const KERNEL: [&str; 3] = ["dev", "proc", "sys"];

/// Prepares everything that does not depend on the job.
///
/// # Errors
/// What can't be had.
pub(crate) fn prepare(options: &Options) -> Result<Machine, Failed> {
    // Modes are as they are written here.
    let _before = umask(Mode::empty());
    let base = options.base.clone();
    file_systems(&base)?;
    system::loopback_up().map_err(|error| Failed::internal("the loopback interface", &error))?;
    let groups = if options.unlimited { None } else { Some(Groups::make(&base)?) };
    Ok(Machine { base, groups })
}

fn file_systems(base: &Path) -> Result<(), Failed> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let dev = base.join("dev");
    // Mounts of a test's machine must not spread.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| Failed::internal("making mounts private", &error))?;
    mount_at("proc", &base.join("proc"), "proc", plain, "")?;
    mount_at("sysfs", &base.join("sys"), "sysfs", plain, "")?;
    mount_at("devtmpfs", &dev, "devtmpfs", MountFlags::NOSUID, "mode=755")?;
    mount_at("devpts", &dev.join("pts"), "devpts", plain - MountFlags::NODEV, "gid=5,mode=620,ptmxmode=666")?;
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    // As much as the job's memory limit lets it: its control group pays for it.
    mount_at("tmpfs", &dev.join("shm"), "tmpfs", shared, "mode=1777,size=100%")?;
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        match symlink(target, dev.join(name)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Failed::internal("links in /dev", &error)),
        }
    }
    Ok(())
}

/// Mounts a file system on a directory, which is made.
pub(crate) fn mount_at(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> Result<(), Failed> {
    let failed = |error: Errno| Failed::internal(&format!("mounting {kind} on {}", target.display()), &error);
    make_directory(target).map_err(failed)?;
    let data = std::ffi::CString::new(data).map_err(|_| failed(Errno::INVAL))?;
    mount(source, target, kind, flags, data.as_c_str()).map_err(failed)
}

/// Makes a directory; it may be there.
pub(crate) fn make_directory(path: &Path) -> Result<(), Errno> {
    match mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Machine {
    /// Makes the guest's random numbers its own. A machine that is one of several from the same snapshot must do this before
    /// its job starts; one that was booted got a seed from its loader, and this is more of it.
    ///
    /// # Errors
    /// When the host gives no random numbers, or the kernel does not take them.
    pub(crate) fn reseed(&self) -> Result<(), Failed> {
        let dev = self.base.join("dev");
        let failed = |error: io::Error| Failed::internal("seeding the random generator", &error);
        let mut host = match fs::File::open(dev.join("hwrng")) {
            Ok(host) => host,
            // A machine without the device; its kernel's generator was seeded when it was booted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let mut seed = [0; 32];
        match host.read_exact(&mut seed) {
            Ok(()) => {}
            // The node is there and no device behind it.
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let random = fs::File::options().write(true).open(dev.join("urandom")).map_err(failed)?;
        system::add_entropy(random.as_fd(), &seed).map_err(failed)
    }
}
