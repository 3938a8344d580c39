//! How processes and threads end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::Stub;

use super::process::{Ending, Process};
use super::signal::{Action, Info, Signal, code, flags, post_process};
use super::task::{Run, Task};
use super::tree::State;
use super::{FIRST_PID, Kernel, Pid, jobs, run};
use crate::vfs::FdTable;
use crate::wait::{Events, Runnable, push_woken};

/// Decides that a process ends. Its threads run no guest code afterwards; its parent hears of it when its host
/// process is gone, so that whoever waits for it finds its memory free.
pub fn end_process(process: &Arc<Process>, ending: Ending) {
    end_process_by(process, ending, Stub::kill);
}

/// As [`end_process`]; `kill` ends its host process.
pub fn end_process_by(process: &Arc<Process>, ending: Ending, kill: impl FnOnce(&Stub)) {
    {
        let mut decided = process.ending.lock();
        if decided.is_some() {
            return;
        }
        *decided = Some(ending);
    }
    process.is_ending.store(true, Ordering::Release);
    let kernel = process.kernel();
    if let Some(node) = kernel.tree.lock().node_mut(process.pid)
        && Arc::ptr_eq(&node.process, process)
        && node.state == State::Alive
    {
        node.state = State::Ending;
    }
    super::robust::walk_all(process);
    for task in process.tasks() {
        end_task(&task);
    }
    process.timers.lock().clear();
    process.attachments.clear();
    match process.stub() {
        Some(stub) => kill(&stub),
        // It borrowed its parent's, or never had one.
        None => finish_process(&kernel, process),
    }
}

/// Takes a thread out of the game, whatever it is doing.
pub fn end_task(task: &Arc<Task>) {
    let was = std::mem::replace(&mut *task.run.lock(), Run::Dead);
    match was {
        Run::Dead => return,
        Run::Parked(blocked) => {
            if let Some(parked) = blocked.abandon() {
                push_woken(Arc::new(Leave { task: task.clone(), stop: Some(parked.stop) }));
            }
        }
        Run::Running => push_woken(Arc::new(Leave { task: task.clone(), stop: None })),
        Run::Lent => end_borrower(task),
        Run::Serving | Run::Coming(_) | Run::Born => {}
    }
    // Files close now, not when the host process is gone: readers of its pipes are waiting.
    drop(task.set_files(Arc::new(FdTable::new())));
}

/// A borrowed host thread must come back to the parent.
struct Leave {
    task: Arc<Task>,
    stop: Option<super::block::Stop>,
}

impl Runnable for Leave {
    fn run(self: Arc<Self>) {
        match self.stop {
            Some(stop) => run::leave_dead(&self.task, stop),
            None if self.task.borrowed.lock().is_some() => {
                if let Some(host) = self.task.host() {
                    host.kick();
                }
            }
            None => {}
        }
    }
}

/// A thread dies while a vfork child runs on its host thread: the child dies with it, since its memory does.
fn end_borrower(lender: &Arc<Task>) {
    let kernel = lender.process.kernel();
    let borrower = {
        let tree = kernel.tree.lock();
        let borrows = |process: &Arc<Process>| {
            let task = process.leader()?;
            let borrowed = task.borrowed.lock();
            borrowed.as_ref().is_some_and(|borrowed| Arc::ptr_eq(&borrowed.parent, lender)).then_some(())
        };
        tree.nodes().find(|node| borrows(&node.process).is_some()).map(|node| node.process.clone())
    };
    if let Some(child) = borrower {
        end_process(&child, Ending::Killed(Signal::KILL, false));
    }
}

/// The host process is gone (or there was none): the process becomes a zombie, and whoever has to is told.
pub fn finish_process(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    let ending = process.ending.lock().unwrap_or(Ending::Killed(Signal::KILL, false));
    let time = process.used.lock().earlier;
    *process.stub.lock() = None;
    process.is_over.store(true, Ordering::Release);
    let orphans = {
        let mut tree = kernel.tree.lock();
        match tree.node_mut(process.pid) {
            Some(node) if Arc::ptr_eq(&node.process, process) && !matches!(node.state, State::Zombie(..)) => {
                node.state = State::Zombie(ending, time)
            }
            _ => return,
        }
        for task in process.tasks() {
            tree.remove_task(task.tid());
        }
        tree.orphan_children(process.pid)
    };
    process.over.wake(Events::IN);
    kernel.log_end(process, ending);
    let (adopter, zombies) = orphans;
    send_death_signals(kernel, process.pid, adopter);
    for zombie in zombies {
        tell_parent(kernel, zombie);
    }
    if process.pid == FIRST_PID {
        kernel.end_everything(ending);
    } else {
        tell_parent(kernel, process.pid);
    }
    kernel.check_all_gone();
}

