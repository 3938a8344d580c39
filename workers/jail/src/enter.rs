//! From root's child to a process that can do nothing: the steps, in their only working order.
//!
//! The mount, network, ipc and uts namespaces are made while the process is still root, so they belong to the host's user
//! namespace, in which the process has no rights later; the pid namespace was made by the launcher, and its /proc can only be
//! mounted with rights in the user namespace that owns it. Only then comes the change to the sandbox's own host uid, and a
//! user namespace in which that uid is all there is. Its capabilities go last.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags};

use crate::rlimit::{self, Rlimits};

/// What a process needs to know to lock itself in.
#[derive(Debug)]
pub struct JailConfig {
    /// Descriptors from [`crate::cgroup::SandboxGroups::sentry_join`]; closed after use. Empty only for processes that the
    /// launcher put into their group.
    pub join: Vec<OwnedFd>,
    /// The sandbox's own host uid; must not be 0.
    pub uid: u32,
    /// The sandbox's own host gid; must not be 0.
    pub gid: u32,
    /// Host directory, owned by `uid`, to be bound at /scratch; its path comes from the launcher, never from a tenant.
    pub scratch: Option<PathBuf>,
    /// Second wall behind the control groups.
    pub rlimits: Rlimits,
}

/// One step of [`enter`]; its display form completes "can't ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Refuse root as the sandbox's identity.
    Identity,
    /// Join the control groups.
    JoinCgroup,
    /// New mount, network, ipc, uts and cgroup namespaces.
    Namespaces,
    /// Cut the mounts off from the host's.
    PrivateMounts,
    /// The empty root.
    MountRoot,
    /// /proc of the new pid namespace.
    MountProc,
    /// The scratch directory.
    BindScratch,
    /// Change the root.
    PivotRoot,
    /// Let go of the old root.
    DetachOldRoot,
    /// Make the root read-only.
    SealRoot,
    /// A resource limit.
    Rlimit(&'static str),
    /// Drop groups and take the sandbox's uid and gid.
    TakeUid,
    /// The user namespace.
    UserNamespace,
    /// Its uid and gid maps.
    IdMaps,
    /// no_new_privs.
    NoNewPrivs,
    /// The capability bounding set.
    BoundingSet,
    /// The securebits that keep uid 0 of the namespace from meaning anything.
    SecureBits,
    /// The remaining capabilities.
    Capabilities,
    /// Death with the launcher.
    DeathSignal,
    /// Let the sentry reach its own stubs.
    Dumpable,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Step::Identity => "use root as a sandbox's identity",
            Step::JoinCgroup => {
                "join the sandbox's control groups, so its memory, cpu and process limits would not hold"
            }
            Step::Namespaces => "make the mount, network, ipc, uts and cgroup namespaces",
            Step::PrivateMounts => "cut the mounts off from the host's",
            Step::MountRoot => "mount the empty root",
            Step::MountProc => "mount /proc of the sandbox's pid namespace",
            Step::BindScratch => "bind the scratch directory",
            Step::PivotRoot => "change to the empty root",
            Step::DetachOldRoot => "let go of the host's root",
            Step::SealRoot => "make the empty root read-only",
            Step::Rlimit(name) => return write!(f, "set the resource limit {name}"),
            Step::TakeUid => "take the sandbox's uid and gid",
            Step::UserNamespace => "make the user namespace",
            Step::IdMaps => "write the uid and gid maps",
            Step::NoNewPrivs => "set no_new_privs",
            Step::BoundingSet => "empty the capability bounding set",
            Step::SecureBits => "lock the securebits",
            Step::Capabilities => "drop the capabilities",
            Step::DeathSignal => "ask to die with the launcher",
            Step::Dumpable => "become traceable by itself",
        };
        f.write_str(text)
    }
}

