//! Who a task is, as permission checks see it.

use std::sync::Arc;

/// A capability's bit number, as in `<linux/capability.h>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Change any file's owner.
    Chown = 0,
    /// Pass read, write and search permission checks.
    DacOverride = 1,
    /// Pass read and directory search permission checks.
    DacReadSearch = 2,
    /// Act as the owner of any file.
    Fowner = 3,
    /// Keep set-uid and set-gid bits.
    Fsetid = 4,
    /// Signal any process.
    Kill = 5,
    /// Change group ids.
    Setgid = 6,
    /// Change user ids.
    Setuid = 7,
    /// Change capabilities.
    Setpcap = 8,
    /// Bind low ports.
    NetBindService = 10,
    /// Use any IPC object.
    IpcOwner = 15,
    /// Chroot.
    SysChroot = 18,
    /// Trace any process.
    SysPtrace = 19,
    /// Administration.
    SysAdmin = 21,
    /// Raise priorities.
    SysNice = 23,
    /// Go beyond limits.
    SysResource = 24,
    /// Make device nodes.
    Mknod = 27,
}

/// What root in a container usually has (Docker's default set), and so may be given to a job's root.
pub const ROOT_CAPABILITIES: u64 = {
    const BITS: [u8; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
    let mut set = 0;
    let mut n = 0;
    while n < BITS.len() {
        set |= 1 << BITS[n];
        n += 1;
    }
    set
};

/// User, groups and capabilities. Immutable: a change makes a new value (`Arc`, copy on write).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// User for file access; follows `euid` unless set by itself.
    pub fsuid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved group.
    pub sgid: u32,
    /// Group for file access.
    pub fsgid: u32,
    /// Supplementary groups, at most NGROUPS_MAX (65536).
    pub groups: Arc<[u32]>,
    /// Effective capabilities, a bit each.
    pub effective: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Inheritable capabilities.
    pub inheritable: u64,
    /// Bounding set.
    pub bounding: u64,
    /// Ambient set.
    pub ambient: u64,
    /// PR_SET_SECUREBITS; bit 4 is PR_SET_KEEPCAPS.
    pub secure_bits: u32,
}

/// Bits of [`Credentials::secure_bits`].
pub mod secure {
    /// Programs of root get no capabilities.
    pub const NO_ROOT: u32 = 1;
    /// Changes of ids leave capabilities alone.
    pub const NO_FIXUP: u32 = 4;
    /// A change away from root keeps permitted capabilities.
    pub const KEEP: u32 = 16;
    /// Nothing may be raised into the ambient set.
    pub const NO_AMBIENT: u32 = 64;
    /// All bits: each of the above with its lock.
    pub const ALL: u32 = 0xff;
    /// The locks.
    pub const LOCKS: u32 = 0xaa;
}

impl Credentials {
    /// A user with one primary group; user 0 gets [`ROOT_CAPABILITIES`].
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let capabilities = if uid == 0 { ROOT_CAPABILITIES } else { 0 };
        Self {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: groups.into(),
            effective: capabilities,
            permitted: capabilities,
            inheritable: 0,
            bounding: ROOT_CAPABILITIES,
            ambient: 0,
            secure_bits: 0,
        }
    }

    /// Whether the effective set has a capability.
    pub const fn can(&self, capability: Capability) -> bool {
        self.effective & (1 << capability as u8) != 0
    }

    /// Whether `gid` is the group for file access or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// The same user with real instead of effective ids, as access(2) asks for.
    #[must_use]
    pub fn as_real(&self) -> Self {
        let mut real = self.clone();
        real.fsuid = self.uid;
        real.fsgid = self.gid;
        real.effective = if self.uid == 0 { self.permitted } else { 0 };
        real
    }
}
