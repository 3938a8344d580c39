//! What a system call's handler works with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::{Call, GuestThread, HostCall, Registers};

use super::block::Blocked;
use super::signal::{Info, SigSet, Signal, code, post_process, post_task, refresh_attention};
use super::task::Continuation;
use super::{Kernel, Pid, Resource, Task, run};
use crate::call::{CallState, Fail, Restart, SysResult};
use crate::errno::Errno;
use crate::memory::MemoryRef;
use crate::vfs::{Credentials, FdTable, FsContext};
use crate::wait::Wake;

/// One execution of a system call by one task.
pub struct Ctx<'a> {
    /// Everything global.
    pub kernel: &'a Arc<Kernel>,
    /// Who calls.
    pub task: &'a Arc<Task>,
    /// What is kept between executions of this call.
    pub call: &'a mut CallState,
    /// The caller's memory.
    pub memory: MemoryRef,
    /// The call as it came.
    pub(crate) raw: Call,
    /// All registers, if the call was trapped. What a handler changes is what the guest resumes with.
    pub(crate) registers: Option<&'a mut Registers>,
    pub(crate) waiter: &'a mut Option<Arc<Blocked>>,
}

impl Ctx<'_> {
    /// The caller's process.
    pub fn pid(&self) -> Pid {
        self.task.process.pid
    }

    /// The caller's thread.
    pub fn tid(&self) -> Pid {
        self.task.tid()
    }

    /// The caller's descriptors.
    pub fn files(&self) -> Arc<FdTable> {
        self.task.files()
    }

    /// The caller's root, working directory and umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.task.fs()
    }

    /// Who the caller is.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.task.credentials()
    }

    /// The caller's soft limit of a resource.
    pub fn limit(&self, resource: Resource) -> u64 {
        self.task.process.limits.soft(resource)
    }

    /// Wakes this call: register it on the queues that can end the wait, check the condition once more, then
    /// return [`park`](Self::park). It lives as long as the call, so queues forget it by themselves afterwards.
    pub fn waiter(&mut self) -> Arc<dyn Wake> {
        let (task, raw) = (self.task, self.raw);
        self.waiter.get_or_insert_with(|| Blocked::new(task.clone(), raw)).clone()
    }

    /// The failure that parks the call; see [`Restart`] for what a signal does to it.
    pub fn park(&self, restart: Restart) -> Fail {
        Fail::Park(restart)
    }

    /// The host thread that makes the call.
    ///
    /// # Errors
    /// ESRCH if it is gone (or in a test without a platform).
    pub fn host(&self) -> Result<Arc<GuestThread>, Errno> {
        self.task.host().ok_or(Errno::ESRCH)
    }

    /// Sends the calling thread a signal of the kernel's own (SIGPIPE, SIGXFSZ).
    pub fn send_signal(&self, signal: Signal) {
        post_task(self.task, Info::new(signal, code::SI_KERNEL));
    }

    /// Sends the calling process a signal.
    pub fn send_process_signal(&self, info: Info) {
        post_process(&self.task.process, info);
    }

    /// Changes the signal mask for the duration of this call (ppoll, pselect6, epoll_pwait, rt_sigsuspend). If a
    /// handler ends the wait, it runs under this mask and returns to the old one; a call that has its answer puts the
    /// old one back before it looks at signals. A re-execution changes nothing.
    pub fn set_temporary_mask(&mut self, mask: SigSet) {
        self.call.masked = true;
        {
            let mut signals = self.task.signals.lock();
            if signals.saved_mask.is_some() {
                return;
            }
            signals.saved_mask = Some(signals.mask);
            signals.mask = mask.blockable();
        }
        refresh_attention(self.task);
    }

    /// Whether a signal may have to be seen to: then a call that has nothing to tell parks instead, which
    /// sees to it.
    pub fn has_attention(&self) -> bool {
        self.task.attention.load(Ordering::SeqCst)
    }

    /// Counts bytes that the job read from files, pipes and sockets.
    pub fn count_read(&self, bytes: u64) {
        self.kernel.usage.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that the job wrote to files, pipes and sockets.
    pub fn count_written(&self, bytes: u64) {
        self.kernel.usage.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Who asks, for path operations.
    pub fn caller(&self) -> crate::vfs::Caller {
        self.fs().caller(self.credentials(), self.pid(), self.tid())
    }

    /// Has the caller's host thread make these host calls; the guest then runs on with the last one's result, or
    /// the first error. Only in a call with registers.
    ///
    /// # Errors
    /// `Done` on success: the call is answered.
    pub(crate) fn run_and_return(&mut self, commands: &[HostCall]) -> SysResult {
        let registers = **self.registers.as_ref().ok_or(Errno::ENOSYS)?;
        run::run_and_return(self.task, commands, registers)
    }

    /// Has the caller's host thread make these host calls; `then` goes on with their result.
    ///
    /// # Errors
    /// `Done` on success: the continuation answers the call.
    pub(crate) fn run_then(&mut self, commands: &[HostCall], then: Continuation) -> SysResult {
        let host = self.host()?;
        *self.task.continuation.lock() = Some(then);
        run::run_then_look(self.task);
        if let Err(errno) = host.run(commands) {
            *self.task.continuation.lock() = None;
            run::enter(self.task);
            return Err(Errno::from(errno).into());
        }
        Err(Fail::Done)
    }
}
