//! A stub process: one guest address space.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::io::Errno;

use crate::leftovers::Injected;
use crate::listener::Listener;
use crate::platform::Shared;
use crate::{GuestMemory, GuestThread, HostCall, Registers, host, layout};

/// One guest address space and the host process that carries it. Thread groups, pids and parents of the guest
/// are the kernel's own; a stub has none of them.
pub struct Stub {
    pid: i32,
    pub(crate) listener: Arc<Listener>,
    pub(crate) shared: Arc<Shared>,
    /// Write-locked to reap, so that the pid can't be reused while someone reads its memory.
    alive: RwLock<bool>,
    slots: Mutex<Slots>,
    threads: Mutex<Vec<i32>>,
    /// Whether the kernel has heard of this stub, and so is told of its end.
    announced: Mutex<bool>,
    attached: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    condemned: Mutex<Option<&'static str>>,
    pub(crate) injected: Injected,
    spent: Mutex<Spent>,
}

/// Which slots are in use.
struct Slots {
    used: Vec<u64>,
}

impl Stub {
    pub(crate) fn new(
        pid: i32,
        listener: Arc<Listener>,
        shared: Arc<Shared>,
        first_slot: u64,
        injected: Injected,
    ) -> Self {
        let mut used = vec![0; (layout::MAX_THREADS / 64) as usize];
        used[(first_slot / 64) as usize] |= 1 << (first_slot % 64);
        Self {
            pid,
            listener,
            shared,
            alive: RwLock::new(true),
            slots: Mutex::new(Slots { used }),
            threads: Mutex::new(Vec::new()),
            announced: Mutex::new(false),
            attached: Mutex::new(None),
            condemned: Mutex::new(None),
            injected,
            spent: Mutex::default(),
        }
    }

    /// The host's pid, in the sentry's own pid namespace. Only for reading `/proc/PID` and for prlimit and the
    /// like; valid until `gone`.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills the process. `Kernel::gone` follows. Does nothing if it is already dead.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Why the platform killed the process, if it did: it did something that stub code and an honest guest never
    /// do.
    pub fn condemned(&self) -> Option<&'static str> {
        *self.condemned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills a process that broke a rule.
    pub(crate) fn condemn(&self, why: &'static str) {
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.kill();
    }

    /// Stops every thread of the process wherever it is (group stop); calls that are parked stay parked.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Continues after `stop`.
    pub fn cont(&self) {
        self.signal(libc::SIGCONT);
    }

    /// The memory of the process.
    pub fn memory(self: &Arc<Self>) -> GuestMemory {
        GuestMemory::new(self.clone())
    }

    /// Hangs a value of the kernel's on the stub, replacing the last one.
    pub fn attach(&self, value: Arc<dyn Any + Send + Sync>) {
        *self.attached.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// What `attach` was given last.
    pub fn attached(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time and memory used so far.
    ///
    /// # Errors
    /// ESRCH after the process's death.
    pub fn usage(&self) -> Result<Usage, Errno> {
        let _alive = self.hold().ok_or(Errno::SRCH)?;
        crate::procfs::usage(self.pid).ok_or(Errno::SRCH)
    }

    /// Processor time used so far, in nanoseconds: cheaper than [`usage`](Self::usage).
    ///
    /// # Errors
    /// ESRCH after the process's death.
    pub fn cpu_ns(&self) -> Result<u64, Errno> {
        let _alive = self.hold().ok_or(Errno::SRCH)?;
        Ok(crate::procfs::cpu_ns(self.pid))
    }

    /// What it has used in all; zeros until `Kernel::gone`.
    pub fn spent(&self) -> Spent {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_spent(&self, spent: Spent) {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner) = spent;
    }

    /// The guest's mappings, in order: those of the host without stub page and slots.
    ///
    /// # Errors
    /// ESRCH after the process's death.
    pub fn maps(&self) -> Result<Vec<Mapping>, Errno> {
        let _alive = self.hold().ok_or(Errno::SRCH)?;
        crate::procfs::maps(self.pid).ok_or(Errno::SRCH)
    }

    /// Keeps the process from being reaped while the guard lives. None after its death.
    pub(crate) fn hold(&self) -> Option<RwLockReadGuard<'_, bool>> {
        let alive = self.alive.read().unwrap_or_else(PoisonError::into_inner);
        alive.then_some(alive)
    }

    /// Whether the kernel is to be told of its end. Who holds the guard delays that.
    pub(crate) fn announced(&self) -> MutexGuard<'_, bool> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel told of its end, unless that has come: false then.
    fn announce(&self) -> bool {
        // The reaper ends the stub before it asks whether the end is to be told: it asks after this, or has
        // ended the stub before.
        let mut announced = self.announced();
        *announced = self.hold().is_some();
        *announced
    }

    pub(crate) fn signal(&self, signal: i32) {
        if let Some(_alive) = self.hold() {
            host::kill(self.pid, signal);
        }
    }

    /// Called once, by the reaper, when the process has ended: from now on nobody uses the pid.
    pub(crate) fn end(&self) -> Vec<i32> {
        *self.alive.write().unwrap_or_else(PoisonError::into_inner) = false;
        std::mem::take(&mut self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// False if the stub has ended.
    pub(crate) fn add_thread(&self, tid: i32) -> bool {
        let Some(_alive) = self.hold() else { return false };
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(tid);
        true
    }

    /// Whether the process lives, as far as can be told: it may be about to die.
    pub fn lives(&self) -> bool {
        self.hold().is_some() && host::is_child(self.pid)
    }

    pub(crate) fn remove_thread(&self, tid: i32) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).retain(|t| *t != tid);
    }

    /// Takes a free slot; its address.
    pub(crate) fn take_slot(&self) -> Option<u64> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, word) = slots.used.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        Some(layout::SLOTS + (at as u64 * 64 + u64::from(bit)) * layout::SLOT_SIZE)
    }

    pub(crate) fn give_slot(&self, slot: u64) {
        let number = (slot - layout::SLOTS) / layout::SLOT_SIZE;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.used[(number / 64) as usize] &= !(1 << (number % 64));
    }
}

