//! Tasks, processes, signals, timers and the run loop.

mod block;
mod born;
mod ctx;
mod exit;
mod jobs;
mod limits;
pub mod log;
mod memory;
mod process;
pub(crate) mod robust;
pub(crate) mod run;
pub mod scheduling;
pub mod segments;
mod server;
pub mod signal;
mod source;
mod space;
mod task;
pub mod timers;
mod tree;
mod usage;

pub(crate) use run::run_and_return;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bulkhead_platform::Platform;

pub use block::{Blocked, Stop};
pub use born::{Births, NewProcess, NewThread};
pub use ctx::Ctx;
pub use exit::{end_process, end_process_by, end_task, exit_thread, finish_process};
pub(crate) use jobs::uid_of;
pub use limits::{INFINITY, Resource, Rlimits, SandboxLimits};
pub use memory::PlatformMemory;
pub use process::{CpuTime, Ending, Process, ProcessSignals, Used};
pub use server::Server;
pub use signal::{Info, SigSet, Signal};
pub use source::ProcSource;
pub use space::{MappedFile, Space};
pub use task::{Borrowed, Coming, FaultDetails, Pid, Run, Task, TaskParts};
pub use tree::{Change, Node, State, Tree};
pub use usage::{Counts, JobUsage, count_every_call};

use crate::sync::Mutex;
use crate::wait::{Events, WaitQueue};

/// The job's command is the first process, as in other containers. Unlike a real init it has no special
/// protection from signals, and the kernel reaps the orphans that come to it.
pub const FIRST_PID: Pid = 1;

/// What the kernel tells whoever started the job. Called on any thread, with no lock held.
pub trait Observer: Send + Sync {
    /// Every process is gone; this is how the first one ended.
    fn all_gone(&self, ending: Ending);

    /// The sentry has a defect and can't go on.
    fn failed(&self, message: &str);
}

/// Everything global of one sandbox.
pub struct Kernel {
    /// Processes and threads.
    pub tree: Mutex<Tree>,
    /// Children and threads whose host threads are on their way.
    pub births: Births,
    /// Deadlines.
    pub timers: Timers,
    /// The sandbox's limits.
    pub limits: SandboxLimits,
    /// System calls so far.
    pub counts: Counts,
    /// Bytes and processor time so far.
    pub usage: JobUsage,
    /// When the sandbox started: the guest's boot.
    pub booted: Instant,
    /// The host name; sethostname changes it.
    pub hostname: Mutex<Vec<u8>>,
    /// System V shared memory.
    pub segments: Arc<segments::Segments>,
    /// Woken when all processes are gone.
    pub all_gone: WaitQueue,
    platform: OnceLock<Arc<Platform>>,
    public_image: OnceLock<Arc<OwnedFd>>,
    vfs: OnceLock<Arc<crate::vfs::Vfs>>,
    observer: OnceLock<Arc<dyn Observer>>,
    first_ending: OnceLock<Ending>,
    told: AtomicBool,
}

pub use timers::Timers;

impl Kernel {
    /// A kernel without a platform.
    pub fn new(limits: SandboxLimits) -> Arc<Self> {
        Arc::new(Self {
            tree: Mutex::default(),
            births: Births::default(),
            timers: Timers::default(),
            limits,
            counts: Counts::default(),
            usage: JobUsage::default(),
            booted: Instant::now(),
            hostname: Mutex::new(b"sandbox".to_vec()),
            segments: Arc::default(),
            all_gone: WaitQueue::new(),
            platform: OnceLock::new(),
            public_image: OnceLock::new(),
            vfs: OnceLock::new(),
            observer: OnceLock::new(),
            first_ending: OnceLock::new(),
            told: AtomicBool::new(false),
        })
    }

    /// A kernel for unit tests.
    #[cfg(test)]
    pub fn for_tests() -> Arc<Self> {
        let limits =
            SandboxLimits { memory_bytes: 512 << 20, cpu_milli: 1000, processes: 64, disk_bytes: 64 << 20 };
        Self::new(limits)
    }

    /// Gives it the platform that runs guests.
    pub fn set_platform(&self, platform: Arc<Platform>) {
        let _set_once = self.platform.set(platform);
    }

