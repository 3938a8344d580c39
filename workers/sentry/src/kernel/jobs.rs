//! Job control: stopping and continuing whole processes.
//!
//! A stop is a host SIGSTOP of the stub, not a trap of its threads: that would end native timed waits early.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::process::Process;
use super::signal::{Info, Signal, call_attention, code, flags, post_process};
use super::tree::{Change, State};
use super::{Kernel, Pid};
use crate::wait::Events;

/// Stops a process because `signal` says so. The signals that a terminal sends don't stop a group that nobody
/// could continue.
pub(crate) fn stop_process(process: &Arc<Process>, signal: Signal) {
    let kernel = process.kernel();
    {
        let mut tree = kernel.tree.lock();
        let Some(group) = tree.node(process.pid).map(|node| node.group) else { return };
        if signal != Signal::STOP && tree.is_orphaned_group(group) {
            return;
        }
        let Some(node) = tree.node_mut(process.pid) else { return };
        if node.stopped.is_some() || node.state != State::Alive {
            return;
        }
        node.stopped = Some(signal);
        node.change = Some(Change::Stopped(signal));
        process.is_stopped.store(true, Ordering::SeqCst);
    }
    if let Some(stub) = process.stub() {
        stub.stop();
    }
    tell_parent(&kernel, process, code::CLD_STOPPED, signal.number());
}

/// SIGCONT was sent: the process goes on, whatever it does with the signal.
pub(crate) fn continue_process(process: &Arc<Process>) {
    let kernel = process.kernel();
    {
        let mut tree = kernel.tree.lock();
        let Some(node) = tree.node_mut(process.pid) else { return };
        if node.stopped.take().is_none() {
            return;
        }
        node.change = Some(Change::Continued);
        process.is_stopped.store(false, Ordering::SeqCst);
    }
    // What came meanwhile is seen to now.
    for task in process.tasks() {
        let own = task.signals.lock().pending.set().0;
        if own | process.shared_pending().0 != 0 {
            call_attention(&task);
        }
    }
    if let Some(stub) = process.stub() {
        stub.cont();
    }
    tell_parent(&kernel, process, code::CLD_CONTINUED, Signal::CONT.number());
}

fn tell_parent(kernel: &Arc<Kernel>, process: &Arc<Process>, change: i32, status: i32) {
    let Some(parent) = kernel.parent_of(process.pid) else { return };
    let wanted = {
        let signals = parent.signals.lock();
        signals.actions.get(Signal::CHLD).flags & flags::SA_NOCLDSTOP == 0
    };
    if wanted {
        let time = process.cpu_time();
        post_process(&parent, child_info(change, process.pid, uid_of(process), status, time));
    }
    parent.children_changed.wake(Events::IN);
}

/// The siginfo of SIGCHLD.
pub(crate) fn child_info(
    change: i32,
    pid: Pid,
    uid: u32,
    status: i32,
    time: super::process::CpuTime,
) -> Info {
    /// Microseconds in a clock tick (USER_HZ is 100).
    const TICK_US: u64 = 10_000;
    Info::child(change, pid, uid, status, (time.user_us / TICK_US) as i64, (time.system_us / TICK_US) as i64)
}

/// The real user of a process.
pub(crate) fn uid_of(process: &Process) -> u32 {
    process.leader().map_or(0, |task| task.credentials().uid)
}
