//! The platform's callbacks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use bulkhead_platform::{Call, ExitStatus, Fault, GuestThread, Ran, Registers, Stub};

use super::process::Process;
use super::signal::{Info, Signal, force};
use super::task::{FaultDetails, Task};
use super::{Kernel, Stop, run};
use crate::wait::run_woken;

/// Serves the platform's callbacks from a kernel. The platform is there before the job and its kernel: until
/// then nobody calls.
#[derive(Default)]
pub struct Server {
    kernel: OnceLock<Arc<Kernel>>,
}

impl Server {
    /// Gives it its kernel.
    pub fn set_kernel(&self, kernel: Arc<Kernel>) {
        let _set_once = self.kernel.set(kernel);
    }

    /// Runs a callback and what it wakes. A panic is a defect of the sentry: the job ends and says so, rather
    /// than hang.
    fn guarded(&self, serve: impl FnOnce(&Arc<Kernel>)) {
        let Some(kernel) = self.kernel.get() else { return };
        let served = catch_unwind(AssertUnwindSafe(|| {
            serve(kernel);
            run_woken();
        }));
        if served.is_err() {
            kernel.fail("a system call made the sentry panic");
        }
    }
}

/// The task that a host thread serves.
fn task_of(thread: &GuestThread) -> Option<Arc<Task>> {
    thread.attached().and_then(|attached| attached.downcast::<Task>().ok())
}

impl bulkhead_platform::Kernel for Server {
    fn call(&self, thread: &Arc<GuestThread>, call: Call) {
        self.guarded(|kernel| {
            if let Some(task) = task_of(thread) {
                run::begin(kernel, &task, call, Stop::Plain);
            }
        });
    }

    fn trapped(&self, thread: &Arc<GuestThread>, call: Call, registers: Registers) {
        self.guarded(|kernel| {
            if let Some(task) = task_of(thread) {
                run::begin(kernel, &task, call, Stop::Full(registers));
            }
        });
    }

    fn fault(&self, thread: &Arc<GuestThread>, fault: Fault, registers: Registers) {
        self.guarded(|_| {
            let Some(task) = task_of(thread) else { return };
            if !run::enter(&task) {
                return run::leave_dead(&task, Stop::Full(registers));
            }
            *task.last_fault.lock() = FaultDetails { err: fault.err, trapno: fault.trapno, cr2: fault.cr2 };
            let signal = Signal::new(fault.signo).unwrap_or(Signal::SEGV);
            super::log::event(|| {
                let (tid, rip) = (task.tid(), registers.rip);
                format!("task {tid} {} at {rip:#x}, address {:#x}", signal.name(), fault.addr)
            });
            force(&task, Info::fault(signal, fault.code, fault.addr));
            run::leave_full(&task, registers);
        });
    }

    fn interrupted(&self, thread: &Arc<GuestThread>, registers: Registers, redirected: Option<Call>) {
        self.guarded(|_| {
            if let Some(task) = task_of(thread) {
                run::interrupted(&task, registers, redirected);
            }
        });
    }

    fn born(&self, child: &Arc<GuestThread>, token: u64) {
        self.guarded(|kernel| kernel.born(child, token));
    }

    fn ran(&self, thread: &Arc<GuestThread>, ran: Ran) {
        self.guarded(|kernel| {
            let Some(task) = task_of(thread) else { return };
            match ran.token {
                Some(token) => kernel.not_born(&task, token, &ran),
                None => run::commands_ran(&task, &ran),
            }
        });
    }

    fn stillborn(&self, token: u64) {
        self.guarded(|kernel| kernel.stillborn(token));
    }

    fn gone(&self, stub: &Arc<Stub>, status: ExitStatus) {
        self.guarded(|kernel| {
            let process = stub.attached().and_then(|attached| attached.downcast::<Process>().ok());
            if let Some(process) = process {
                let (ExitStatus::Killed(signal) | ExitStatus::Exited(signal)) = status;
                kernel.gone(&process, stub, signal);
            }
        });
    }
}