    /// The platform.
    ///
    /// # Errors
    /// ENOSYS in tests that have none.
    pub fn platform(&self) -> Result<&Arc<Platform>, crate::errno::Errno> {
        self.platform.get().ok_or(crate::errno::Errno::ENOSYS)
    }

    /// Gives it the file systems.
    pub fn set_vfs(&self, vfs: Arc<crate::vfs::Vfs>) {
        let _set_once = self.vfs.set(vfs);
    }

    /// The file systems.
    pub fn vfs(&self) -> &Arc<crate::vfs::Vfs> {
        self.vfs.get().expect("the file systems are set up before the first process")
    }

    /// Gives it the image whose pages stubs map.
    pub fn set_public_image(&self, image: Arc<OwnedFd>) {
        let _set_once = self.public_image.set(image);
    }

    /// The image whose pages stubs map; each stub has it at a fixed number.
    pub fn public_image(&self) -> Option<&Arc<OwnedFd>> {
        self.public_image.get()
    }

    /// Whether a host file is that image.
    pub fn is_public_image(&self, file: &Arc<OwnedFd>) -> bool {
        self.public_image.get().is_some_and(|image| Arc::ptr_eq(image, file))
    }

    /// A name's path from the sandbox's root.
    pub fn path_of(&self, dentry: &Arc<crate::vfs::Dentry>) -> Vec<u8> {
        dentry.path(self.vfs().root())
    }

    /// Resident memory of all processes, in bytes: for sysinfo and /proc/meminfo.
    pub fn resident_bytes(&self) -> u64 {
        let stubs: Vec<_> = self.tree.lock().nodes().filter_map(|node| node.process.stub()).collect();
        stubs.iter().filter_map(|stub| stub.usage().ok()).map(|usage| usage.resident).sum()
    }

    /// Gives it whom to tell about the end.
    pub fn set_observer(&self, observer: Arc<dyn Observer>) {
        let _set_once = self.observer.set(observer);
    }

    /// The parent of a process, if it lives.
    pub fn parent_of(&self, pid: Pid) -> Option<Arc<Process>> {
        let tree = self.tree.lock();
        let parent = tree.node(pid)?.parent;
        tree.process(parent)
    }

    /// Removes a zombie, and gives its threads' last references up.
    pub fn reap(&self, pid: Pid) {
        let reaped = self.tree.lock().reap(pid);
        if let Some(process) = reaped {
            self.let_go(&process);
        }
    }

    /// Gives the last references of a process's threads up that has been taken out of the tree.
    pub fn let_go(&self, process: &Process) {
        self.usage.add_ended(process.used.lock().earlier);
        // Tasks and process point at each other.
        let tasks = std::mem::take(&mut *process.tasks.lock());
        tasks.iter().for_each(|task| task.let_host_go());
    }

    /// The first process has ended: so do all others.
    fn end_everything(&self, ending: Ending) {
        let _first = self.first_ending.set(ending);
        self.kill_everything();
    }

    /// Kills every process. None is made afterwards.
    pub fn kill_everything(&self) {
        let living = self.tree.lock().close();
        for process in living {
            end_process(&process, Ending::Killed(Signal::KILL, false));
        }
    }

    /// Tells the observer once the last process is gone.
    fn check_all_gone(&self) {
        let Some(ending) = self.first_ending.get() else { return };
        let gone = self.tree.lock().nodes().all(|node| matches!(node.state, State::Zombie(..)));
        if gone && !self.told.swap(true, Ordering::SeqCst) {
            if let Some(platform) = self.platform.get() {
                platform.end();
            }
            self.all_gone.wake(Events::ALL);
            if let Some(observer) = self.observer.get() {
                observer.all_gone(*ending);
            }
        }
    }

    /// A defect of the sentry: the job can't go on.
    pub fn fail(&self, message: &str) {
        if let Some(observer) = self.observer.get() {
            observer.failed(message);
        }
    }

    /// Processor time of the whole job so far.
    pub fn cpu_time(&self) -> CpuTime {
        let mut sum = self.usage.ended();
        let processes: Vec<_> = self.tree.lock().nodes().map(|node| node.process.clone()).collect();
        for process in processes {
            sum += process.cpu_time();
        }
        sum
    }

    fn log_end(&self, process: &Process, ending: Ending) {
        log::event(|| format!("process {} ended: {ending:?}", process.pid));
    }
}
