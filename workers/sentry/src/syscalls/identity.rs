//! Who a process is: numbers, users, groups, capabilities, process groups and sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Entry;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Pid, Process};
use crate::vfs::{Capability, Credentials, secure};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(39, "getpid", |cx, _| Ok(cx.pid() as u64)).by(&["identity:numbers"]),
    Entry::full(102, "getuid", |cx, _| Ok(cx.credentials().uid.into())).by(&["identity:numbers"]),
    Entry::full(104, "getgid", |cx, _| Ok(cx.credentials().gid.into())).by(&["identity:numbers"]),
    Entry::full(105, "setuid", sys_setuid).by(&["identity:users_and_groups"]),
    Entry::full(106, "setgid", sys_setgid).by(&["identity:users_and_groups"]),
    Entry::full(107, "geteuid", |cx, _| Ok(cx.credentials().euid.into())).by(&["identity:numbers"]),
    Entry::full(108, "getegid", |cx, _| Ok(cx.credentials().egid.into())).by(&["identity:numbers"]),
    Entry::full(109, "setpgid", sys_setpgid).by(&["identity:groups_and_sessions"]),
    Entry::full(110, "getppid", sys_getppid).by(&["identity:numbers", "processes:orphans_and_reapers"]),
    Entry::full(111, "getpgrp", |cx, _| group_of(cx, 0))
        .by(&["identity:groups_and_sessions", "identity:numbers"]),
    Entry::full(112, "setsid", sys_setsid).by(&["identity:groups_and_sessions"]),
    Entry::full(113, "setreuid", sys_setreuid).by(&["identity:users_and_groups"]),
    Entry::full(114, "setregid", sys_setregid).by(&["identity:users_and_groups"]),
    Entry::full(115, "getgroups", sys_getgroups).by(&["identity:supplementary_groups"]),
    Entry::full(116, "setgroups", sys_setgroups).by(&["identity:supplementary_groups"]),
    Entry::full(117, "setresuid", sys_setresuid)
        .by(&["identity:kept_capabilities", "identity:users_and_groups"]),
    Entry::full(118, "getresuid", sys_getresuid).by(&["identity:users_and_groups"]),
    Entry::full(119, "setresgid", sys_setresgid).by(&["identity:users_and_groups"]),
    Entry::full(120, "getresgid", sys_getresgid).by(&["identity:users_and_groups"]),
    Entry::full(121, "getpgid", |cx, args| group_of(cx, args.int(0)))
        .by(&["identity:groups_and_sessions", "identity:numbers"]),
    Entry::full(122, "setfsuid", sys_setfsuid).by(&["identity:users_and_groups"]),
    Entry::full(123, "setfsgid", sys_setfsgid).by(&["identity:users_and_groups"]),
    Entry::full(124, "getsid", sys_getsid).by(&["identity:groups_and_sessions", "identity:numbers"]),
    Entry::full(125, "capget", sys_capget).by(&["identity:capabilities"]),
    Entry::full(126, "capset", sys_capset).by(&["identity:capabilities"]),
    Entry::full(186, "gettid", |cx, _| Ok(cx.tid() as u64)).by(&["identity:numbers"]),
];

/// The value that leaves an id as it is.
const KEEP: u32 = u32::MAX;

fn change(cx: &Ctx<'_>, change: impl FnOnce(&mut Credentials) -> Result<(), Errno>) -> SysResult {
    let old = cx.credentials();
    let mut new = (*old).clone();
    change(&mut new)?;
    adjust_capabilities(&old, &mut new);
    let ids = |of: &Credentials| (of.euid, of.egid, of.fsuid, of.fsgid);
    if ids(&old) != ids(&new) || new.permitted & !old.permitted != 0 {
        // Others of the new identity may not look into what this process learnt as the old one.
        cx.task.process.dumpable.store(0, Ordering::Relaxed);
    }
    cx.task.set_credentials(Arc::new(new));
    Ok(0)
}

/// What Linux does to capabilities when user ids move from or to root.
fn adjust_capabilities(old: &Credentials, new: &mut Credentials) {
    if new.secure_bits & secure::NO_FIXUP != 0 {
        return;
    }
    let had_root = [old.uid, old.euid, old.suid].contains(&0);
    let has_root = [new.uid, new.euid, new.suid].contains(&0);
    if had_root && !has_root {
        if new.secure_bits & secure::KEEP == 0 {
            new.permitted = 0;
        }
        (new.effective, new.ambient) = (0, 0);
    } else if old.euid == 0 && new.euid != 0 {
        new.effective = 0;
    } else if old.euid != 0 && new.euid == 0 {
        new.effective = new.permitted;
    }
}

fn sys_setuid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let uid = valid(args.uint(0))?;
    change(cx, |new| {
        if new.can(Capability::Setuid) {
            (new.uid, new.suid) = (uid, uid);
        } else if uid != new.uid && uid != new.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        Ok(())
    })
}

fn sys_setgid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let gid = valid(args.uint(0))?;
    change(cx, |new| {
        if new.can(Capability::Setgid) {
            (new.gid, new.sgid) = (gid, gid);
        } else if gid != new.gid && gid != new.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(())
    })
}