/// Time and memory that a stub has used from its birth to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Microseconds in user mode, all threads.
    pub user_us: u64,
    /// Microseconds in the host's kernel, all threads.
    pub system_us: u64,
    /// The most that was ever resident, in bytes.
    pub peak_resident: u64,
}

/// Time and memory of a stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Nanoseconds on a processor, all threads, guest and host kernel together.
    pub cpu_ns: u64,
    /// Clock ticks (1/100 s) in user mode.
    pub user_ticks: u64,
    /// Clock ticks (1/100 s) in the host's kernel.
    pub system_ticks: u64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// The most that was ever resident, in bytes.
    pub peak_resident: u64,
    /// Page faults without and with input.
    pub minor_faults: u64,
    /// See `minor_faults`.
    pub major_faults: u64,
}

/// One line of the host's `/proc/PID/maps`, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    /// `r`, `w`, `x` or `-` for each, then `p` or `s`.
    pub permissions: [u8; 4],
    /// Offset in the host's file, in bytes.
    pub offset: u64,
    /// The host's device number, as (major, minor); (0, 0) for anonymous memory.
    pub device: (u32, u32),
    /// The host's inode number; 0 for anonymous memory.
    pub inode: u64,
    /// The host's name for it: a host path (not to be shown), `[heap]`, `[vdso]`, or empty.
    pub name: String,
}

/// A clean stub, stopped before its first guest instruction. Dropping it kills it.
pub struct WarmStub {
    stub: Arc<Stub>,
    thread: Arc<GuestThread>,
    started: bool,
}

impl WarmStub {
    pub(crate) fn new(stub: Arc<Stub>, thread: Arc<GuestThread>) -> Self {
        Self { stub, thread, started: false }
    }

    /// The process.
    pub fn stub(&self) -> &Arc<Stub> {
        &self.stub
    }

    /// Its first thread, to be attached to a task before `start`.
    pub fn thread(&self) -> &Arc<GuestThread> {
        &self.thread
    }

    /// Whether it still waits for its program: whatever failed then failed for another reason than its death.
    pub fn waits(&self) -> bool {
        self.thread.waits()
    }

    /// Puts a file into the stub for a mapping command, with the rights that `access` says and no more.
    ///
    /// # Errors
    /// See [`GuestThread::add_fd`].
    pub fn add_fd(&self, fd: std::os::fd::BorrowedFd<'_>, access: crate::FileAccess) -> Result<i32, Errno> {
        self.thread.add_fd(fd, None, access)
    }

    /// Carries out the commands and starts the thread with these registers and a clear extended state. Calls
    /// may arrive before this returns. If a command fails, `Kernel::ran` tells, and the stub is good for nothing
    /// but `kill`.
    ///
    /// # Errors
    /// E2BIG if there are more than [`layout::MAX_COMMANDS`] commands; ESRCH if the stub has died already: start the
    /// program in another one. In both cases `Kernel::gone` does not follow.
    pub fn start(mut self, commands: &[HostCall], registers: &Registers) -> Result<(), Errno> {
        if !self.stub.announce() {
            return Err(Errno::SRCH);
        }
        if !self.thread.start(commands, registers)? {
            return Err(Errno::SRCH);
        }
        self.started = true;
        Ok(())
    }
}

impl Drop for WarmStub {
    fn drop(&mut self) {
        if !self.started {
            *self.stub.announced() = false;
            self.stub.kill();
        }
    }
}
