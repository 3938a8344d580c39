//! Scheduling: what programs ask about, and what is taken as a hint.

use super::Entry;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Pid, Process, Task};
use crate::vfs::Capability;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(24, "sched_yield", |_, _| Ok(0)).by(&["identity:scheduling"]),
    Entry::full(140, "getpriority", sys_getpriority).by(&["identity:niceness"]),
    Entry::partial(141, "setpriority", sys_setpriority, "kept and shown; the job's cgroup decides")
        .by(&["identity:niceness"]),
    Entry::partial(142, "sched_setparam", sys_sched_setparam, "SCHED_OTHER, BATCH and IDLE only")
        .by(&["identity:scheduling", "noted:processes"]),
    Entry::full(143, "sched_getparam", sys_sched_getparam).by(&["identity:scheduling"]),
    Entry::partial(144, "sched_setscheduler", sys_sched_setscheduler, "real-time policies: EPERM")
        .by(&["identity:scheduling", "noted:processes"]),
    Entry::full(145, "sched_getscheduler", sys_sched_getscheduler).by(&["identity:scheduling"]),
    Entry::full(146, "sched_get_priority_max", |_, args| priority(args.int(0), 99))
        .by(&["identity:scheduling"]),
    Entry::full(147, "sched_get_priority_min", |_, args| priority(args.int(0), 1))
        .by(&["identity:scheduling"]),
    Entry::full(148, "sched_rr_get_interval", sys_sched_rr_get_interval).by(&["identity:scheduling"]),
    Entry::full(203, "sched_setaffinity", sys_sched_setaffinity).by(&["identity:affinity"]),
    Entry::full(204, "sched_getaffinity", sys_sched_getaffinity).by(&["identity:affinity"]),
    Entry::partial(251, "ioprio_set", sys_ioprio_set, "kept and shown; the job's limits decide")
        .by(&["identity:io_priorities", "noted:processes"]),
    Entry::full(252, "ioprio_get", sys_ioprio_get).by(&["identity:io_priorities"]),
    Entry::full(309, "getcpu", sys_getcpu).by(&["identity:affinity"]),
    Entry::partial(314, "sched_setattr", sys_sched_setattr, "real-time and deadline policies: EPERM")
        .by(&["identity:scheduling_attributes", "noted:processes"]),
    Entry::full(315, "sched_getattr", sys_sched_getattr).by(&["identity:scheduling_attributes"]),
];

fn target(cx: &Ctx<'_>, pid: Pid) -> Result<Arc<Task>, Errno> {
    match pid {
        0 => Ok(cx.task.clone()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => cx.kernel.tree.lock().task(pid).ok_or(Errno::ESRCH),
    }
}

/// Whether the caller may change a thread's scheduling.
fn may_schedule(cx: &Ctx<'_>, task: &Task) -> Result<(), Errno> {
    let (own, other) = (cx.credentials(), task.credentials());
    let mine = own.euid == other.euid || own.euid == other.uid;
    if mine || own.can(Capability::SysNice) { Ok(()) } else { Err(Errno::EPERM) }
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
        if let Some(leader) = process.leader() {
            may_schedule(cx, &leader)?;
        }
        if nice < process.nice.load(Ordering::Relaxed) && !cx.credentials().can(Capability::SysNice) {
            return Err(Errno::EACCES.into());
        }
        process.nice.store(nice, Ordering::Relaxed);
    }
    Ok(0)
}

const SCHED_OTHER: i32 = 0;
const SCHED_FIFO: i32 = 1;
const SCHED_RR: i32 = 2;
const SCHED_BATCH: i32 = 3;
const SCHED_IDLE: i32 = 5;
const SCHED_DEADLINE: i32 = 6;
const RESET_ON_FORK: i32 = 0x4000_0000;

fn parameter(cx: &Ctx<'_>, address: u64) -> Result<i32, Errno> {
    if address == 0 { Err(Errno::EINVAL) } else { cx.memory.read_value(address) }
}

