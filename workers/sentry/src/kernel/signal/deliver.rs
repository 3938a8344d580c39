//! Seeing to pending signals, when the guest is about to run on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::{Call, Registers};

use super::frame;
use super::{Action, DefaultAction, Info, SigSet, Signal, flags, force_default, refresh_attention};
use crate::call::Restart;
use crate::errno::Errno;
use crate::kernel::process::Ending;
use crate::kernel::task::Task;
use crate::kernel::{end_process, jobs};

/// A signal whose handler is to run, and the action at the time it was taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The signal.
    pub info: Info,
    /// Its action.
    pub action: Action,
}

/// What came of looking at the pending signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Nothing is left that is to be seen to.
    Nothing,
    /// A handler is to run: it is in [`super::TaskSignals::taken`].
    Handler,
    /// The process ends; its thread must not run on.
    Ending,
}

/// Takes pending signals until a handler is to run or none is left. Default actions happen here.
pub fn settle(task: &Arc<Task>) -> Settled {
    loop {
        task.attention.store(false, Ordering::SeqCst);
        if task.process.ends() || task.is_dead() {
            return Settled::Ending;
        }
        if task.process.is_stopped.load(Ordering::SeqCst) {
            return Settled::Nothing;
        }
        if task.signals.lock().taken.is_some() {
            // Until it has been delivered.
            task.attention.store(true, Ordering::SeqCst);
            return Settled::Handler;
        }
        let Some(info) = take(task) else { return Settled::Nothing };
        let signal = info.signal;
        let action = {
            let mut shared = task.process.signals.lock();
            let action = *shared.actions.get(signal);
            if action.is_handler() && action.flags & flags::SA_RESETHAND != 0 {
                shared.actions.set(signal, Action { handler: Action::DEFAULT, ..action });
            }
            action
        };
        if action.is_handler() {
            task.signals.lock().taken = Some(Taken { info, action });
            task.attention.store(true, Ordering::SeqCst);
            return Settled::Handler;
        }
        if action.handler == Action::IGNORE {
            continue;
        }
        match DefaultAction::of(signal) {
            DefaultAction::Ignore | DefaultAction::Continue => {}
            DefaultAction::Stop => jobs::stop_process(&task.process, signal),
            DefaultAction::Terminate => {
                end_process(&task.process, Ending::Killed(signal, false));
                return Settled::Ending;
            }
            DefaultAction::Core => {
                // No core is written, and so none is told of.
                end_process(&task.process, Ending::Killed(signal, false));
                return Settled::Ending;
            }
        }
    }
}

fn take(task: &Arc<Task>) -> Option<Info> {
    let unblocked = SigSet(!task.signals.lock().mask.0);
    task.take_signal(unblocked)
}

/// What a call that waited and now meets a handler comes to: made again, or EINTR.
pub fn restart_or_interrupt(task: &Task, call: &Call, restart: Restart) -> Option<Errno> {
    /// The vsyscall page: a call through it can't be rewound.
    const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
    let restarts = {
        let signals = task.signals.lock();
        signals.taken.is_none_or(|taken| taken.action.flags & flags::SA_RESTART != 0)
    };
    let again = restart == Restart::Sys && restarts && call.ip < VSYSCALL;
    (!again).then_some(Errno::EINTR)
}

/// Sets up the handlers of all pending signals on the guest's stack. Returns false if the process ends.
pub fn deliver_pending(task: &Arc<Task>, registers: &mut Registers) -> bool {
    loop {
        match settle(task) {
            Settled::Ending => return false,
            Settled::Nothing => {
                restore_mask(task);
                if !task.attention.load(Ordering::SeqCst) {
                    return true;
                }
            }
            Settled::Handler => {
                let Some(taken) = task.signals.lock().taken.take() else { continue };
                if !run_handler(task, registers, &taken) {
                    force_default(task, Signal::SEGV);
                }
            }
        }
    }
}

/// A call that had changed the mask for its own duration ends without a handler: the old mask holds again.
pub fn restore_mask(task: &Arc<Task>) {
    let restored = {
        let mut signals = task.signals.lock();
        match signals.saved_mask.take() {
            Some(mask) => {
                signals.mask = mask;
                true
            }
            None => false,
        }
    };
    if restored {
        refresh_attention(task);
    }
}

fn run_handler(task: &Arc<Task>, registers: &mut Registers, taken: &Taken) -> bool {
    let Taken { info, action } = taken;
    let mut signals = task.signals.lock();
    let old_mask = signals.saved_mask.take().unwrap_or(signals.mask);
    let stack = frame::AltStack {
        base: signals.stack_base,
        size: signals.stack_size,
        flags: signals.stack_flags,
        on: signals.on_stack(registers.rsp),
    };
    if signals.stack_flags & frame::SS_AUTODISARM != 0 && action.flags & flags::SA_ONSTACK != 0 {
        (signals.stack_base, signals.stack_size, signals.stack_flags) = (0, 0, 0);
    }
    let mut mask = SigSet(signals.mask.0 | action.mask);
    if action.flags & flags::SA_NODEFER == 0 {
        mask = mask.with(info.signal);
    }
    signals.mask = mask.blockable();
    drop(signals);
    frame::push(task, registers, info, action, old_mask, &stack).is_ok()
}

/// rt_sigreturn: takes the guest's frame back.
///
/// # Errors
/// EFAULT if there is no frame where the stack pointer says.
pub fn sigreturn(task: &Arc<Task>, registers: &mut Registers) -> Result<(), Errno> {
    let restored = frame::pop(task, registers)?;
    {
        let mut signals = task.signals.lock();
        signals.mask = restored.mask.blockable();
        signals.stack_base = restored.stack_base;
        signals.stack_size = restored.stack_size;
        signals.stack_flags = restored.stack_flags;
    }
    refresh_attention(task);
    Ok(())
}
