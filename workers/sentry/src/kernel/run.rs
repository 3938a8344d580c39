//! Executing calls, parking them, and letting guests run on.
//!
//! Every function here takes over a *stop* of a guest thread (see the platform's head) and either ends it or
//! hands it to someone else. None is called with a lock held.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::{Call, HostCall, Registers};

use super::Kernel;
use super::block::{Blocked, Parked, Stop};
use super::ctx::Ctx;
use super::log;
use super::signal::{Settled, SigSet, deliver_pending, flags, restart_or_interrupt, settle};
use super::task::{Coming, Run, Task};
use crate::call::{Args, CallState, Fail, Restart, SysResult};
use crate::errno::Errno;
use crate::syscalls;

/// futex(2), the one native call that waits.
const SYS_FUTEX: u64 = 202;
/// The bytes of the `syscall` instruction.
const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// A call between its executions, with everything that it needs.
struct Execution<'a> {
    kernel: &'a Arc<Kernel>,
    task: &'a Arc<Task>,
    call: Call,
    stop: Stop,
    state: CallState,
    waiter: Option<Arc<Blocked>>,
}

/// A call arrives.
pub(crate) fn begin(kernel: &Arc<Kernel>, task: &Arc<Task>, call: Call, stop: Stop) {
    if !enter(task) {
        return leave_dead(task, stop);
    }
    kernel.counts.count(&call);
    task.current_call.store(call.nr as i32, Ordering::Relaxed);
    Execution { kernel, task, call, stop, state: CallState::default(), waiter: None }.go();
}

/// A parked call was woken.
pub(crate) fn resume_blocked(blocked: Arc<Blocked>) {
    let Some(Parked { stop, state, .. }) = blocked.resume() else { return };
    let task = blocked.task.clone();
    let kernel = task.process.kernel();
    if !enter(&task) {
        return leave_dead(&task, stop);
    }
    let call = blocked.call;
    Execution { kernel: &kernel, task: &task, call, stop, state, waiter: Some(blocked) }.go();
}

/// Marks the task as served. False if it is over.
pub(crate) fn enter(task: &Task) -> bool {
    let mut run = task.run.lock();
    if matches!(*run, Run::Dead) {
        return false;
    }
    *run = Run::Serving;
    true
}

impl Execution<'_> {
    fn go(mut self) {
        loop {
            self.state.executions += 1;
            let result = self.execute();
            log::result(self.task, &self.call, &result);
            let failed = match result {
                Ok(value) => return self.answer(value as i64),
                Err(fail) => fail,
            };
            match failed {
                Fail::Errno(errno) => return self.answer(errno.to_return()),
                Fail::Native => return native(self.task, self.stop),
                Fail::Done => return,
                Fail::Registers if matches!(self.stop, Stop::Plain) => {
                    return redirect(self.task, Coming::Registers);
                }
                Fail::Registers => return finish(self.task, self.stop, Errno::ENOSYS.to_return()),
                Fail::Park(restart) => match self.park(restart) {
                    Some(again) => self = again,
                    None => return,
                },
            }
        }
    }

    /// The call has its answer: signals that are seen to from here on come under the task's own mask.
    fn answer(self, value: i64) {
        if self.state.masked {
            super::signal::restore_mask(self.task);
        }
        finish(self.task, self.stop, value);
    }

    fn execute(&mut self) -> SysResult {
        let handler = syscalls::handler(&self.call);
        let registers = match &mut self.stop {
            Stop::Plain => None,
            Stop::Full(registers) => Some(registers),
        };
        let mut cx = Ctx {
            kernel: self.kernel,
            task: self.task,
            call: &mut self.state,
            memory: self.task.memory(),
            raw: self.call,
            registers,
            waiter: &mut self.waiter,
        };
        handler(&mut cx, &Args(self.call.args))
    }

    /// Leaves the call to whoever wakes it. Gives it back if it is to be executed again at once.
    fn park(mut self, restart: Restart) -> Option<Self> {
        match settle(self.task) {
            Settled::Ending => {
                leave_dead(self.task, self.stop);
                return None;
            }
            Settled::Handler => {
                self.interrupt(restart);
                return None;
            }
            Settled::Nothing => {}
        }
        let (task, call) = (self.task, self.call);
        let blocked = self.waiter.get_or_insert_with(|| Blocked::new(task.clone(), call)).clone();
        {
            let mut run = task.run.lock();
            match *run {
                Run::Serving if task.attention.load(Ordering::SeqCst) => return Some(self),
                Run::Serving => *run = Run::Parked(blocked.clone()),
                _ => {
                    drop(run);
                    leave_dead(task, self.stop);
                    return None;
                }
            }
        }
        if let Some(deadline) = self.state.deadline() {
            self.kernel.timers.add(deadline, &(blocked.clone() as Arc<dyn crate::wait::Wake>), 0);
        }
        match blocked.park(Parked { stop: self.stop, state: self.state, restart }) {
            None => {
                // Who ended the task between the two steps could not take the stop.
                if task.is_dead()
                    && let Some(parked) = blocked.abandon()
                {
                    leave_dead(task, parked.stop);
                }
                None
            }
            Some(parked) => {
                if !enter(task) {
                    leave_dead(task, parked.stop);
                    return None;
                }
                (self.stop, self.state) = (parked.stop, parked.state);
                Some(self)
            }
        }
    }

    /// A handler is to run although the call still waits.
    fn interrupt(self, restart: Restart) {
        self.task.signals.lock().awaited = SigSet::default();
        let coming = if self.state.progress != 0 {
            Coming::Value(self.state.progress as i64)
        } else {
            let errno = restart_or_interrupt(self.task, &self.call, restart);
            errno.map_or(Coming::Again, |errno| Coming::Value(errno.to_return()))
        };
        match self.stop {
            Stop::Plain => redirect(self.task, coming),
            Stop::Full(mut registers) => {
                apply(coming, &self.call, &mut registers);
                leave_full(self.task, registers);
            }
        }
    }
}