/// Checks a policy and its priority: real-time ones need a right that no job has.
fn check_policy(policy: i32, priority: i32) -> Result<(), Errno> {
    match (policy, priority) {
        (SCHED_OTHER | SCHED_BATCH | SCHED_IDLE, 0) => Ok(()),
        (SCHED_FIFO | SCHED_RR, 1..=99) | (SCHED_DEADLINE, 0) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

fn sys_sched_setparam(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let priority = parameter(cx, args.u64(1))?;
    let task = target(cx, args.int(0))?;
    let policy = task.scheduling.lock().policy;
    check_policy(policy, priority)?;
    may_schedule(cx, &task)?;
    Ok(0)
}

fn sys_sched_getparam(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.u64(1) == 0 {
        return Err(Errno::EINVAL.into());
    }
    target(cx, args.int(0))?;
    cx.memory.write_value(args.u64(1), &0i32)?;
    Ok(0)
}

fn sys_sched_setscheduler(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let priority = parameter(cx, args.u64(2))?;
    let task = target(cx, args.int(0))?;
    let policy = args.int(1) & !RESET_ON_FORK;
    check_policy(policy, priority)?;
    may_schedule(cx, &task)?;
    let mut scheduling = task.scheduling.lock();
    (scheduling.policy, scheduling.resets_on_fork) = (policy, args.int(1) & RESET_ON_FORK != 0);
    Ok(0)
}

fn sys_sched_getscheduler(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let task = target(cx, args.int(0))?;
    let scheduling = task.scheduling.lock();
    let reset = if scheduling.resets_on_fork { RESET_ON_FORK } else { 0 };
    Ok((scheduling.policy | reset) as u64)
}

/// Bytes of the first `struct sched_attr`, and of today's.
const ATTR_FIRST: usize = 48;
const ATTR_SIZE: usize = 56;
/// SCHED_FLAG_RESET_ON_FORK.
const FLAG_RESET_ON_FORK: u64 = 1;

fn sys_sched_setattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// Bytes that are read at most: a page, as on Linux.
    const MOST: usize = 4096;
    if args.u64(1) == 0 || args.int(0) < 0 || args.uint(2) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let size = match cx.memory.read_value::<u32>(args.u64(1))? as usize {
        0 => ATTR_FIRST,
        size => size,
    };
    if !(ATTR_FIRST..=MOST).contains(&size) {
        cx.memory.write_value(args.u64(1), &(ATTR_SIZE as u32))?;
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; size.max(ATTR_SIZE)];
    cx.memory.read(args.u64(1), &mut bytes[..size])?;
    if bytes[ATTR_SIZE..].iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let word = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    let (policy, nice, priority) = (word(4), word(16), word(20));
    let flags = word(8) as u32;
    let task = target(cx, args.int(0))?;
    if u64::from(flags) & !FLAG_RESET_ON_FORK != 0 || word(12) != 0 {
        return Err(Errno::EINVAL.into());
    }
    check_policy(policy, priority)?;
    let old = task.process.nice.load(Ordering::Relaxed);
    let nice = nice.clamp(-20, 19);
    may_schedule(cx, &task)?;
    if policy != SCHED_IDLE {
        if nice < old && !cx.credentials().can(Capability::SysNice) {
            return Err(Errno::EPERM.into());
        }
        task.process.nice.store(nice, Ordering::Relaxed);
    }
    let mut scheduling = task.scheduling.lock();
    (scheduling.policy, scheduling.resets_on_fork) = (policy, flags & 1 != 0);
    Ok(0)
}

fn sys_sched_getattr(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let size = args.uint(2) as usize;
    if args.u64(1) == 0 || args.int(0) < 0 || args.uint(3) != 0 || !(ATTR_FIRST..=4096).contains(&size) {
        return Err(Errno::EINVAL.into());
    }
    let task = target(cx, args.int(0))?;
    let (policy, resets) = {
        let scheduling = task.scheduling.lock();
        (scheduling.policy, scheduling.resets_on_fork)
    };
    let mut bytes = [0; ATTR_SIZE];
    let size = size.min(ATTR_SIZE);
    let mut put = |at: usize, value: i32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, size as i32);
    put(4, policy);
    put(8, i32::from(resets));
    put(16, task.process.nice.load(Ordering::Relaxed));
    cx.memory.write(args.u64(1), &bytes[..size])?;
    Ok(0)
}

