//! Start-up and what all stubs of a sandbox share.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustix::io::Errno;

use crate::bpf;
use crate::filter::{self, Rules};
use crate::host;
use crate::layout::Layout;
use crate::listener::Births;
use crate::pool::Pool;
use crate::processes::Processes;
use crate::servers::Servers;
use crate::stub::Stub;
use crate::zygote::Zygote;
use crate::{Call, FileAccess, GuestThread, Kernel, WarmStub, injection};

/// What the zygote does to itself before it becomes one; every stub inherits it.
#[derive(Debug, Default)]
pub struct ZygoteSetup {
    /// Open `cgroup.procs` (v2) or `tasks`/`cgroup.procs` (v1) files of the job's cgroups: "0" is written to each.
    pub cgroup_procs: Vec<OwnedFd>,
    /// Written to `/proc/self/oom_score_adj` (1000 in a sandbox).
    pub oom_score_adj: Option<i32>,
    /// Resource limits: (RLIMIT_*, soft, hard).
    pub rlimits: Vec<(u32, u64, u64)>,
}

/// How the platform is to run.
#[derive(Debug)]
pub struct Config {
    /// See [`ZygoteSetup`].
    pub zygote: ZygoteSetup,
    /// Also notify the memory and futex calls that are native otherwise.
    pub mediated_mm: bool,
    /// The public image file, read-only: becomes [`layout::IMAGE_FD`](crate::layout::IMAGE_FD) in every stub.
    pub public_image: Option<OwnedFd>,
    /// Warm stubs to keep ready. Four hide the birth of stubs at one exec per millisecond.
    pub warm: usize,
    /// The rules that keep a guest in.
    pub rules: Rules,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zygote: ZygoteSetup::default(),
            mediated_mm: false,
            public_image: None,
            warm: 2,
            rules: Rules::default(),
        }
    }
}

/// Why the platform can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host call failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// The zygote process ended or said something else than a pid.
    #[error("the zygote, or a stub of it, could not {action}")]
    Zygote {
        /// What was tried.
        action: &'static str,
    },
    /// The processor or the host's kernel lacks something.
    #[error("this host lacks {what}")]
    Missing {
        /// What it lacks.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn host(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Host { action, source }
    }
}

/// The stubs of one sandbox and everything that serves them.
pub struct Platform {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

impl Platform {
    /// Forks and executes the zygote. Must be called while the process has a single thread, before its own seccomp
    /// filter, with `/proc` mounted for its pid namespace. `PR_SET_NO_NEW_PRIVS` is set for the zygote.
    ///
    /// # Errors
    /// What the host refused or lacks.
    pub fn start(config: Config) -> Result<Self, Error> {
        let program = filter::program(config.mediated_mm, &config.rules);
        let (zygote, layout) = Zygote::start(config.zygote, config.public_image, &program)?;
        let empty = empty_file().map_err(Error::host("make an empty file"))?;
        let shared = Arc::new(Shared {
            kernel: OnceLock::new(),
            rules: config.rules,
            layout,
            full: filter::program(false, &Rules::default()),
            program,
            threads: RwLock::default(),
            processes: Processes::default(),
            births: Births::default(),
            servers: Servers::default(),
            zygote,
            empty,
        });
        let pool = Arc::new(Pool::new(config.warm, shared.clone()));
        // The first one is made while this process puts up its own walls.
        pool.ask_ahead()?;
        Ok(Self { shared, pool })
    }

    /// Starts the threads that serve: the pool's, the reaper's; every listener gets one. Once, after the process's
    /// own seccomp filter is in place. The reaper reaps every child of this process from now on.
    ///
    /// # Errors
    /// When a thread can't be made.
    pub fn serve(&self, kernel: Arc<dyn Kernel>) -> Result<(), Error> {
        let _already = self.shared.kernel.set(kernel);
        crate::reaper::spawn(self.shared.clone())?;
        self.pool.spawn()
    }