fn valid(id: u32) -> Result<u32, Errno> {
    if id == KEEP { Err(Errno::EINVAL) } else { Ok(id) }
}

fn allowed(privileged: bool, wanted: u32, among: &[u32]) -> Result<(), Errno> {
    if wanted == KEEP || privileged || among.contains(&wanted) { Ok(()) } else { Err(Errno::EPERM) }
}

fn set(to: &mut u32, wanted: u32) {
    if wanted != KEEP {
        *to = wanted;
    }
}

fn sys_setreuid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (real, effective) = (args.uint(0), args.uint(1));
    change(cx, |new| {
        let privileged = new.can(Capability::Setuid);
        allowed(privileged, real, &[new.uid, new.euid])?;
        allowed(privileged, effective, &[new.uid, new.euid, new.suid])?;
        let old_uid = new.uid;
        set(&mut new.uid, real);
        set(&mut new.euid, effective);
        if real != KEEP || (effective != KEEP && effective != old_uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(())
    })
}

fn sys_setregid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (real, effective) = (args.uint(0), args.uint(1));
    change(cx, |new| {
        let privileged = new.can(Capability::Setgid);
        allowed(privileged, real, &[new.gid, new.egid])?;
        allowed(privileged, effective, &[new.gid, new.egid, new.sgid])?;
        let old_gid = new.gid;
        set(&mut new.gid, real);
        set(&mut new.egid, effective);
        if real != KEEP || (effective != KEEP && effective != old_gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

fn sys_setresuid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let wanted = [args.uint(0), args.uint(1), args.uint(2)];
    change(cx, |new| {
        let (privileged, among) = (new.can(Capability::Setuid), [new.uid, new.euid, new.suid]);
        for id in wanted {
            allowed(privileged, id, &among)?;
        }
        set(&mut new.uid, wanted[0]);
        set(&mut new.euid, wanted[1]);
        set(&mut new.suid, wanted[2]);
        new.fsuid = new.euid;
        Ok(())
    })
}

fn sys_setresgid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let wanted = [args.uint(0), args.uint(1), args.uint(2)];
    change(cx, |new| {
        let (privileged, among) = (new.can(Capability::Setgid), [new.gid, new.egid, new.sgid]);
        for id in wanted {
            allowed(privileged, id, &among)?;
        }
        set(&mut new.gid, wanted[0]);
        set(&mut new.egid, wanted[1]);
        set(&mut new.sgid, wanted[2]);
        new.fsgid = new.egid;
        Ok(())
    })
}

fn sys_getresuid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let c = cx.credentials();
    three(cx, args, [c.uid, c.euid, c.suid])
}

fn sys_getresgid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let c = cx.credentials();
    three(cx, args, [c.gid, c.egid, c.sgid])
}

fn three(cx: &Ctx<'_>, args: &Args, values: [u32; 3]) -> SysResult {
    for (at, value) in values.iter().enumerate() {
        cx.memory.write_value(args.u64(at), value)?;
    }
    Ok(0)
}

fn sys_setfsuid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (old, uid) = (cx.credentials(), args.uint(0));
    if old.can(Capability::Setuid) || [old.uid, old.euid, old.suid, old.fsuid].contains(&uid) {
        let _always = change(cx, |new| {
            set(&mut new.fsuid, uid);
            Ok(())
        });
    }
    Ok(old.fsuid.into())
}

fn sys_setfsgid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (old, gid) = (cx.credentials(), args.uint(0));
    if old.can(Capability::Setgid) || [old.gid, old.egid, old.sgid, old.fsgid].contains(&gid) {
        let _always = change(cx, |new| {
            set(&mut new.fsgid, gid);
            Ok(())
        });
    }
    Ok(old.fsgid.into())
}

/// NGROUPS_MAX.
const GROUPS_MAX: usize = 65_536;

fn sys_getgroups(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let credentials = cx.credentials();
    let (room, have) = (args.int(0), credentials.groups.len());
    if room != 0 {
        if usize::try_from(room).map_or(true, |room| room < have) {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = credentials.groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
        cx.memory.write(args.u64(1), &bytes)?;
    }
    Ok(have as u64)
}

fn sys_setgroups(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if !cx.credentials().can(Capability::Setgid) {
        return Err(Errno::EPERM.into());
    }
    let count = args.usize(0);
    if count > GROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0; 4 * count];
    cx.memory.read(args.u64(1), &mut bytes)?;
    let mut groups: Vec<u32> =
        bytes.chunks_exact(4).map(|gid| u32::from_ne_bytes(gid.try_into().unwrap_or_default())).collect();
    groups.sort_unstable();
    change(cx, |new| {
        new.groups = groups.into();
        Ok(())
    })
}

fn sys_getppid(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Ok(cx.kernel.tree.lock().node(cx.pid()).map_or(0, |node| node.parent) as u64)
}

fn group_of(cx: &Ctx<'_>, pid: Pid) -> SysResult {
    let pid = if pid == 0 { cx.pid() } else { pid };
    let tree = cx.kernel.tree.lock();
    Ok(tree.node(pid).map(|node| node.group as u64).ok_or(Errno::ESRCH)?)
}

