//! Sending signals: to a thread, to a process, by force.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Action, DefaultAction, Info, SigSet, Signal, code};
use crate::errno::Errno;
use crate::kernel::process::{Ending, Process};
use crate::kernel::task::{Run, Task};
use crate::kernel::{end_process, jobs};
use crate::wait::{Events, Runnable, push_woken};

/// Sends a signal to a process: any of its threads may take it. A lost real-time signal (full queue) is not told
/// here; see [`try_post_process`].
pub fn post_process(process: &Arc<Process>, info: Info) {
    let _full = try_post_process(process, info);
}

/// Sends a signal to a process.
///
/// # Errors
/// EAGAIN if a real-time signal finds the queue full.
pub fn try_post_process(process: &Arc<Process>, info: Info) -> Result<(), Errno> {
    if !prepare(process, info.signal, None) {
        return Ok(());
    }
    process.with_pending(|signals| signals.pending.add(info))?;
    process.signal_watchers.wake(Events::IN);
    let wanting = |task: &&Arc<Task>| task.signals.lock().wants(info.signal) && !task.is_dead();
    let tasks = process.tasks();
    let lent = |task: &&Arc<Task>| matches!(*task.run.lock(), Run::Lent);
    // One thread is enough; one whose host thread a vfork child has can't come in soon.
    let chosen = tasks.iter().filter(wanting).find(|task| !lent(task));
    if let Some(task) = chosen.or_else(|| tasks.iter().find(wanting)) {
        call_attention(task);
    }
    Ok(())
}

/// Sends a signal to one thread.
pub fn post_task(task: &Arc<Task>, info: Info) {
    let _full = try_post_task(task, info);
}

/// Sends a signal to one thread.
///
/// # Errors
/// EAGAIN if a real-time signal finds the queue full.
pub fn try_post_task(task: &Arc<Task>, info: Info) -> Result<(), Errno> {
    if !prepare(&task.process, info.signal, Some(task)) {
        return Ok(());
    }
    let wants = {
        let mut signals = task.signals.lock();
        signals.pending.add(info)?;
        signals.wants(info.signal)
    };
    task.process.signal_watchers.wake(Events::IN);
    if wants {
        call_attention(task);
    }
    Ok(())
}

/// What a signal does at once, whoever takes it. Returns whether it is to be queued.
fn prepare(process: &Arc<Process>, signal: Signal, to: Option<&Arc<Task>>) -> bool {
    if process.ends() {
        return false;
    }
    if signal == Signal::KILL {
        end_process(process, Ending::Killed(Signal::KILL, false));
        return false;
    }
    if signal == Signal::CONT {
        discard_everywhere(process, SigSet::STOPS);
        jobs::continue_process(process);
    } else if SigSet::STOPS.has(signal) {
        discard_everywhere(process, SigSet::of(&[Signal::CONT]));
    }
    !is_ignored(process, signal, to)
}

/// An ignored signal is dropped at once, unless it is blocked (the action may change before it is unblocked) or
/// awaited.
fn is_ignored(process: &Arc<Process>, signal: Signal, to: Option<&Arc<Task>>) -> bool {
    let ignored = {
        let signals = process.signals.lock();
        let action = signals.actions.get(signal);
        action.ignores(signal)
            || (action.handler == Action::DEFAULT && DefaultAction::of(signal) == DefaultAction::Continue)
    };
    if !ignored {
        return false;
    }
    let held = |task: &Arc<Task>| {
        let signals = task.signals.lock();
        signals.mask.has(signal) || signals.awaited.has(signal)
    };
    !to.map_or_else(|| process.tasks().iter().any(held), held)
}

fn discard_everywhere(process: &Arc<Process>, set: SigSet) {
    process.with_pending(|signals| signals.pending.discard(set));
    for task in process.tasks() {
        task.signals.lock().pending.discard(set);
    }
}

/// A fault of the thread's own: can't be blocked or ignored away.
pub fn force(task: &Arc<Task>, info: Info) {
    let signal = info.signal;
    let mut signals = task.signals.lock();
    let blocked = signals.mask.has(signal);
    {
        let mut shared = task.process.signals.lock();
        let action = *shared.actions.get(signal);
        if blocked || action.handler == Action::IGNORE {
            shared.actions.set(signal, Action { handler: Action::DEFAULT, ..action });
        }
    }
    signals.mask = signals.mask.without(signal);
    // A standard signal that already waits would swallow this one's address.
    signals.pending.discard(SigSet::of(&[signal]));
    let _always_fits = signals.pending.add(info);
    task.attention.store(true, Ordering::SeqCst);
}

/// A fault from which no handler can recover, for example an unwritable signal frame.
pub fn force_default(task: &Arc<Task>, signal: Signal) {
    let action = Action::default();
    task.process.signals.lock().actions.set(signal, action);
    force(task, Info::new(signal, code::SI_KERNEL));
}

/// After a change of mask or actions: whether a pending signal is to be seen to. For the calling task only.
pub fn refresh_attention(task: &Arc<Task>) {
    let shared = task.process.shared_pending().0;
    let signals = task.signals.lock();
    if (signals.pending.set().0 | shared) & !signals.mask.0 != 0 {
        task.attention.store(true, Ordering::SeqCst);
    }
}

/// Makes a thread look at its signals: wakes its parked call, kicks it out of guest code, or lets whoever serves
/// it see the flag.
pub fn call_attention(task: &Arc<Task>) {
    task.attention.store(true, Ordering::SeqCst);
    match &*task.run.lock() {
        Run::Running => push_woken(Arc::new(Kick(task.clone()))),
        Run::Parked(blocked) => blocked.rouse(),
        Run::Serving | Run::Coming(_) | Run::Lent | Run::Born | Run::Dead => {}
    }
}

/// Interrupts a thread that computes or waits natively, for no signal: a wait begins anew.
pub fn nudge(task: &Arc<Task>) {
    if matches!(&*task.run.lock(), Run::Running) {
        push_woken(Arc::new(Kick(task.clone())));
    }
}

/// A kick that is sent when no lock is held.
struct Kick(Arc<Task>);

impl Runnable for Kick {
    fn run(self: Arc<Self>) {
        let running = matches!(&*self.0.run.lock(), Run::Running);
        if running && let Some(host) = self.0.host() {
            host.kick();
        }
    }
}