fn priority(policy: i32, realtime: u64) -> SysResult {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(realtime),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sys_sched_rr_get_interval(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    target(cx, args.int(0))?;
    cx.memory.write_value(args.u64(1), &[0u64, 4_000_000])?;
    Ok(0)
}

/// Programs see as many CPUs as the job's limit is worth, by the lowest numbers.
fn cpus_of_sandbox(cx: &Ctx<'_>) -> Vec<u64> {
    const WORD: usize = u64::BITS as usize;
    let cpus = cx.kernel.limits.cpus();
    let word = |n: usize| match cpus - n * WORD {
        left if left >= WORD => u64::MAX,
        left => (1 << left) - 1,
    };
    (0..cpus.div_ceil(WORD)).map(word).collect()
}

fn sys_sched_getaffinity(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let all = cpus_of_sandbox(cx);
    if !args.uint(1).is_multiple_of(8) || (args.uint(1) as usize) < all.len() * 8 {
        return Err(Errno::EINVAL.into());
    }
    let task = target(cx, args.int(0))?;
    let mask = task.scheduling.lock().affinity.clone().unwrap_or(all);
    let bytes: Vec<u8> = mask.iter().flat_map(|word| word.to_ne_bytes()).collect();
    cx.memory.write(args.u64(2), &bytes)?;
    Ok(bytes.len() as u64)
}

fn sys_sched_setaffinity(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let mut all = cpus_of_sandbox(cx);
    let mut given = vec![0u8; all.len() * 8];
    let length = (args.uint(1) as usize).min(given.len());
    cx.memory.read(args.u64(2), &mut given[..length])?;
    let task = target(cx, args.int(0))?;
    may_schedule(cx, &task)?;
    let whole = all.clone();
    for (word, bytes) in all.iter_mut().zip(given.chunks_exact(8)) {
        *word &= u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    if all.iter().all(|word| *word == 0) {
        return Err(Errno::EINVAL.into());
    }
    place(&task, &all, &whole);
    task.scheduling.lock().affinity = (all != whole).then_some(all);
    Ok(0)
}

/// Has the host keep to the mask, by the same numbers: as far as it has such CPUs. All of the sandbox's stands
/// for all of the host's.
fn place(task: &Task, mask: &[u64], whole: &[u64]) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU {
        let (word, bit) = (cpu / 64, 1u64 << (cpu % 64));
        if mask == whole || mask.get(word).is_some_and(|word| word & bit != 0) {
            set.set(cpu);
        }
    }
    let thread = task.host().and_then(|host| rustix::process::Pid::from_raw(host.tid()));
    if thread.is_some() {
        let _host_has_none_of_them = sched_setaffinity(thread, &set);
    }
}

fn sys_getcpu(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    for at in [0, 1] {
        if args.u64(at) != 0 {
            cx.memory.write_value(args.u64(at), &0u32)?;
        }
    }
    Ok(0)
}

/// The processes that ioprio_get and ioprio_set mean: as for getpriority, but counted from 1.
fn io_processes(cx: &Ctx<'_>, args: &Args) -> Result<Vec<Arc<Process>>, Errno> {
    let which = args.int(0);
    if (1..=3).contains(&which) { processes(cx, which - 1, args.int(1)) } else { Err(Errno::EINVAL) }
}

fn sys_ioprio_set(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const NONE: u32 = 0;
    const REALTIME: u32 = 1;
    const BEST_EFFORT: u32 = 2;
    const IDLE: u32 = 3;
    let (class, level) = (args.uint(2) >> 13 & 7, args.uint(2) & 7);
    match class {
        REALTIME if !cx.credentials().can(Capability::SysAdmin) => return Err(Errno::EPERM.into()),
        NONE if level != 0 => return Err(Errno::EINVAL.into()),
        NONE | REALTIME | BEST_EFFORT | IDLE => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    for process in io_processes(cx, args)? {
        if let Some(leader) = process.leader() {
            may_schedule(cx, &leader)?;
            leader.scheduling.lock().io_priority = args.uint(2) as u16;
        }
    }
    Ok(0)
}

fn sys_ioprio_get(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let of = |process: &Arc<Process>| process.leader().map(|leader| leader.scheduling.lock().io_priority);
    let set = io_processes(cx, args)?.iter().filter_map(of).filter(|priority| *priority != 0).min();
    Ok(set.unwrap_or(0).into())
}