/// A wall that could not be put up; the process must end without running anything.
#[derive(Debug, thiserror::Error)]
#[error("can't {step}")]
pub struct JailError {
    /// Which one.
    pub step: Step,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

fn at(step: Step) -> impl Fn(Errno) -> JailError {
    move |errno| JailError { step, source: errno.into() }
}

fn io_at(step: Step) -> impl Fn(std::io::Error) -> JailError {
    move |source| JailError { step, source }
}

/// Locks the calling process in. It must have one thread, be root, and be the first process of a new pid namespace. On return
/// it has an empty root with /proc and /scratch, its own uid, and no rights.
///
/// # Errors
/// [`JailError`] names the first step that failed. The process is then half-way in and must exit.
pub fn enter(config: JailConfig) -> Result<(), JailError> {
    if config.uid == 0 || config.gid == 0 {
        return Err(JailError { step: Step::Identity, source: Errno::PERM.into() });
    }
    for group in config.join {
        rustix::io::write(group.as_fd(), b"0").map_err(at(Step::JoinCgroup))?;
    }
    unshare(
        UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
        Step::Namespaces,
    )?;
    empty_root(config.scratch.as_deref())?;
    rlimit::apply(&config.rlimits).map_err(|(name, e)| at(Step::Rlimit(name))(e))?;
    take_identity(config.uid, config.gid)?;
    drop_rights()?;
    // Both were reset by the change of credentials.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Step::DeathSignal))?;
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(at(Step::Dumpable))
}

fn unshare(flags: UnshareFlags, step: Step) -> Result<(), JailError> {
    // SAFETY: 1. `unshare_unsafe` is unsafe for FILES, which would split the descriptor table between threads, and none of
    // the callers passes it; 2. NEWUSER and the others change no memory.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(at(step))
}

/// Any directory that exists everywhere will do to mount the new root on, as long as nothing needed lies below it.
const STAGE: &str = "/proc";

fn empty_root(scratch: Option<&Path>) -> Result<(), JailError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at(Step::PrivateMounts))?;
    let hardened = MountFlags::NOSUID | MountFlags::NODEV;
    // Holds two directories: neither space nor inodes are needed beyond them.
    mount("bulkhead", STAGE, "tmpfs", hardened, Some(c"size=16k,nr_inodes=8,mode=0555"))
        .map_err(at(Step::MountRoot))?;
    for dir in ["proc", "scratch"] {
        fs::create_dir(Path::new(STAGE).join(dir)).map_err(io_at(Step::MountRoot))?;
    }
    mount("proc", "/proc/proc", "proc", hardened | MountFlags::NOEXEC, None).map_err(at(Step::MountProc))?;
    if let Some(scratch) = scratch {
        let target = "/proc/scratch";
        mount_bind(scratch, target).map_err(at(Step::BindScratch))?;
        // Executable: a program that a guest writes is mapped from its scratch file.
        mount_remount(target, MountFlags::BIND | hardened, c"").map_err(at(Step::BindScratch))?;
    }
    rustix::process::chdir(STAGE).map_err(at(Step::PivotRoot))?;
    // With both names the same, the old root is stacked on the new one, and the next line takes it off again.
    rustix::process::pivot_root(".", ".").map_err(at(Step::PivotRoot))?;
    unmount(".", UnmountFlags::DETACH).map_err(at(Step::DetachOldRoot))?;
    rustix::process::chdir("/").map_err(at(Step::PivotRoot))?;
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY | hardened, c"").map_err(at(Step::SealRoot))
}

fn take_identity(uid: u32, gid: u32) -> Result<(), JailError> {
    let step = Step::TakeUid;
    let (user, group) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[]).map_err(at(step))?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(at(step))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(at(step))?;
    // The files below /proc/self belong to root until the process is dumpable again.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(at(Step::Dumpable))?;
    unshare(UnshareFlags::NEWUSER, Step::UserNamespace)?;
    // Without this the kernel refuses a gid map to a process without rights outside.
    fs::write("/proc/self/setgroups", "deny").map_err(io_at(Step::IdMaps))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(io_at(Step::IdMaps))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(io_at(Step::IdMaps))
}

fn drop_rights() -> Result<(), JailError> {
    rustix::thread::set_no_new_privs(true).map_err(at(Step::NoNewPrivs))?;
    // The kernel answers EINVAL for the first number that it does not know.
    for number in 0..u64::from(u64::BITS) {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << number,
        )) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(e) => return Err(at(Step::BoundingSet)(e)),
        }
    }
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).map_err(at(Step::SecureBits))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(at(Step::Capabilities))
}