fn sys_getsid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let pid = if args.int(0) == 0 { cx.pid() } else { args.int(0) };
    let tree = cx.kernel.tree.lock();
    Ok(tree.node(pid).map(|node| node.session as u64).ok_or(Errno::ESRCH)?)
}

fn sys_setpgid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let own = cx.pid();
    let pid = if args.int(0) == 0 { own } else { args.int(0) };
    let group = if args.int(1) == 0 { pid } else { args.int(1) };
    if group < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut tree = cx.kernel.tree.lock();
    let session = tree.node(own).map(|node| node.session).ok_or(Errno::ESRCH)?;
    let target = tree.node(pid).ok_or(Errno::ESRCH)?;
    if pid != own {
        if target.parent != own {
            return Err(Errno::ESRCH.into());
        }
        if target.session != session {
            return Err(Errno::EPERM.into());
        }
        if target.process.has_execed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES.into());
        }
    }
    if target.session == pid {
        return Err(Errno::EPERM.into());
    }
    if group != pid && !tree.nodes().any(|node| node.group == group && node.session == session) {
        return Err(Errno::EPERM.into());
    }
    if let Some(node) = tree.node_mut(pid) {
        node.group = group;
    }
    Ok(0)
}

fn sys_setsid(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    let own = cx.pid();
    let mut tree = cx.kernel.tree.lock();
    if tree.nodes().any(|node| node.group == own) {
        return Err(Errno::EPERM.into());
    }
    if let Some(node) = tree.node_mut(own) {
        (node.group, node.session) = (own, own);
    }
    Ok(own as u64)
}

/// Whether the caller may change or look into another process: the same user in all its ids, or a capability.
pub(super) fn may_change(cx: &Ctx<'_>, process: &Process) -> bool {
    let own = cx.credentials();
    let Some(other) = process.leader().map(|task| task.credentials()) else { return false };
    let same = [other.uid, other.euid, other.suid].iter().all(|uid| *uid == own.uid);
    same || own.can(Capability::SysResource) || own.can(Capability::SysPtrace) || own.euid == 0
}

/// The versions of capget(2)'s structures: 32 capabilities, and twice 64.
const CAPABILITY_VERSION_1: u32 = 0x1998_0330;
const CAPABILITY_VERSION_2: u32 = 0x2007_1026;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Reads the header of capget and capset: the process, and whether it is about 64 capabilities.
fn capability_header(cx: &Ctx<'_>, header: u64) -> Result<(Pid, bool), Errno> {
    let [version, pid]: [u32; 2] = cx.memory.read_value(header)?;
    match version {
        CAPABILITY_VERSION_1 => Ok((pid as i32, false)),
        CAPABILITY_VERSION_2 | CAPABILITY_VERSION_3 => Ok((pid as i32, true)),
        _ => {
            cx.memory.write_value(header, &CAPABILITY_VERSION_3)?;
            Err(Errno::EINVAL)
        }
    }
}

fn sys_capget(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (pid, wide) = match capability_header(cx, args.u64(0)) {
        // Asking with a null pointer only probes for the version.
        Err(Errno::EINVAL) if args.u64(1) == 0 => return Ok(0),
        other => other?,
    };
    let target = match pid {
        pid if pid < 0 => return Err(Errno::EINVAL.into()),
        pid if pid == 0 || pid == cx.tid() => cx.credentials(),
        pid => cx.kernel.tree.lock().task(pid).map(|task| task.credentials()).ok_or(Errno::ESRCH)?,
    };
    let halves = |set: u64| [set as u32, (set >> 32) as u32];
    let (e, p, i) = (halves(target.effective), halves(target.permitted), halves(target.inheritable));
    if args.u64(1) != 0 {
        cx.memory.write_value(args.u64(1), &[e[0], p[0], i[0]])?;
        if wide {
            cx.memory.write_value(args.u64(1).wrapping_add(12), &[e[1], p[1], i[1]])?;
        }
    }
    Ok(0)
}

fn sys_capset(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (pid, wide) = capability_header(cx, args.u64(0))?;
    if pid != 0 && pid != cx.tid() {
        return Err(Errno::EPERM.into());
    }
    let [e0, p0, i0]: [u32; 3] = cx.memory.read_value(args.u64(1))?;
    let [e1, p1, i1]: [u32; 3] =
        if wide { cx.memory.read_value(args.u64(1).wrapping_add(12))? } else { [0; 3] };
    let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let (effective, permitted, inheritable) = (whole(e0, e1), whole(p0, p1), whole(i0, i1));
    let old = cx.credentials();
    let may_inherit = old.inheritable | old.permitted;
    let raises_inheritable = inheritable & !may_inherit != 0 && !old.can(Capability::Setpcap);
    if permitted & !old.permitted != 0 || effective & !permitted != 0 || raises_inheritable {
        return Err(Errno::EPERM.into());
    }
    let mut new = (*old).clone();
    (new.effective, new.permitted, new.inheritable) = (effective, permitted, inheritable);
    new.ambient &= permitted & inheritable;
    cx.task.set_credentials(Arc::new(new));
    Ok(0)
}
