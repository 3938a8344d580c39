//! A process: a thread group and what its threads share.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bulkhead_platform::Stub;

use super::limits::Rlimits;
use super::signal::{Actions, Info, Pending, SigSet};
use super::space::Space;
use super::timers::ProcessTimers;
use super::{Kernel, Pid, Task};
use crate::sync::Mutex;
use crate::wait::WaitQueue;

/// How a process ended, as wait4 tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// exit or exit_group with this code.
    Exited(u8),
    /// A signal; whether a core would have been dumped.
    Killed(super::Signal, bool),
}

impl Ending {
    /// The status word of wait4.
    pub fn status(self) -> i32 {
        match self {
            Self::Exited(code) => i32::from(code) << 8,
            Self::Killed(signal, core) => signal.number() | if core { 0x80 } else { 0 },
        }
    }
}

/// Signals of a process as a whole.
#[derive(Debug, Default)]
pub struct ProcessSignals {
    /// What is done with each signal.
    pub actions: Actions,
    /// Signals that any thread may take.
    pub pending: Pending,
}

/// Processor time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTime {
    /// In user mode.
    pub user_us: u64,
    /// In kernel mode.
    pub system_us: u64,
}

impl CpuTime {
    /// The host counts nanoseconds in all, and ticks for each mode: the exact sum is split in their proportion.
    fn of(usage: &bulkhead_platform::Usage) -> Self {
        let total_us = usage.cpu_ns / 1000;
        let ticks = usage.user_ticks + usage.system_ticks;
        let user_us = if ticks == 0 {
            total_us
        } else {
            (u128::from(total_us) * u128::from(usage.user_ticks) / u128::from(ticks)) as u64
        };
        Self { user_us, system_us: total_us - user_us }
    }

    /// User and system.
    pub const fn total_us(&self) -> u64 {
        self.user_us + self.system_us
    }
}

impl std::ops::AddAssign for CpuTime {
    fn add_assign(&mut self, other: Self) {
        self.user_us = self.user_us.saturating_add(other.user_us);
        self.system_us = self.system_us.saturating_add(other.system_us);
    }
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// By stubs of it that are gone.
    pub earlier: CpuTime,
    /// By children that were waited for, and theirs.
    pub children: CpuTime,
    /// Most resident memory, in KiB.
    pub peak_kib: u64,
    /// Most resident memory of a child that was waited for, in KiB.
    pub children_peak_kib: u64,
}

/// A thread group.
pub struct Process {
    /// Its number.
    pub pid: Pid,
    kernel: Weak<Kernel>,
    /// Its threads; the first is the leader, which stays until the end even if its thread is over.
    pub tasks: Mutex<Vec<Arc<Task>>>,
    /// Actions and shared pending signals.
    pub signals: Mutex<ProcessSignals>,
    /// The set of `signals.pending`, readable without the lock.
    pub shared_pending: AtomicU64,
    /// Woken at every signal that is posted to the process or a thread of it (signalfd).
    pub signal_watchers: WaitQueue,
    /// Its address space's host process; none before the start, after the end, and while it borrows its parent's.
    pub stub: Mutex<Option<Arc<Stub>>>,
    /// Stubs that exec has left behind and that are not gone yet: what they use counts.
    left: Mutex<Vec<Arc<Stub>>>,
    /// What is known of its address space.
    pub space: Mutex<Arc<Space>>,
    /// Soft and hard limits.
    pub limits: Rlimits,
    /// Woken when a child ends, stops or continues.
    pub children_changed: WaitQueue,
    /// Interval timers and POSIX timers.
    pub timers: Mutex<ProcessTimers>,
    /// Held while a timer's signal is posted: who has changed the timer waits for it, so that no signal of the old
    /// setting comes afterwards.
    pub timer_posts: Mutex<()>,
    /// Set once, when the end is decided: no thread of it runs guest code afterwards.
    pub ending: Mutex<Option<Ending>>,
    /// Whether `ending` is set, readable without the lock.
    pub is_ending: AtomicBool,
    /// What it used.
    pub used: Mutex<Used>,
    /// When it was made.
    pub started: Instant,
    /// The signal its parent gets at its end; 0 is none.
    pub exit_signal: AtomicI32,
    /// PR_SET_PDEATHSIG; 0 is none.
    pub parent_death_signal: AtomicI32,
    /// PR_SET_CHILD_SUBREAPER.
    pub is_subreaper: AtomicBool,
    /// PR_SET_DUMPABLE's value.
    pub dumpable: AtomicI32,
    /// personality(2).
    pub personality: AtomicU32,
    /// nice value, -20 to 19.
    pub nice: AtomicI32,
    /// Whether it has called execve since it was forked (setpgid's EACCES).
    pub has_execed: AtomicBool,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: AtomicBool,
    /// PR_SET_THP_DISABLE.
    pub no_huge_pages: AtomicBool,
    /// Job control has stopped it: until it goes on it sees to no signal.
    pub is_stopped: AtomicBool,
    /// Its host process is gone: it is a zombie, or reaped.
    pub is_over: AtomicBool,
    /// Woken when it is over.
    pub over: WaitQueue,
    /// Looks at RLIMIT_CPU now and then, if there is one.
    pub cpu_watch: Mutex<Option<Arc<dyn crate::wait::Wake>>>,
    /// System V shared memory that it has attached.
    pub attachments: super::segments::Attachments,
    /// The code that the leader left with while other threads went on.
    pub leader_code: Mutex<Option<u8>>,
}

