//! Sandboxes that are virtual machines: a job that has a Linux kernel of its own, inside of a VMM of its own.
//!
//! ```text
//! launcher ── Machine: cgroups, /dev/kvm, kernel, initramfs ──► bulkhead-vmm     jailed, a shell without an image
//!          ◄── Ready ───────────────────────────────────────
//!          ── Start: image, streams ───────────────────────►   devices, kernel, processors: the guest boots
//!          ── inputs, Go ──────────────────────────────────►   ... to the agent in the guest, once it is there
//!          ◄── Started ─────────────────────────────────────   here the job's times begin
//! ```
//! From there on all is as with a sentry, and done by the same code ([`crate::launch`]). What is different: the job's memory
//! is limited, counted and freed by the guest's kernel, and the host's group of the VMM holds the guest's whole memory.

mod host;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_jail::cgroup::{self, Hierarchy};
use bulkhead_jail::uid::UidRange;
use bulkhead_types::{Limits, SandboxOverhead};
use bulkhead_wire::{Frame, MachineConfig, bounds};

use crate::launch::{Kind, Launcher, Parts, Places, limit_error, step};
use crate::record::RUN_DIRECTORY;
use crate::{Backend, CreateRequest, Sandbox, SandboxError};

pub use host::{Device, Extension, Problem, Survey};

/// The backend's name.
pub const NAME: &str = "microvm";
/// The name of the VMM's executable.
pub const PROGRAM_NAME: &str = "bulkhead-vmm";
/// The directory with the guest's files, beside the executables.
pub const GUEST_DIRECTORY: &str = "guest";
/// The guest's kernel in it.
const KERNEL: &str = "vmlinux";
/// The initial file system with the guest's agent in it.
const INITRAMFS: &str = "initramfs";

/// What the guest's kernel and agent hold for themselves whatever the machine's size, in bytes.
const GUEST_BYTES: u64 = 48 << 20;
/// The guest's page structures (64 bytes for each page of 4 KiB), for each MiB of its memory.
const GUEST_BYTES_PER_MIB: u64 = 16 << 10;
/// What the VMM holds beside the guest's memory, in bytes, at most: its own heap and stacks, queues and buffers of devices.
const VMM_BYTES: u64 = 16 << 20;
/// Page tables of the host and of KVM for guest memory, for each MiB of it.
const TABLES_BYTES_PER_MIB: u64 = 8 << 10;
/// Guest memory is a multiple of this, in bytes: a large page.
const GUEST_GRANULE: u64 = 2 << 20;

/// The scratch disk's file system keeps 1 byte of 64 for its inodes.
const DISK_SHARE: u64 = 62;
/// And at most this for the rest of its tables and a last group that would hold nothing but its own, in bytes; the agent takes
/// what is left of it away from the job.
const DISK_BYTES: u64 = 3 << 20;
/// The disk is a multiple of this, in bytes: a block of its file system.
const DISK_GRANULE: u64 = 4096;

/// What a machine costs its host beyond its job's memory limit: the guest's own needs, and the VMM's.
pub const OVERHEAD: SandboxOverhead = SandboxOverhead {
    memory_bytes: GUEST_BYTES + VMM_BYTES + GUEST_GRANULE,
    memory_per_mib: GUEST_BYTES_PER_MIB + TABLES_BYTES_PER_MIB,
};

const KIND: Kind = Kind {
    name: "virtual machine monitor",
    program: PROGRAM_NAME,
    overhead: OVERHEAD,
    // Eight processors, the devices, control, and room for what libraries start.
    own_tasks: 32,
    // A boot has limits of its own in the VMM, which says more (ten minutes on a host that is overloaded); this is for a VMM
    // that hangs.
    start_timeout: Duration::from_secs(660),
    own_kernel: true,
};

/// What the backend needs to know about its host.
#[derive(Debug)]
pub struct MicrovmOptions {
    /// The VMM's executable.
    pub program: PathBuf,
    /// The directory with the guest's kernel (`vmlinux`) and its initial file system (`initramfs`).
    pub guest_directory: PathBuf,
    /// Where scratch directories are made: on a disk with room for what jobs write.
    pub scratch_root: PathBuf,
    /// Where live sandboxes are noted.
    pub run_directory: PathBuf,
    /// Name of the top control group.
    pub cgroup_name: String,
    /// Host uids that sandboxes get.
    pub uids: UidRange,
    /// Copy the guest's console to the launcher's standard error.
    pub console: bool,
    /// Tell [`crate::Events::machine_statistics`] what the VMM counted.
    pub statistics: bool,
}

impl MicrovmOptions {
    /// The VMM beside the running executable, and the guest's files in `guest` beside it unless another directory is given;
    /// scratch files below `data_directory`, everything else as all launchers of this host share it.
    ///
    /// # Errors
    /// If the running executable's path can't be read.
    pub fn beside_current_executable(
        data_directory: &Path,
        guest_directory: Option<&Path>,
    ) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        Ok(MicrovmOptions {
            program: own.with_file_name(PROGRAM_NAME),
            guest_directory: guest_directory
                .map_or_else(|| own.with_file_name(GUEST_DIRECTORY), Path::to_path_buf),
            scratch_root: data_directory.join("scratch"),
            run_directory: PathBuf::from(RUN_DIRECTORY),
            cgroup_name: cgroup::DEFAULT_NAME.to_owned(),
            uids: UidRange::system(),
            console: false,
            statistics: false,
        })
    }
}

/// Makes virtual machines.
#[derive(Debug)]
pub struct MicrovmBackend {
    launcher: Launcher,
    console: bool,
    statistics: bool,
    /// Opened once, so that a directory that is changed meanwhile changes nothing.
    kvm: File,
    kernel: File,
    initramfs: File,
}

