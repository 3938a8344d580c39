//! A task: one thread of the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use bulkhead_platform::{GuestThread, Registers};

use super::block::Blocked;
use super::process::Process;
use super::scheduling::Scheduling;
use super::signal::{Info, SigSet, TaskSignals};
use crate::memory::MemoryRef;
use crate::sync::Mutex;
use crate::vfs::{Credentials, FdTable, FsContext};

/// The number of a process or thread as the guest sees it.
pub type Pid = i32;

/// What a task's host thread does, as far as the sentry knows.
pub enum Run {
    /// It runs guest code or a native call: it can be kicked.
    Running,
    /// A thread of the sentry serves its call: whoever it is looks at [`Task::attention`] at the end.
    Serving,
    /// Its call waits.
    Parked(Arc<Blocked>),
    /// Its plain call was redirected; it will come in with its registers.
    Coming(Coming),
    /// A vfork child has borrowed its host thread.
    Lent,
    /// It has no host thread yet.
    Born,
    /// It is over.
    Dead,
}

/// The second half of a system call that made its host thread run commands.
pub(crate) type Continuation =
    Box<dyn FnOnce(&Arc<Task>, &bulkhead_platform::Ran) -> crate::call::SysResult + Send>;

/// The fault part of a signal frame's sigcontext.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultDetails {
    /// Error code.
    pub err: u64,
    /// Trap number.
    pub trapno: u64,
    /// Page fault address.
    pub cr2: u64,
}

/// What a redirected call is to return.
#[derive(Debug, Clone, Copy)]
pub enum Coming {
    /// This value.
    Value(i64),
    /// Nothing: the call is made again.
    Again,
    /// Nothing yet: the handler is executed again, with all registers.
    Registers,
}

/// The parent that waits in vfork for this task to exec or exit.
pub struct Borrowed {
    /// The suspended task whose host thread this task uses.
    pub parent: Arc<Task>,
    /// The parent's registers behind its vfork.
    pub registers: Registers,
}

/// One thread of the guest.
pub struct Task {
    tid: AtomicI32,
    /// The thread group.
    pub process: Arc<Process>,
    /// See [`Run`].
    pub run: Mutex<Run>,
    /// A signal, a stop or a death may have to be seen to before the guest runs on.
    pub attention: AtomicBool,
    /// Masks and pending signals of this thread.
    pub signals: Mutex<TaskSignals>,
    host: Mutex<Option<Arc<GuestThread>>>,
    memory: Mutex<MemoryRef>,
    files: Mutex<Arc<FdTable>>,
    fs: Mutex<Arc<FsContext>>,
    credentials: Mutex<Arc<Credentials>>,
    name: Mutex<[u8; Self::NAME_LENGTH]>,
    /// Set to 0 and woken when the thread ends (set_tid_address, CLONE_CHILD_CLEARTID); 0 is none.
    pub clear_tid: AtomicU64,
    /// Head of the robust futex list; 0 is none.
    pub robust_list: AtomicU64,
    /// Set while this task borrows its parent's host thread.
    pub borrowed: Mutex<Option<Borrowed>>,
    /// What a handler goes on with when the commands that it sent to the host thread have run.
    pub(crate) continuation: Mutex<Option<Continuation>>,
    /// Registered restartable sequence: address, length, signature.
    pub rseq: Mutex<Option<(u64, u32, u32)>>,
    /// What the processor said about the last fault, for signal frames.
    pub last_fault: Mutex<FaultDetails>,
    /// What it asked the scheduler for.
    pub scheduling: Mutex<Scheduling>,
    /// The system call being served, or -1: for /proc and the log.
    pub current_call: AtomicI32,
}

/// What a new task starts with.
pub struct TaskParts {
    /// Its address space.
    pub memory: MemoryRef,
    /// Its descriptors.
    pub files: Arc<FdTable>,
    /// Root, working directory and umask.
    pub fs: Arc<FsContext>,
    /// Who it is.
    pub credentials: Arc<Credentials>,
    /// Its short name, padded with NUL.
    pub name: [u8; Task::NAME_LENGTH],
}

impl Task {
    /// sizeof(task_struct.comm): the name and its NUL.
    pub const NAME_LENGTH: usize = 16;

