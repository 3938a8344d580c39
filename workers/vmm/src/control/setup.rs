//! From a root child of the launcher to a locked-in process with a machine's shell.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use bulkhead_jail::rlimit::Rlimits;
use bulkhead_jail::{JailConfig, seccomp};
use bulkhead_wire::{Failed, FailureStage, Frame, Launcher, MachineConfig};
use rustix::fs::{Mode, OFlags};

use super::agent::Agent;
use crate::arch::MOST_VCPUS;
use crate::machine::{Shell, ShellConfig};
use crate::software_kvm;

/// The writable directory that the jail leaves.
const SCRATCH: &str = "/scratch";

/// A machine that lacks only its image.
pub(super) struct Prepared {
    pub(super) config: MachineConfig,
    pub(super) shell: Shell,
    pub(super) kernel: File,
    pub(super) initramfs: File,
    pub(super) scratch: File,
    /// The agent's control connection: ours, and the device's end. Made here, since no socket can be made later.
    pub(super) agent: Agent,
    pub(super) agent_end: UnixStream,
}

/// Does everything up to "Ready".
pub(super) fn enter(launcher: &Launcher) -> Result<Prepared, Failed> {
    let received = launcher.receive()?;
    let Frame::Machine(config) = received.frame else {
        return Err(Failed::of(FailureStage::Internal, "the first frame must be the machine"));
    };
    let mut descriptors = received.descriptors.into_iter();
    let join: Vec<OwnedFd> = descriptors.by_ref().take(config.vmm_cgroups).collect();
    if join.len() != config.vmm_cgroups {
        return Err(Failed::of(FailureStage::Jail, "control group descriptors are missing"));
    }
    let missing = || Failed::of(FailureStage::Internal, "KVM, the guest's kernel or its agent is missing");
    let kvm = descriptors.next().ok_or_else(missing)?;
    let kernel = File::from(descriptors.next().ok_or_else(missing)?);
    let initramfs = File::from(descriptors.next().ok_or_else(missing)?);
    // Before the jail: /sys is not in it.
    let software = software_kvm::detected();
    let jail = JailConfig {
        join,
        uid: config.host_uid,
        gid: config.host_uid,
        scratch: Some(PathBuf::from(&config.scratch_directory)),
        rlimits: Rlimits::default(),
    };
    bulkhead_jail::enter(jail).map_err(|error| Failed::new(FailureStage::Jail, "the jail", &error))?;
    let most = if software { software_kvm::MOST_VCPUS } else { MOST_VCPUS };
    let shell = ShellConfig {
        vcpus: config.vcpus.min(most),
        memory_bytes: config.memory_bytes,
        software_kvm: software,
    };
    let shell = Shell::new(kvm, shell)
        .map_err(|error| Failed::new(FailureStage::Machine, "the virtual machine", &error))?;
    let scratch = scratch(config.disk_bytes)?;
    let (agent, agent_end) = Agent::pair()
        .map_err(|error| Failed::new(FailureStage::Internal, "the agent's control connection", &error))?;
    seccomp::install(seccomp::Role::Vmm)
        .map_err(|error| Failed::new(FailureStage::Jail, "system-call list", &error))?;
    Ok(Prepared { config, shell, kernel, initramfs, scratch, agent, agent_end })
}

/// The writable disk: sparse, and without a name, so that nothing of it outlives the process.
fn scratch(bytes: u64) -> Result<File, Failed> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let made = rustix::fs::open(SCRATCH, flags, Mode::RUSR | Mode::WUSR)
        .and_then(|fd| rustix::fs::ftruncate(&fd, bytes).map(|()| fd));
    made.map(File::from).map_err(|error| {
        Failed::new(FailureStage::Machine, "the writable disk in the scratch directory", &error)
    })
}