    /// Hands over a warm stub that lives; waits for one to be made if the pool is empty. After `serve`.
    ///
    /// # Errors
    /// What kept the zygote from making one.
    pub fn warm_stub(&self) -> Result<WarmStub, Error> {
        self.pool.take()
    }

    /// Says that a program is about to be started: that the stub for it should be made now. Costs nothing if there
    /// are enough.
    pub fn expect_program(&self) {
        self.pool.want();
    }

    /// The stubs that wait for their program, or will soon. Only to look at them: one may be taken at any time.
    pub fn waiting_stubs(&self) -> Vec<i32> {
        self.pool.waiting()
    }

    /// Kills one of the stubs that wait, as the host may at any time, before anybody can take it; false if none
    /// waits.
    pub fn kill_waiting(&self) -> bool {
        self.pool.kill_waiting()
    }

    /// Kills every stub, also those whose birth nobody has heard of yet, and the zygote: no more stubs are made.
    /// Only where this process is the first of a pid namespace of its own; elsewhere it does nothing.
    pub fn end(&self) {
        host::kill_namespace();
    }

    /// The addresses that the host chose.
    pub fn layout(&self) -> Layout {
        self.shared.layout
    }
}

/// A file that holds nothing and never will.
fn empty_file() -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let file = memfd_create("empty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(file)
}

/// What every stub, listener and thread refers to.
pub(crate) struct Shared {
    pub(crate) kernel: OnceLock<Arc<dyn Kernel>>,
    pub(crate) rules: Rules,
    pub(crate) layout: Layout,
    /// The filter as installed.
    pub(crate) program: Vec<bpf::Instruction>,
    /// The filter that is installed when nothing is mediated: what a guest may do natively.
    pub(crate) full: Vec<bpf::Instruction>,
    /// By host tid. A thread is here from its claim until the host's thread ends.
    pub(crate) threads: RwLock<HashMap<i32, Arc<GuestThread>>>,
    pub(crate) processes: Processes,
    pub(crate) births: Births,
    pub(crate) servers: Servers,
    pub(crate) zygote: Zygote,
    /// Takes the place of injected descriptors that nobody needs any more.
    pub(crate) empty: OwnedFd,
}

impl Shared {
    pub(crate) fn kernel(&self) -> &dyn Kernel {
        self.kernel.get().expect("listeners are served only after `serve` has set the kernel").as_ref()
    }

    pub(crate) fn thread(&self, tid: i32) -> Option<Arc<GuestThread>> {
        self.threads.read().unwrap_or_else(PoisonError::into_inner).get(&tid).cloned()
    }

    /// Enters a thread; false if its stub has ended, and then it is not entered: nobody would take it out again.
    pub(crate) fn add_thread(&self, thread: &Arc<GuestThread>) -> bool {
        let mut threads = self.threads.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock that the reaper needs to take the stub's threads out.
        let alive = thread.stub().add_thread(thread.tid());
        if alive {
            threads.insert(thread.tid(), thread.clone());
        }
        alive
    }

    pub(crate) fn remove_thread(&self, thread: &GuestThread) {
        thread.stub().remove_thread(thread.tid());
        self.threads.write().unwrap_or_else(PoisonError::into_inner).remove(&thread.tid());
    }

    /// Whether CONTINUE may be given to a plain call of the guest.
    pub(crate) fn native_allowed(&self, stub: &Stub, call: &Call) -> Result<(), Errno> {
        if !self.rules.continue_only_native {
            return Ok(());
        }
        injection::native_allowed(self, stub, call)
    }

    /// The descriptor to inject for a guest's file: the same one, or a reopened one with fewer rights.
    pub(crate) fn injectable(&self, fd: BorrowedFd<'_>, access: FileAccess) -> Result<OwnedFd, Errno> {
        injection::injectable(fd, access, self.rules.exact_descriptor_rights)
    }
}