    /// Takes a signal that is in `of`: one of its own first, then one of its process's. A timer's overruns are told from
    /// then on as this delivery's (timer_getoverrun(2)).
    pub fn take_signal(&self, of: SigSet) -> Option<Info> {
        let own = self.signals.lock().pending.take(of);
        let info = own.or_else(|| self.process.take_signal(of))?;
        if let Some((timer, overrun)) = info.overrun()
            && let Some(timer) = self.process.timers.lock().get_mut(timer)
        {
            timer.last_overrun = overrun;
        }
        Some(info)
    }

    /// A task without a host thread.
    pub fn new(tid: Pid, process: Arc<Process>, parts: TaskParts) -> Arc<Self> {
        Arc::new(Self {
            tid: AtomicI32::new(tid),
            process,
            run: Mutex::new(Run::Born),
            attention: AtomicBool::new(false),
            signals: Mutex::default(),
            host: Mutex::new(None),
            memory: Mutex::new(parts.memory),
            files: Mutex::new(parts.files),
            fs: Mutex::new(parts.fs),
            credentials: Mutex::new(parts.credentials),
            name: Mutex::new(parts.name),
            clear_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            borrowed: Mutex::new(None),
            rseq: Mutex::new(None),
            continuation: Mutex::new(None),
            last_fault: Mutex::default(),
            scheduling: Mutex::default(),
            current_call: AtomicI32::new(-1),
        })
    }

    /// The thread's number.
    pub fn tid(&self) -> Pid {
        self.tid.load(Ordering::Relaxed)
    }

    /// exec by a thread that is not the leader takes the leader's number.
    pub fn set_tid(&self, tid: Pid) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// Whether it is over.
    pub fn is_dead(&self) -> bool {
        matches!(*self.run.lock(), Run::Dead)
    }

    /// Its host thread, while it has one.
    pub fn host(&self) -> Option<Arc<GuestThread>> {
        self.host.lock().clone()
    }

    /// Gives it a host thread, or takes it.
    pub fn set_host(&self, host: Option<Arc<GuestThread>>) {
        *self.host.lock() = host;
    }

    /// The task is over: it and its host thread, which point at each other, let each other go. One that it has
    /// borrowed still goes back.
    pub fn let_host_go(&self) {
        if self.borrowed.lock().is_none() {
            self.set_host(None);
        }
    }

    /// Processor time of this thread, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let own = self.host().and_then(|host| host.cpu_ns().ok()).unwrap_or_default();
        // What the process used before its exec, its only thread used, or threads that are gone.
        let earlier =
            if self.tid() == self.process.pid { self.process.used.lock().earlier.total_us() } else { 0 };
        own + earlier * 1000
    }

    /// Its memory.
    pub fn memory(&self) -> MemoryRef {
        self.memory.lock().clone()
    }

    /// exec: another address space.
    pub fn set_memory(&self, memory: MemoryRef) {
        *self.memory.lock() = memory;
    }

    /// Its descriptor table.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone()
    }

    /// Replaces the descriptor table (unshare, exec); the old one is returned and must be dropped without a lock.
    pub fn set_files(&self, files: Arc<FdTable>) -> Arc<FdTable> {
        std::mem::replace(&mut *self.files.lock(), files)
    }

    /// Root, working directory and umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.lock().clone()
    }

    /// Replaces root, working directory and umask (unshare).
    pub fn set_fs(&self, fs: Arc<FsContext>) {
        *self.fs.lock() = fs;
    }

    /// Who it is.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.lock().clone()
    }

    /// Changes who it is.
    pub fn set_credentials(&self, credentials: Arc<Credentials>) {
        *self.credentials.lock() = credentials;
    }

    /// The short name of /proc/PID/comm, padded with NUL.
    pub fn name(&self) -> [u8; Self::NAME_LENGTH] {
        *self.name.lock()
    }

    /// Sets the short name; what does not fit is cut.
    pub fn set_name(&self, name: &[u8]) {
        let mut padded = [0; Self::NAME_LENGTH];
        let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let length = text.len().min(Self::NAME_LENGTH - 1);
        padded[..length].copy_from_slice(&text[..length]);
        *self.name.lock() = padded;
    }
}