impl MicrovmBackend {
    /// Checks that this host can run virtual machines and enforce every limit. Takes milliseconds: nothing is started.
    ///
    /// # Errors
    /// [`SandboxError::Host`] or [`SandboxError::Limit`] say what is missing and the fix.
    pub fn new(options: MicrovmOptions) -> Result<Self, SandboxError> {
        let survey = Survey::read();
        if let Some(problem) = survey.problem() {
            return Err(SandboxError::Host(problem.to_string()));
        }
        let places = Places {
            run: options.run_directory,
            scratch_root: options.scratch_root,
            cgroup: options.cgroup_name,
            uids: options.uids,
        };
        let launcher = Launcher::new(KIND, &options.program, options.console, places)?;
        let kvm = File::options()
            .read(true)
            .write(true)
            .open(host::DEVICE)
            .map_err(|e| step("opening /dev/kvm")(e.into()))?;
        Ok(MicrovmBackend {
            launcher,
            console: options.console,
            statistics: options.statistics,
            kvm,
            kernel: guest_file(&options.guest_directory, KERNEL)?,
            initramfs: guest_file(&options.guest_directory, INITRAMFS)?,
        })
    }

    /// The control groups' place on this host.
    pub fn hierarchy(&self) -> &Hierarchy {
        self.launcher.hierarchy()
    }

    fn config(&self, parts: &Parts, limits: &Limits) -> Result<(Frame, Vec<OwnedFd>), SandboxError> {
        let mut descriptors = parts.groups()?.sentry_join().map_err(limit_error)?;
        let config = MachineConfig {
            vmm_cgroups: descriptors.len(),
            host_uid: parts.host_uid(),
            scratch_directory: parts.scratch_directory()?.to_owned(),
            vcpus: processors(limits.cpu_milli),
            memory_bytes: guest_memory(limits.memory_bytes),
            disk_bytes: disk(limits.disk_bytes),
            console: self.console,
            statistics: self.statistics,
        };
        let failed = |e: io::Error| step("opening the guest's files for the VMM")(e.into());
        descriptors.push(self.kvm.try_clone().map_err(failed)?.into());
        for file in [&self.kernel, &self.initramfs] {
            descriptors.push(opened_again(file).map_err(failed)?.into());
        }
        Ok((Frame::Machine(config), descriptors))
    }
}

impl Backend for MicrovmBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn overhead(&self) -> SandboxOverhead {
        self.launcher.kind().overhead
    }

    fn start_timeout(&self) -> Duration {
        self.launcher.kind().start_timeout
    }

    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError> {
        self.launcher.start(request, |parts| self.config(parts, &request.limits))
    }
}

/// The same file with a position of its own, which no other machine moves.
fn opened_again(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn guest_file(directory: &Path, name: &str) -> Result<File, SandboxError> {
    let path = directory.join(name);
    File::open(&path).map_err(|e| {
        SandboxError::Host(format!(
            "the guest's {name} can't be opened: {}: {e}; put vmlinux and initramfs there (from source: cargo xtask \
             guest-kernel), or name their directory by --guest-dir or BULKHEAD_GUEST_DIR",
            path.display()
        ))
    })
}

/// As many as the job's bandwidth needs: nproc in the guest.
fn processors(cpu_milli: u64) -> u8 {
    u8::try_from(cpu_milli.div_ceil(1000)).unwrap_or(bounds::VCPUS).clamp(1, bounds::VCPUS)
}

/// Memory of a machine in which a job can use all of `limit` bytes.
fn guest_memory(limit: u64) -> u64 {
    let whole = limit.saturating_add(
        SandboxOverhead { memory_bytes: GUEST_BYTES, memory_per_mib: GUEST_BYTES_PER_MIB }.beside(limit),
    );
    whole.checked_next_multiple_of(GUEST_GRANULE).unwrap_or(u64::MAX - GUEST_GRANULE + 1)
}

/// Size of a disk on whose file system a job can write `limit` bytes, and no more than the agent gives it.
fn disk(limit: u64) -> u64 {
    let whole = limit.saturating_add(limit / DISK_SHARE).saturating_add(DISK_BYTES);
    whole.checked_next_multiple_of(DISK_GRANULE).unwrap_or(u64::MAX - DISK_GRANULE + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_fits_into_what_is_promised_for_it() {
        for mib in [16, 64, 512, 513, 4096, 1 << 20] {
            let limit = mib << 20;
            let guest = guest_memory(limit);
            assert!(guest >= limit + GUEST_BYTES && guest.is_multiple_of(GUEST_GRANULE), "{mib}");
            assert!(guest + VMM_BYTES <= limit + KIND.overhead.beside(limit), "{mib}");
        }
        // Numbers that no limit has do not wrap.
        assert!(guest_memory(u64::MAX) > u64::MAX / 2 && disk(u64::MAX) > u64::MAX / 2);
    }

    #[test]
    fn processors_and_disks() {
        assert_eq!([1, 1000, 1001, 8000, 64_000].map(processors), [1, 1, 2, 8, 8]);
        assert!(disk(10 << 20) >= (10 << 20) + DISK_BYTES && disk(12_345).is_multiple_of(DISK_GRANULE));
        // As large as the file system that the agent makes needs, and little more.
        for limit in [1, 1 << 20, 8 << 20, (128 << 20) - 1, 1 << 30, (10 << 30) + 5, 1 << 40] {
            let needed = bulkhead_guest::device_bytes(limit);
            assert!((needed..=needed + needed / 1000 + DISK_BYTES).contains(&disk(limit)), "{limit}");
        }
    }
}
