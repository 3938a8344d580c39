//! Signal actions, masks, stacks, sending and waiting.

use std::sync::Arc;

use super::Entry;
use crate::call::{Args, Fail, Restart, SysResult};
use crate::errno::Errno;
use crate::kernel::signal::{
    Action, DefaultAction, Info, SigSet, Signal, code, refresh_attention, sigreturn, try_post_process,
    try_post_task,
};
use crate::kernel::{Ctx, FIRST_PID, Pid, Process, State, Task};
use crate::vfs::Capability;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(13, "rt_sigaction", sys_rt_sigaction).by(&[
        "signals:actions",
        "signals:faults",
        "signals:restarts",
        "signals:stopping",
    ]),
    Entry::full(14, "rt_sigprocmask", sys_rt_sigprocmask)
        .by(&["signals:masks", "signals:threads_and_signals"]),
    Entry::full(15, "rt_sigreturn", sys_rt_sigreturn).by(&["signals:actions", "signals:faults"]),
    Entry::full(34, "pause", sys_pause).by(&["signals:waiting"]),
    Entry::full(62, "kill", sys_kill).by(&["signals:sending", "signals:stopping"]),
    Entry::full(127, "rt_sigpending", sys_rt_sigpending).by(&["signals:masks"]),
    Entry::full(128, "rt_sigtimedwait", sys_rt_sigtimedwait)
        .by(&["signals:threads_and_signals", "signals:waiting"]),
    Entry::full(129, "rt_sigqueueinfo", sys_rt_sigqueueinfo).by(&["signals:queueing"]),
    Entry::full(130, "rt_sigsuspend", sys_rt_sigsuspend).by(&["signals:waiting"]),
    Entry::full(131, "sigaltstack", sys_sigaltstack).by(&["signals:alternate_stack"]),
    Entry::full(200, "tkill", sys_tkill).by(&["signals:sending"]),
    Entry::full(234, "tgkill", sys_tgkill).by(&["signals:sending", "signals:threads_and_signals"]),
    Entry::full(297, "rt_tgsigqueueinfo", sys_rt_tgsigqueueinfo).by(&["signals:queueing"]),
];