fn apply(coming: Coming, call: &Call, registers: &mut Registers) {
    match coming {
        Coming::Value(value) => registers.rax = value as u64,
        Coming::Again => {
            registers.rip = call.ip.wrapping_sub(2);
            registers.rax = call.nr;
        }
        Coming::Registers => {}
    }
}

/// Answers a call with a value, after seeing to signals.
pub(crate) fn finish(task: &Arc<Task>, stop: Stop, value: i64) {
    match stop {
        Stop::Plain => finish_plain(task, value),
        Stop::Full(mut registers) => {
            registers.rax = value as u64;
            leave_full(task, registers);
        }
    }
}

fn finish_plain(task: &Arc<Task>, value: i64) {
    loop {
        if task.attention.load(Ordering::SeqCst) {
            match settle(task) {
                Settled::Ending => return leave_dead(task, Stop::Plain),
                Settled::Handler => return redirect(task, Coming::Value(value)),
                Settled::Nothing => super::signal::restore_mask(task),
            }
        }
        match leave(task) {
            Left::Running => break,
            Left::Attention => {}
            Left::Dead => return leave_dead(task, Stop::Plain),
        }
    }
    if let Some(host) = task.host() {
        host.ret(value);
    }
}

/// Lets a thread with all its registers run on, through the handlers of its pending signals.
pub(crate) fn leave_full(task: &Arc<Task>, mut registers: Registers) {
    loop {
        if task.attention.load(Ordering::SeqCst) && !deliver_pending(task, &mut registers) {
            return leave_dead(task, Stop::Full(registers));
        }
        match leave(task) {
            Left::Running => break,
            Left::Attention => {}
            Left::Dead => return leave_dead(task, Stop::Full(registers)),
        }
    }
    if let Some(host) = task.host() {
        host.resume(&registers);
    }
}

fn native(task: &Arc<Task>, stop: Stop) {
    if matches!(stop, Stop::Full(_)) {
        return finish(task, stop, Errno::ENOSYS.to_return());
    }
    match leave(task) {
        Left::Running => {}
        Left::Dead => return leave_dead(task, stop),
        // The host serves it first; then the thread comes in.
        Left::Attention => run_then_look(task),
    }
    if let Some(host) = task.host() {
        host.native();
    }
}

/// Marks the task as running although it has a signal to see to, and has it come in afterwards. For answers that
/// can't be taken back; the caller gives the answer.
pub(crate) fn run_then_look(task: &Arc<Task>) {
    {
        let mut run = task.run.lock();
        if matches!(*run, Run::Serving) {
            *run = Run::Running;
        }
    }
    if task.attention.load(Ordering::SeqCst) {
        super::signal::call_attention(task);
    }
}

enum Left {
    Running,
    Attention,
    Dead,
}

fn leave(task: &Task) -> Left {
    let mut run = task.run.lock();
    match *run {
        Run::Dead => Left::Dead,
        _ if task.attention.load(Ordering::SeqCst) => Left::Attention,
        _ => {
            *run = Run::Running;
            task.current_call.store(-1, Ordering::Relaxed);
            Left::Running
        }
    }
}