impl Process {
    /// A process without threads.
    pub fn new(kernel: &Arc<Kernel>, pid: Pid, limits: Rlimits, space: Arc<Space>) -> Arc<Self> {
        Arc::new(Self {
            pid,
            kernel: Arc::downgrade(kernel),
            tasks: Mutex::new(Vec::new()),
            signals: Mutex::default(),
            shared_pending: AtomicU64::new(0),
            signal_watchers: WaitQueue::new(),
            stub: Mutex::new(None),
            left: Mutex::default(),
            space: Mutex::new(space),
            limits,
            children_changed: WaitQueue::new(),
            timers: Mutex::default(),
            timer_posts: Mutex::new(()),
            ending: Mutex::new(None),
            is_ending: AtomicBool::new(false),
            used: Mutex::default(),
            started: Instant::now(),
            exit_signal: AtomicI32::new(super::Signal::CHLD.number()),
            parent_death_signal: AtomicI32::new(0),
            is_subreaper: AtomicBool::new(false),
            dumpable: AtomicI32::new(1),
            personality: AtomicU32::new(0),
            nice: AtomicI32::new(0),
            has_execed: AtomicBool::new(false),
            no_new_privs: AtomicBool::new(false),
            no_huge_pages: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            over: WaitQueue::new(),
            cpu_watch: Mutex::new(None),
            attachments: super::segments::Attachments::default(),
            leader_code: Mutex::new(None),
        })
    }

    /// The kernel that it lives in, which outlives it.
    pub fn kernel(&self) -> Arc<Kernel> {
        self.kernel.upgrade().expect("the kernel lives as long as any process")
    }

    /// Its threads, the leader first.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().clone()
    }

    /// The thread that stands for the process in /proc; none once it is reaped.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.tasks.lock().first().cloned()
    }

    /// Whether its end is decided.
    pub fn ends(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Its address space's host process.
    pub fn stub(&self) -> Option<Arc<Stub>> {
        self.stub.lock().clone()
    }

    /// What is known of its address space.
    pub fn space(&self) -> Arc<Space> {
        self.space.lock().clone()
    }

    /// The shared signals that wait.
    pub fn shared_pending(&self) -> SigSet {
        SigSet(self.shared_pending.load(Ordering::SeqCst))
    }

    /// Changes the shared pending signals, and the copy that is read without the lock.
    pub fn with_pending<R>(&self, change: impl FnOnce(&mut ProcessSignals) -> R) -> R {
        let mut signals = self.signals.lock();
        let result = change(&mut signals);
        self.shared_pending.store(signals.pending.set().0, Ordering::SeqCst);
        result
    }

    /// Takes a shared signal that is in `of`.
    pub fn take_signal(&self, of: SigSet) -> Option<Info> {
        if self.shared_pending().0 & of.0 == 0 {
            return None;
        }
        self.with_pending(|signals| signals.pending.take(of))
    }

    /// Processor time of the process, its ended stubs included.
    pub fn cpu_time(&self) -> CpuTime {
        let mut time = self.used.lock().earlier;
        let left = self.left.lock().clone();
        for stub in left.into_iter().chain(self.stub()) {
            if let Ok(usage) = stub.usage() {
                time += CpuTime::of(&usage);
            }
        }
        time
    }

    /// Processor time in user and kernel mode together, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let earlier = self.used.lock().earlier.total_us() * 1000;
        let left = self.left.lock().clone();
        let stubs = left.into_iter().chain(self.stub());
        earlier + stubs.filter_map(|stub| stub.cpu_ns().ok()).sum::<u64>()
    }

    /// Kills a stub that exec leaves behind; it counts until it is gone.
    pub fn leave_stub(&self, stub: Arc<Stub>) {
        self.left.lock().push(stub.clone());
        stub.kill();
    }

    /// Keeps what a stub of this process has used, which is gone.
    pub fn account(&self, stub: &Arc<Stub>) -> CpuTime {
        let spent = stub.spent();
        let time = CpuTime { user_us: spent.user_us, system_us: spent.system_us };
        self.left.lock().retain(|other| !Arc::ptr_eq(other, stub));
        let mut used = self.used.lock();
        used.earlier += time;
        used.peak_kib = used.peak_kib.max(spent.peak_resident / 1024);
        time
    }
}