fn set_size(args: &Args, at: usize) -> Result<(), Errno> {
    if args.u64(at) == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn sys_rt_sigaction(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    set_size(args, 3)?;
    let signal = Signal::new(args.int(0))?;
    let new: Option<Action> = match args.u64(1) {
        0 => None,
        address => Some(cx.memory.read_value(address)?),
    };
    if new.is_some() && SigSet::UNBLOCKABLE.has(signal) {
        return Err(Errno::EINVAL.into());
    }
    let process = cx.task.process.clone();
    let old = match new {
        None => *process.signals.lock().actions.get(signal),
        Some(new) => {
            let new = Action { mask: SigSet(new.mask).blockable().0, ..new };
            let ignores = new.ignores(signal)
                || (new.handler == Action::DEFAULT && DefaultAction::of(signal) == DefaultAction::Continue);
            let old = process.with_pending(|signals| {
                if ignores {
                    signals.pending.discard(SigSet::of(&[signal]));
                }
                signals.actions.set(signal, new)
            });
            if ignores {
                for task in process.tasks() {
                    task.signals.lock().pending.discard(SigSet::of(&[signal]));
                }
            }
            old
        }
    };
    if args.u64(2) != 0 {
        cx.memory.write_value(args.u64(2), &old)?;
    }
    Ok(0)
}

fn sys_rt_sigprocmask(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const SIG_BLOCK: i32 = 0;
    const SIG_UNBLOCK: i32 = 1;
    const SIG_SETMASK: i32 = 2;
    set_size(args, 3)?;
    let given: Option<u64> = match args.u64(1) {
        0 => None,
        address => Some(cx.memory.read_value(address)?),
    };
    let old = {
        let mut signals = cx.task.signals.lock();
        let old = signals.mask;
        if let Some(given) = given {
            let new = match args.int(0) {
                SIG_BLOCK => old.0 | given,
                SIG_UNBLOCK => old.0 & !given,
                SIG_SETMASK => given,
                _ => return Err(Errno::EINVAL.into()),
            };
            signals.mask = SigSet(new).blockable();
        }
        old
    };
    if given.is_some() {
        refresh_attention(cx.task);
    }
    if args.u64(2) != 0 {
        cx.memory.write_value(args.u64(2), &old.0)?;
    }
    Ok(0)
}

fn sys_rt_sigreturn(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    let registers = cx.registers.as_deref_mut().ok_or(Errno::ENOSYS)?;
    if sigreturn(cx.task, registers).is_err() {
        crate::kernel::signal::force(cx.task, Info::new(Signal::SEGV, code::SI_KERNEL));
    }
    // The register is part of what was restored.
    Ok(registers.rax)
}

fn sys_pause(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Err(cx.park(Restart::NoHandler))
}

fn sys_rt_sigsuspend(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    set_size(args, 1)?;
    if cx.call.executions == 1 {
        let mask = SigSet(cx.memory.read_value(args.u64(0))?);
        cx.set_temporary_mask(mask);
    }
    Err(cx.park(Restart::NoHandler))
}

fn sys_rt_sigpending(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.u64(1) > 8 {
        return Err(Errno::EINVAL.into());
    }
    let pending = {
        let signals = cx.task.signals.lock();
        (signals.pending.set().0 | cx.task.process.shared_pending().0) & signals.mask.0
    };
    cx.memory.write(args.u64(0), &pending.to_ne_bytes()[..args.usize(1)])?;
    Ok(0)
}

fn sys_rt_sigtimedwait(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    set_size(args, 3)?;
    if cx.call.executions == 1 && args.u64(2) != 0 {
        let timeout = super::time::read_duration(cx, args.u64(2))?;
        cx.call.wait_at_most(timeout);
    }
    let set = SigSet(cx.memory.read_value::<u64>(args.u64(0))?).blockable();
    // From here on such signals wake the call although they are blocked.
    cx.task.signals.lock().awaited = set;
    if let Some(info) = cx.task.take_signal(set) {
        cx.task.signals.lock().awaited = SigSet::default();
        if args.u64(1) != 0 {
            cx.memory.write(args.u64(1), info.bytes())?;
        }
        return Ok(info.signal.number() as u64);
    }
    if cx.call.timed_out() {
        cx.task.signals.lock().awaited = SigSet::default();
        return Err(Errno::EAGAIN.into());
    }
    Err(cx.park(Restart::NoHandler))
}

fn sys_sigaltstack(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const SS_ONSTACK: u32 = 1;
    const SS_DISABLE: u32 = 2;
    const SS_AUTODISARM: u32 = 1 << 31;
    /// MINSIGSTKSZ.
    const LEAST: u64 = 2048;
    let is_set = cx.task.signals.lock().stack_size != 0;
    let on_stack = match &cx.registers {
        Some(registers) => cx.task.signals.lock().on_stack(registers.rsp),
        // A plain call does not say where the stack pointer is, which matters once there is such a stack.
        None if is_set => return Err(Fail::Registers),
        None => false,
    };
    let new: Option<[u64; 3]> = match args.u64(0) {
        0 => None,
        address => Some(cx.memory.read_value(address)?),
    };
    let old = {
        let mut signals = cx.task.signals.lock();
        let flags = match (signals.stack_size, on_stack) {
            (0, _) => SS_DISABLE,
            (_, true) => SS_ONSTACK | signals.stack_flags,
            (_, false) => signals.stack_flags,
        };
        let old = [signals.stack_base, u64::from(flags), signals.stack_size];
        if let Some([base, flags, size]) = new {
            let flags = flags as u32;
            if on_stack {
                return Err(Errno::EPERM.into());
            }
            match flags & !SS_AUTODISARM {
                SS_DISABLE => (signals.stack_base, signals.stack_size, signals.stack_flags) = (0, 0, 0),
                0 | SS_ONSTACK if size < LEAST => return Err(Errno::ENOMEM.into()),
                0 | SS_ONSTACK => {
                    (signals.stack_base, signals.stack_size) = (base, size);
                    signals.stack_flags = flags & SS_AUTODISARM;
                }
                _ => return Err(Errno::EINVAL.into()),
            }
        }
        old
    };
    if args.u64(1) != 0 {
        cx.memory.write_value(args.u64(1), &old)?;
    }
    Ok(0)
}

/// Whether the caller may send `signal` to the process.
fn may_signal(cx: &Ctx<'_>, process: &Process, signal: Option<Signal>) -> bool {
    let own = cx.credentials();
    let Some(other) = process.leader().map(|task| task.credentials()) else { return false };
    let same = [own.uid, own.euid].iter().any(|id| *id == other.uid || *id == other.suid);
    same || own.can(Capability::Kill) || (signal == Some(Signal::CONT) && same_session(cx, process.pid))
}

fn same_session(cx: &Ctx<'_>, pid: Pid) -> bool {
    let tree = cx.kernel.tree.lock();
    let session = |pid| tree.node(pid).map(|node| node.session);
    session(pid).is_some() && session(pid) == session(cx.pid())
}

fn parse(number: i32) -> Result<Option<Signal>, Errno> {
    if number == 0 { Ok(None) } else { Signal::new(number).map(Some) }
}

fn sys_kill(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let signal = parse(args.int(1))?;
    let targets: Vec<Arc<Process>> = {
        let tree = cx.kernel.tree.lock();
        match args.int(0) {
            i32::MIN => return Err(Errno::ESRCH.into()),
            -1 => tree
                .nodes()
                .filter(|node| !matches!(node.state, State::Zombie(..)))
                .map(|node| node.process.clone())
                .filter(|process| process.pid != FIRST_PID && process.pid != cx.pid())
                .collect(),
            pid if pid > 0 => {
                let named = tree.process(pid).or_else(|| tree.task(pid).map(|task| task.process.clone()));
                named.into_iter().collect()
            }
            0 => tree.group(tree.node(cx.pid()).map_or(0, |node| node.group)),
            group => tree.group(-group),
        }
    };
    if targets.is_empty() {
        return Err(Errno::ESRCH.into());
    }
    let mut sent = false;
    for process in targets {
        if !may_signal(cx, &process, signal) {
            continue;
        }
        sent = true;
        if let Some(signal) = signal {
            let info = Info::sent(signal, code::SI_USER, cx.pid(), cx.credentials().uid);
            send_to_process(cx, &process, info)?;
        }
    }
    if sent { Ok(0) } else { Err(Errno::EPERM.into()) }
}

/// A signal to the caller's own process goes to the calling thread, if it takes it: then it is delivered before
/// the call returns, as POSIX asks.
fn send_to_process(cx: &Ctx<'_>, process: &Arc<Process>, info: Info) -> Result<(), Errno> {
    let own = process.pid == cx.pid() && !cx.task.signals.lock().mask.has(info.signal);
    if own && !SigSet::STOPS.has(info.signal) && info.signal != Signal::KILL {
        return try_post_task(cx.task, info);
    }
    try_post_process(process, info)
}

fn target(cx: &Ctx<'_>, group: Option<Pid>, tid: Pid) -> Result<Arc<Task>, Errno> {
    if tid <= 0 || group.is_some_and(|group| group <= 0) {
        return Err(Errno::EINVAL);
    }
    let task = cx.kernel.tree.lock().task(tid).ok_or(Errno::ESRCH)?;
    if group.is_some_and(|group| task.process.pid != group) {
        return Err(Errno::ESRCH);
    }
    Ok(task)
}

fn send_to_task(cx: &Ctx<'_>, group: Option<Pid>, tid: Pid, signal: i32) -> SysResult {
    let task = target(cx, group, tid)?;
    let signal = parse(signal)?;
    if !may_signal(cx, &task.process, signal) {
        return Err(Errno::EPERM.into());
    }
    if let Some(signal) = signal {
        try_post_task(&task, Info::sent(signal, code::SI_TKILL, cx.pid(), cx.credentials().uid))?;
    }
    Ok(0)
}

fn sys_tkill(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    send_to_task(cx, None, args.int(0), args.int(1))
}

fn sys_tgkill(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    send_to_task(cx, Some(args.int(0)), args.int(1), args.int(2))
}

fn read_info(cx: &Ctx<'_>, signal: i32, address: u64, to_self: bool) -> Result<Option<Info>, Errno> {
    let mut bytes = [0; Info::SIZE];
    cx.memory.read(address, &mut bytes)?;
    let Some(signal) = parse(signal)? else { return Ok(None) };
    let info = Info::from_guest(signal, bytes);
    // Nobody may pretend to be the kernel or kill(), except to itself.
    if !to_self && (info.code() >= 0 || info.code() == code::SI_TKILL) {
        return Err(Errno::EPERM);
    }
    Ok(Some(info))
}

/// pidfd_send_signal(2).
pub(super) fn sys_pidfd_send_signal(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.uint(3) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (process, _) = super::pidfd::process_of(cx, args.int(0))?;
    let signal = parse(args.int(1))?;
    let info = match args.u64(2) {
        0 => signal.map(|signal| Info::sent(signal, code::SI_USER, cx.pid(), cx.credentials().uid)),
        address => {
            let number: i32 = cx.memory.read_value(address)?;
            if number != args.int(1) {
                return Err(Errno::EINVAL.into());
            }
            read_info(cx, number, address, process.pid == cx.pid())?
        }
    };
    let is_there =
        cx.kernel.tree.lock().process(process.pid).is_some_and(|there| Arc::ptr_eq(&there, &process));
    if !is_there {
        return Err(Errno::ESRCH.into());
    }
    if !may_signal(cx, &process, signal) {
        return Err(Errno::EPERM.into());
    }
    if let Some(info) = info {
        send_to_process(cx, &process, info)?;
    }
    Ok(0)
}

/// Queued signals are bounded by the receiver's RLIMIT_SIGPENDING.
fn check_queue(process: &Process, info: Info) -> Result<(), Errno> {
    if !info.signal.is_realtime() {
        return Ok(());
    }
    let own: usize = process.tasks().iter().map(|task| task.signals.lock().pending.queued()).sum();
    let queued = process.signals.lock().pending.queued() + own;
    let limit = process.limits.soft(crate::kernel::Resource::PendingSignals);
    if queued as u64 >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

fn sys_rt_sigqueueinfo(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let pid = args.int(0);
    let info = read_info(cx, args.int(1), args.u64(2), pid == cx.pid())?;
    let process = cx.kernel.tree.lock().process(pid).ok_or(Errno::ESRCH)?;
    if !may_signal(cx, &process, info.map(|info| info.signal)) {
        return Err(Errno::EPERM.into());
    }
    if let Some(info) = info {
        check_queue(&process, info)?;
        send_to_process(cx, &process, info)?;
    }
    Ok(0)
}

fn sys_rt_tgsigqueueinfo(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (group, tid) = (args.int(0), args.int(1));
    let info = read_info(cx, args.int(2), args.u64(3), tid == cx.tid())?;
    let task = target(cx, Some(group), tid)?;
    if !may_signal(cx, &task.process, info.map(|info| info.signal)) {
        return Err(Errno::EPERM.into());
    }
    if let Some(info) = info {
        check_queue(&task.process, info)?;
        try_post_task(&task, info)?;
    }
    Ok(0)
}