fn redirect(task: &Arc<Task>, coming: Coming) {
    {
        let mut run = task.run.lock();
        if matches!(*run, Run::Dead) {
            drop(run);
            return leave_dead(task, Stop::Plain);
        }
        *run = Run::Coming(coming);
    }
    if let Some(host) = task.host() {
        host.redirect();
    }
}

/// A kicked or redirected thread has come in.
pub(crate) fn interrupted(task: &Arc<Task>, mut registers: Registers, redirected: Option<Call>) {
    let coming = {
        let mut run = task.run.lock();
        match std::mem::replace(&mut *run, Run::Serving) {
            Run::Coming(coming) => Some(coming),
            Run::Dead => {
                *run = Run::Dead;
                drop(run);
                return leave_dead(task, Stop::Full(registers));
            }
            _ => None,
        }
    };
    match (coming, redirected) {
        (Some(Coming::Registers), Some(call)) => {
            let kernel = task.process.kernel();
            let (stop, state) = (Stop::Full(registers), CallState::default());
            return Execution { kernel: &kernel, task, call, stop, state, waiter: None }.go();
        }
        (Some(coming), Some(call)) => apply(coming, &call, &mut registers),
        _ => end_native_wait(task, &mut registers),
    }
    leave_full(task, registers);
}

/// A native futex wait that a handler without SA_RESTART interrupts returns EINTR; the host has prepared its
/// restart.
fn end_native_wait(task: &Arc<Task>, registers: &mut Registers) {
    if registers.rax != SYS_FUTEX || settle(task) != Settled::Handler {
        return;
    }
    let restarts = {
        let signals = task.signals.lock();
        signals.taken.is_some_and(|taken| taken.action.flags & flags::SA_RESTART != 0)
    };
    let mut code = [0; 2];
    let readable = task.memory().read(registers.rip, &mut code).is_ok();
    if !restarts && readable && code == SYSCALL_INSTRUCTION {
        registers.rip += 2;
        registers.rax = Errno::EINTR.to_return() as u64;
    }
}

/// The task is over and this thread of the sentry holds its stop. If the host thread was borrowed, it goes back
/// to the parent; otherwise its process is dying.
pub(crate) fn leave_dead(task: &Arc<Task>, stop: Stop) {
    if task.borrowed.lock().is_none() {
        return;
    }
    match stop {
        Stop::Plain => {
            if let Some(host) = task.host() {
                host.redirect();
            }
        }
        Stop::Full(_) => give_back(task),
    }
}

/// Ends a vfork child's loan: the parent goes on behind its vfork. The host thread must be in a full stop.
pub(crate) fn give_back(child: &Arc<Task>) {
    let Some(borrowed) = child.borrowed.lock().take() else { return };
    let Some(host) = child.host() else { return };
    child.set_host(None);
    let parent = borrowed.parent;
    host.attach(parent.clone());
    {
        let mut run = parent.run.lock();
        if matches!(*run, Run::Dead) {
            return;
        }
        *run = Run::Serving;
    }
    let mut registers = borrowed.registers;
    registers.rax = child.process.pid as u64;
    leave_full(&parent, registers);
}

/// A command list that a handler sent its thread to run is done: the handler's continuation goes on.
pub(crate) fn commands_ran(task: &Arc<Task>, ran: &bulkhead_platform::Ran) {
    let continuation = task.continuation.lock().take();
    if !enter(task) {
        return leave_dead(task, Stop::Full(ran.registers));
    }
    let mut registers = ran.registers;
    let result = match continuation {
        Some(continuation) => continuation(task, ran),
        None => ran.result.map_err(|errno| Fail::Errno(errno.into())),
    };
    registers.rax = match result {
        Ok(value) => value,
        Err(Fail::Errno(errno)) => errno.to_return() as u64,
        Err(_) => return,
    };
    leave_full(task, registers);
}

/// Has a task's host thread make host calls; the guest runs on with the last result, or the first error.
///
/// # Errors
/// `Done` on success: the stop is ended.
pub(crate) fn run_and_return(task: &Arc<Task>, commands: &[HostCall], registers: Registers) -> SysResult {
    let host = task.host().ok_or(Errno::ESRCH)?;
    run_then_look(task);
    match host.run_and_return(commands, &registers) {
        Ok(()) => Err(Fail::Done),
        Err(errno) => {
            enter(task);
            Err(Errno::from(errno).into())
        }
    }
}