/// PR_SET_PDEATHSIG of those who have just got a new parent, and SIGHUP for stopped groups that nobody can
/// continue any more.
fn send_death_signals(kernel: &Arc<Kernel>, dead: Pid, adopter: Pid) {
    let (signals, stopped) = {
        let tree = kernel.tree.lock();
        let mut signals = Vec::new();
        let mut stopped = Vec::new();
        let adopted = tree.node(adopter).map(|node| node.children.clone()).unwrap_or_default();
        for child in adopted.iter().filter_map(|child| tree.node(*child)).filter(|node| node.maker == dead) {
            if let Ok(signal) = Signal::new(child.process.parent_death_signal.load(Ordering::Relaxed)) {
                signals.push((child.process.clone(), signal));
            }
            if child.stopped.is_some() && tree.is_orphaned_group(child.group) {
                stopped.push(child.process.clone());
            }
        }
        (signals, stopped)
    };
    for (process, signal) in signals {
        post_process(&process, Info::sent(signal, code::SI_USER, dead, 0));
    }
    for process in stopped {
        post_process(&process, Info::new(Signal::HUP, code::SI_KERNEL));
        post_process(&process, Info::new(Signal::CONT, code::SI_KERNEL));
    }
}

/// Tells the parent of a zombie, or reaps it where the parent does not care.
fn tell_parent(kernel: &Arc<Kernel>, pid: Pid) {
    let (process, parent, adopted, ending, time) = {
        let tree = kernel.tree.lock();
        let Some(node) = tree.node(pid) else { return };
        let State::Zombie(ending, time) = node.state else { return };
        let parent = tree.process(node.parent);
        // A first process that asks for orphans wants to wait for them.
        let asks = parent.as_ref().is_some_and(|parent| parent.is_subreaper.load(Ordering::Relaxed));
        let adopted = node.adopted && node.parent == FIRST_PID && !asks;
        (node.process.clone(), parent, adopted, ending, time)
    };
    let Some(parent) = parent else {
        kernel.reap(pid);
        return;
    };
    let action = *parent.signals.lock().actions.get(Signal::CHLD);
    let does_not_care = action.handler == Action::IGNORE || action.flags & flags::SA_NOCLDWAIT != 0;
    let exit_signal = Signal::new(process.exit_signal.load(Ordering::Relaxed)).ok();
    let reaped = adopted || (does_not_care && exit_signal == Some(Signal::CHLD));
    if reaped {
        kernel.reap(pid);
    }
    if let Some(signal) = exit_signal.filter(|_| !adopted) {
        let (change, status) = match ending {
            Ending::Exited(code) => (code::CLD_EXITED, i32::from(code)),
            Ending::Killed(signal, true) => (code::CLD_DUMPED, signal.number()),
            Ending::Killed(signal, false) => (code::CLD_KILLED, signal.number()),
        };
        let mut info = jobs::child_info(change, pid, jobs::uid_of(&process), status, time);
        if signal != Signal::CHLD {
            info = Info::from_guest(signal, *info.bytes());
        }
        post_process(&parent, info);
    }
    parent.children_changed.wake(Events::IN);
}

/// exit(2) of one thread. Returns false if it was the last: then the process ends.
pub fn exit_thread(task: &Arc<Task>, status: u8) -> bool {
    let process = &task.process;
    let mut tasks = process.tasks.lock();
    let is_leader = task.tid() == process.pid;
    let others = tasks.iter().any(|other| !Arc::ptr_eq(other, task) && !other.is_dead());
    if !others {
        return false;
    }
    *task.run.lock() = Run::Dead;
    if is_leader {
        // The leader stays, to stand for the process.
        *process.leader_code.lock() = Some(status);
    } else {
        tasks.retain(|other| !Arc::ptr_eq(other, task));
    }
    drop(tasks);
    if !is_leader {
        process.kernel().tree.lock().remove_task(task.tid());
    }
    drop(task.set_files(Arc::new(FdTable::new())));
    true
}
