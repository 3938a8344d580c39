//! Scheduling: what programs ask about, and what is taken as a hint.

use super::Entry;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Pid, Process};
use crate::vfs::Capability;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(24, "sched_yield", |_, _| Ok(0)),
    Entry::full(140, "getpriority", sys_getpriority),
    Entry::partial(141, "setpriority", sys_setpriority, "kept and shown; the job's cgroup decides"),
    Entry::partial(142, "sched_setparam", sys_sched_setparam, "SCHED_OTHER, BATCH and IDLE only"),
    Entry::full(143, "sched_getparam", sys_sched_getparam),
    Entry::partial(144, "sched_setscheduler", sys_sched_setscheduler, "real-time policies: EPERM"),
    Entry::full(145, "sched_getscheduler", |cx, args| target(cx, args.int(0)).map(|_| 0).map_err(Into::into)),
    Entry::full(146, "sched_get_priority_max", |_, args| priority(args.int(0), 99)),
    Entry::full(147, "sched_get_priority_min", |_, args| priority(args.int(0), 1)),
    Entry::full(148, "sched_rr_get_interval", sys_sched_rr_get_interval),
    Entry::partial(203, "sched_setaffinity", sys_sched_setaffinity, "checked, not kept"),
    Entry::full(204, "sched_getaffinity", sys_sched_getaffinity),
    Entry::full(251, "ioprio_set", |_, _| Ok(0)),
    Entry::full(252, "ioprio_get", |_, _| Ok(0)),
    Entry::full(309, "getcpu", sys_getcpu),
    Entry::refused(314, "sched_setattr", Errno::EPERM, "policies are the host's affair"),
    Entry::refused(315, "sched_getattr", Errno::ENOSYS, "use sched_getscheduler"),
];

fn target(cx: &Ctx<'_>, pid: Pid) -> Result<Arc<Process>, Errno> {
    match pid {
        0 => Ok(cx.task.process.clone()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => cx.kernel.tree.lock().task(pid).map(|task| task.process.clone()).ok_or(Errno::ESRCH),
    }
}

fn processes(cx: &Ctx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Process>>, Errno> {
    const PRIO_PROCESS: i32 = 0;
    const PRIO_PGRP: i32 = 1;
    const PRIO_USER: i32 = 2;
    let tree = cx.kernel.tree.lock();
    let found: Vec<Arc<Process>> = match which {
        PRIO_PROCESS if who == 0 => vec![cx.task.process.clone()],
        PRIO_PROCESS => tree.task(who).map(|task| task.process.clone()).into_iter().collect(),
        PRIO_PGRP => {
            let group = if who == 0 { tree.node(cx.pid()).map_or(0, |node| node.group) } else { who };
            tree.group(group)
        }
        PRIO_USER => {
            let user = if who == 0 { cx.credentials().uid } else { who as u32 };
            let all: Vec<_> = tree.nodes().map(|node| node.process.clone()).collect();
            all.into_iter().filter(|process| crate::kernel::uid_of(process) == user).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

fn sys_getpriority(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let processes = processes(cx, args.int(0), args.int(1))?;
    let nice = processes.iter().map(|process| process.nice.load(Ordering::Relaxed)).min().unwrap_or(0);
    // The call returns 1 to 40, so that errors can be told apart.
    Ok((20 - nice) as u64)
}

fn sys_setpriority(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let nice = args.int(2).clamp(-20, 19);
    for process in processes(cx, args.int(0), args.int(1))? {
        if nice < process.nice.load(Ordering::Relaxed) && !cx.credentials().can(Capability::SysNice) {
            return Err(Errno::EACCES.into());
        }
        process.nice.store(nice, Ordering::Relaxed);
    }
    Ok(0)
}

const POLICIES: [i32; 3] = [0, 3, 5];

fn sys_sched_setparam(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    target(cx, args.int(0))?;
    let priority: i32 = cx.memory.read_value(args.u64(1))?;
    if priority == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

fn sys_sched_getparam(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    target(cx, args.int(0))?;
    cx.memory.write_value(args.u64(1), &0i32)?;
    Ok(0)
}

fn sys_sched_setscheduler(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const RESET_ON_FORK: i32 = 0x4000_0000;
    target(cx, args.int(0))?;
    let priority: i32 = cx.memory.read_value(args.u64(2))?;
    let policy = args.int(1) & !RESET_ON_FORK;
    if !POLICIES.contains(&policy) {
        return Err(if matches!(policy, 1 | 2 | 6) { Errno::EPERM } else { Errno::EINVAL }.into());
    }
    if priority == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

fn priority(policy: i32, realtime: u64) -> SysResult {
    match policy {
        1 | 2 => Ok(realtime),
        0 | 3 | 5 | 6 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sys_sched_rr_get_interval(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    target(cx, args.int(0))?;
    cx.memory.write_value(args.u64(1), &[0u64, 4_000_000])?;
    Ok(0)
}

/// Programs see as many CPUs as the job's limit is worth, by the lowest numbers.
fn cpu_mask(cx: &Ctx<'_>) -> Vec<u8> {
    let cpus = cx.kernel.limits.cpus();
    let mut mask = vec![0u8; cpus.div_ceil(64) * 8];
    for cpu in 0..cpus {
        mask[cpu / 8] |= 1 << (cpu % 8);
    }
    mask
}

fn sys_sched_getaffinity(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    target(cx, args.int(0))?;
    let mask = cpu_mask(cx);
    if !args.usize(1).is_multiple_of(8) || args.usize(1) < mask.len() {
        return Err(Errno::EINVAL.into());
    }
    cx.memory.write(args.u64(2), &mask)?;
    Ok(mask.len() as u64)
}

fn sys_sched_setaffinity(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// Bytes of a mask that are looked at: 8,192 CPUs.
    const MASK_MAX: usize = 1024;
    target(cx, args.int(0))?;
    let own = cpu_mask(cx);
    let mut wanted = vec![0; args.usize(1).min(MASK_MAX)];
    cx.memory.read(args.u64(2), &mut wanted)?;
    let common = own.iter().zip(&wanted).any(|(own, wanted)| own & wanted != 0);
    if common { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

fn sys_getcpu(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    for at in [0, 1] {
        if args.u64(at) != 0 {
            cx.memory.write_value(args.u64(at), &0u32)?;
        }
    }
    Ok(0)
}
