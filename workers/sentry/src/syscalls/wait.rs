//! wait4 and waitid.

use super::Entry;
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::kernel::signal::{Signal, code};
use crate::kernel::{Change, CpuTime, Ctx, Ending, Node, Pid, State, uid_of};
use crate::wait::Events;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(61, "wait4", sys_wait4).by(&[
        "processes:forking",
        "processes:orphans_and_reapers",
        "signals:restarts",
        "signals:stopping",
    ]),
    Entry::full(247, "waitid", sys_waitid).by(&["processes:waiting_by_id"]),
];

const WNOHANG: u32 = 1;
const WUNTRACED: u32 = 2;
const WSTOPPED: u32 = 2;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x0100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

#[derive(Clone, Copy)]
enum Which {
    Any,
    One(Pid),
    Group(Pid),
}

/// What wait found.
struct Found {
    pid: Pid,
    uid: u32,
    event: Event,
    time: CpuTime,
    peak_kib: u64,
}

#[derive(Clone, Copy)]
enum Event {
    Ended(Ending),
    Changed(Change),
}

impl Found {
    fn status(&self) -> i32 {
        match self.event {
            Event::Ended(ending) => ending.status(),
            Event::Changed(Change::Stopped(signal)) => signal.number() << 8 | 0x7f,
            Event::Changed(Change::Continued) => 0xffff,
        }
    }

    /// si_code and si_status.
    fn code_and_status(&self) -> (i32, i32) {
        match self.event {
            Event::Ended(Ending::Exited(status)) => (code::CLD_EXITED, status.into()),
            Event::Ended(Ending::Killed(signal, true)) => (code::CLD_DUMPED, signal.number()),
            Event::Ended(Ending::Killed(signal, false)) => (code::CLD_KILLED, signal.number()),
            Event::Changed(Change::Stopped(signal)) => (code::CLD_STOPPED, signal.number()),
            Event::Changed(Change::Continued) => (code::CLD_CONTINUED, Signal::CONT.number()),
        }
    }
}

fn sys_wait4(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let options = args.uint(2);
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let which = match args.int(0) {
        -1 => Which::Any,
        0 => Which::Group(own_group(cx)),
        i32::MIN => return Err(Errno::ESRCH.into()),
        pid if pid < 0 => Which::Group(-pid),
        pid => Which::One(pid),
    };
    let Some(found) = wait(cx, which, options | WEXITED)? else { return Ok(0) };
    if args.u64(1) != 0 {
        cx.memory.write(args.u64(1), &found.status().to_ne_bytes())?;
    }
    if args.u64(3) != 0 {
        cx.memory.write(args.u64(3), &super::usage::rusage(found.time, found.peak_kib, 0, 0))?;
    }
    Ok(found.pid as u64)
}

fn sys_waitid(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const P_ALL: u32 = 0;
    const P_PID: u32 = 1;
    const P_PGID: u32 = 2;
    const P_PIDFD: u32 = 3;
    let options = args.uint(3);
    let known = WNOHANG | WSTOPPED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WALL | WCLONE;
    if options & !known != 0 || options & (WSTOPPED | WEXITED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = args.int(1);
    let mut nonblocking = false;
    let which = match args.uint(0) {
        P_PIDFD if id >= 0 => {
            let process;
            (process, nonblocking) = super::pidfd::process_of(cx, id)?;
            Which::One(process.pid)
        }
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::One(id),
        P_PGID if id > 0 => Which::Group(id),
        P_PGID if id == 0 => Which::Group(own_group(cx)),
        _ => return Err(Errno::EINVAL.into()),
    };
    let nohang = if nonblocking { WNOHANG } else { 0 };
    let found = wait(cx, which, options | nohang)?;
    if found.is_none() && nonblocking && options & WNOHANG == 0 {
        return Err(Errno::EAGAIN.into());
    }
    if args.u64(2) != 0 {
        let mut info = [0; 128];
        if let Some(found) = &found {
            let (code, status) = found.code_and_status();
            let mut put = |at: usize, value: i32| info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            put(0, Signal::CHLD.number());
            put(8, code);
            put(16, found.pid);
            put(20, found.uid as i32);
            put(24, status);
        }
        // Linux writes only these fields, up to si_status.
        cx.memory.write(args.u64(2), &info[..28])?;
    }
    if let Some(found) = found.filter(|_| args.u64(4) != 0) {
        cx.memory.write(args.u64(4), &super::usage::rusage(found.time, found.peak_kib, 0, 0))?;
    }
    Ok(0)
}

fn own_group(cx: &Ctx<'_>) -> Pid {
    cx.kernel.tree.lock().node(cx.pid()).map_or(0, |node| node.group)
}

/// Finds a child that changed, or parks until one does. None with WNOHANG.
fn wait(cx: &mut Ctx<'_>, which: Which, options: u32) -> Result<Option<Found>, crate::call::Fail> {
    if let Some(found) = look(cx, which, options)? {
        return Ok(Some(found));
    }
    if options & WNOHANG != 0 {
        return Ok(None);
    }
    let waiter = cx.waiter();
    cx.task.process.children_changed.register(&waiter, 0, Events::IN);
    match look(cx, which, options)? {
        Some(found) => Ok(Some(found)),
        None => Err(cx.park(Restart::Sys)),
    }
}

fn look(cx: &Ctx<'_>, which: Which, options: u32) -> Result<Option<Found>, Errno> {
    let mut tree = cx.kernel.tree.lock();
    let children = tree.node(cx.pid()).map(|node| node.children.clone()).unwrap_or_default();
    let mut waitable = false;
    for pid in children {
        let Some(node) = tree.node_mut(pid) else { continue };
        if !matches(node, which, options) {
            continue;
        }
        waitable = true;
        let Some(event) = event_of(node, options) else { continue };
        let process = node.process.clone();
        let used = *process.used.lock();
        if let (Event::Changed(_), 0) = (event, options & WNOWAIT) {
            node.change = None;
        }
        // In one step with finding it: two threads that wait must not both have it.
        let reaped = matches!(event, Event::Ended(_)) && options & WNOWAIT == 0;
        if reaped {
            tree.reap(pid);
        }
        drop(tree);
        let uid = uid_of(&process);
        let mut time = used.earlier;
        time += used.children;
        let peak_kib = used.peak_kib.max(used.children_peak_kib);
        if reaped {
            let mut own = cx.task.process.used.lock();
            own.children += time;
            own.children_peak_kib = own.children_peak_kib.max(peak_kib);
            drop(own);
            cx.kernel.let_go(&process);
        }
        return Ok(Some(Found { pid, uid, event, time, peak_kib }));
    }
    if waitable { Ok(None) } else { Err(Errno::ECHILD) }
}

fn matches(node: &Node, which: Which, options: u32) -> bool {
    let named = match which {
        Which::Any => true,
        Which::One(pid) => node.process.pid == pid,
        Which::Group(group) => node.group == group,
    };
    let clone_child =
        node.process.exit_signal.load(std::sync::atomic::Ordering::Relaxed) != Signal::CHLD.number();
    named && (options & WALL != 0 || clone_child == (options & WCLONE != 0))
}

fn event_of(node: &Node, options: u32) -> Option<Event> {
    match (node.state, node.change) {
        (State::Zombie(ending, _), _) => (options & WEXITED != 0).then_some(Event::Ended(ending)),
        (_, Some(change @ Change::Stopped(_))) if options & WUNTRACED != 0 => Some(Event::Changed(change)),
        (_, Some(change @ Change::Continued)) if options & WCONTINUED != 0 => Some(Event::Changed(change)),
        _ => None,
    }
}
