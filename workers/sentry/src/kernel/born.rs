//! Making threads and processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::{GuestThread, Ran, Registers};

use super::process::{Ending, Process};
use super::task::{Borrowed, Run, Task, TaskParts};
use super::tree::{Node, State, Tree};
use super::{Kernel, PlatformMemory, Resource, end_process, exit, run};
use crate::errno::Errno;
use crate::sync::Mutex;

/// A task whose host thread is on its way.
struct Birth {
    child: Arc<Task>,
    parent: Arc<Task>,
    registers: Registers,
    /// Where the child's own memory is to hold its number (CLONE_CHILD_SETTID of a fork).
    set_tid: Option<u64>,
}

/// Births by token. The token is the child's number, which nobody else has until it is reaped.
#[derive(Default)]
pub struct Births(Mutex<HashMap<u64, Birth>>);

/// How a process is to be made.
pub struct NewProcess {
    /// Share descriptors (CLONE_FILES).
    pub share_files: bool,
    /// Share root, working directory and umask (CLONE_FS).
    pub share_fs: bool,
    /// Be a sibling instead of a child (CLONE_PARENT).
    pub sibling: bool,
    /// The signal at its end; 0 is none.
    pub exit_signal: i32,
    /// All handlers to the default (CLONE_CLEAR_SIGHAND).
    pub clear_handlers: bool,
}

/// How a thread is to be made.
pub struct NewThread {
    /// Share descriptors (CLONE_FILES).
    pub share_files: bool,
    /// Share root, working directory and umask (CLONE_FS).
    pub share_fs: bool,
}

impl Kernel {
    /// Whether one more thread fits into the job's limit and the caller's own, and the job is not ending.
    fn admit(&self, tree: &Tree, task: &Task) -> Result<(), Errno> {
        if tree.is_closed() {
            return Err(Errno::EAGAIN);
        }
        let own = task.process.limits.soft(Resource::Processes);
        let bound = if task.credentials().uid == 0 { u64::MAX } else { own };
        if tree.threads >= self.limits.processes.min(bound) { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    fn parts(task: &Task, share_files: bool, share_fs: bool) -> TaskParts {
        let (files, fs) = (task.files(), task.fs());
        TaskParts {
            memory: task.memory(),
            files: if share_files { files } else { Arc::new(files.fork()) },
            fs: if share_fs { fs } else { Arc::new(fs.fork()) },
            credentials: task.credentials(),
            name: task.name(),
        }
    }

    /// Makes a thread of the caller's process, without a host thread.
    ///
    /// # Errors
    /// EAGAIN at the job's limit of processes, and while the job ends.
    pub fn new_thread(&self, task: &Arc<Task>, how: &NewThread) -> Result<Arc<Task>, Errno> {
        let parts = Self::parts(task, how.share_files, how.share_fs);
        let mut tree = self.tree.lock();
        self.admit(&tree, task)?;
        let thread = Task::new(tree.allocate()?, task.process.clone(), parts);
        thread.signals.lock().mask = task.signals.lock().mask;
        *thread.scheduling.lock() = task.scheduling.lock().inherited();
        // Under the tree's lock, so that an end of the process that is decided now finds the thread.
        if task.process.ends() {
            return Err(Errno::EAGAIN);
        }
        task.process.tasks.lock().push(thread.clone());
        tree.add_task(thread.clone());
        Ok(thread)
    }

    /// Makes a child process with one thread, without a host process.
    ///
    /// # Errors
    /// EAGAIN at the job's limit of processes, and while the job ends.
    pub fn new_process(self: &Arc<Self>, task: &Arc<Task>, how: &NewProcess) -> Result<Arc<Task>, Errno> {
        let parent = &task.process;
        let parts = Self::parts(task, how.share_files, how.share_fs);
        let mut tree = self.tree.lock();
        self.admit(&tree, task)?;
        let (group, session, grandparent) = {
            let node =
                tree.node(parent.pid).filter(|node| node.state == State::Alive).ok_or(Errno::EAGAIN)?;
            (node.group, node.session, node.parent)
        };
        let pid = tree.allocate()?;
        let process = Process::new(self, pid, parent.limits.copy(), parent.space());
        inherit(&process, parent, how);
        let child = Task::new(pid, process.clone(), parts);
        copy_signal_state(task, &child);
        *child.scheduling.lock() = task.scheduling.lock().inherited();
        process.tasks.lock().push(child.clone());
        tree.add(Node {
            process,
            parent: if how.sibling { grandparent } else { parent.pid },
            children: Vec::new(),
            group,
            session,
            state: State::Alive,
            stopped: None,
            change: None,
            adopted: false,
            maker: parent.pid,
        });
        tree.add_task(child.clone());
        drop(tree);
        super::timers::watch_cpu_limit(&child.process);
        Ok(child)
    }

    /// Takes a child back that could not get a host thread.
    pub fn unmake(&self, child: &Arc<Task>) {
        *child.run.lock() = Run::Dead;
        let process = &child.process;
        let mut tree = self.tree.lock();
        tree.remove_task(child.tid());
        if child.tid() == process.pid {
            tree.reap(process.pid);
            drop(tree);
            process.tasks.lock().clear();
            // It may have been the last one that the job's end waited for.
            self.check_all_gone();
        } else {
            process.tasks.lock().retain(|task| !Arc::ptr_eq(task, child));
        }
    }

    /// Sends the caller's host thread to clone itself. Ends its stop: the caller runs on with `registers`.
    pub fn send_birth(
        &self,
        task: &Arc<Task>,
        child: &Arc<Task>,
        registers: Registers,
        child_registers: Registers,
        set_tid: Option<u64>,
    ) -> Result<(), Errno> {
        let host = task.host().ok_or(Errno::ESRCH)?;
        let token = child.tid() as u64;
        let birth = Birth { child: child.clone(), parent: task.clone(), registers: child_registers, set_tid };
        self.births.0.lock().insert(token, birth);
        // The answer follows: from here on the thread counts as running.
        run::run_then_look(task);
        if child.process.pid == task.process.pid {
            if let Err(errno) = host.spawn_thread(token, &registers) {
                self.births.0.lock().remove(&token);
                run::enter(task);
                return Err(errno.into());
            }
        } else {
            self.expect_program();
            host.fork(token, &registers);
        }
        Ok(())
    }

    /// A new process mostly is to run a program of its own.
    fn expect_program(&self) {
        if let Ok(platform) = self.platform() {
            platform.expect_program();
        }
    }

    /// A host thread for a waiting task has arrived.
    pub fn born(self: &Arc<Self>, host: &Arc<GuestThread>, token: u64) {
        let birth = self.births.0.lock().remove(&token);
        let Some(Birth { child, parent, registers, set_tid }) = birth else {
            host.stub().kill();
            return;
        };
        host.attach(child.clone());
        child.set_host(Some(host.clone()));
        let is_process = child.process.pid != parent.process.pid;
        if is_process {
            host.stub().attach(child.process.clone());
            *child.process.stub.lock() = Some(host.stub().clone());
            child.set_memory(PlatformMemory::shared(host.memory()));
            if let Some(address) = set_tid {
                let _unwritable = child.memory().write(address, &child.tid().to_ne_bytes());
            }
        }
        let alive = run::enter(&child);
        if is_process && child.process.ends() {
            // It was killed before it had a host process: now it has one, which must not live either. It stays
            // the process's own, so that `gone` finishes what may not be finished yet.
            host.stub().kill();
            return;
        }
        if alive {
            run::leave_full(&child, registers);
        }
    }

    /// The host refused to make a thread or process.
    pub fn not_born(&self, parent: &Arc<Task>, token: u64, ran: &Ran) {
        let Some(birth) = self.births.0.lock().remove(&token) else { return };
        self.unmake(&birth.child);
        if !run::enter(parent) {
            return;
        }
        let mut registers = ran.registers;
        registers.rax = Errno::EAGAIN.to_return() as u64;
        run::leave_full(parent, registers);
    }

    /// The host killed a child before it could say that it is there. Of a thread nothing else is to be done: it goes with
    /// its process, which is dead.
    pub fn stillborn(self: &Arc<Self>, token: u64) {
        let birth = self.births.0.lock().remove(&token);
        if let Some(birth) = birth.filter(|birth| birth.child.process.pid != birth.parent.process.pid) {
            end_process(&birth.child.process, Ending::Killed(super::Signal::KILL, false));
        }
    }

    /// vfork: the child runs on the caller's host thread until it execs or ends. Takes over the caller's stop.
    pub fn lend(&self, task: &Arc<Task>, child: &Arc<Task>, parent: Registers, registers: Registers) {
        let Some(host) = task.host() else { return };
        self.expect_program();
        *child.borrowed.lock() = Some(Borrowed { parent: task.clone(), registers: parent });
        child.set_host(Some(host.clone()));
        host.attach(child.clone());
        let lent = {
            let mut run = task.run.lock();
            let alive = !matches!(*run, Run::Dead);
            if alive {
                *run = Run::Lent;
            }
            alive
        };
        if !lent {
            end_process(&child.process, Ending::Killed(super::Signal::KILL, false));
            return;
        }
        if run::enter(child) {
            run::leave_full(child, registers);
        } else {
            run::give_back(child);
        }
    }

    /// A stub has died by itself or was killed.
    pub fn gone(self: &Arc<Self>, process: &Arc<Process>, stub: &Arc<bulkhead_platform::Stub>, signal: i32) {
        let time = process.account(stub);
        let known = self.tree.lock().process(process.pid).is_some_and(|known| Arc::ptr_eq(&known, process));
        if !known {
            // exec had left it behind, and its process has been waited for meanwhile.
            self.usage.add_ended(time);
        }
        let current = process.stub().is_some_and(|current| Arc::ptr_eq(&current, stub));
        if !current {
            return;
        }
        if !process.ends() {
            // The host killed it: out of memory, or a crash that its handler could not take.
            let signal = super::Signal::new(signal).unwrap_or(super::Signal::KILL);
            end_process(process, Ending::Killed(signal, false));
        }
        exit::finish_process(self, process);
    }
}

fn inherit(process: &Process, parent: &Process, how: &NewProcess) {
    {
        let from = parent.signals.lock();
        let mut to = process.signals.lock();
        to.actions = from.actions.clone();
        if how.clear_handlers {
            to.actions.reset_handlers();
        }
    }
    process.exit_signal.store(how.exit_signal, Ordering::Relaxed);
    let copy = |to: &std::sync::atomic::AtomicI32, from: &std::sync::atomic::AtomicI32| {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    };
    copy(&process.nice, &parent.nice);
    copy(&process.dumpable, &parent.dumpable);
    process.personality.store(parent.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    process.no_huge_pages.store(parent.no_huge_pages.load(Ordering::Relaxed), Ordering::Relaxed);
    process.attachments.inherit(&parent.attachments, process.pid);
    process.no_new_privs.store(parent.no_new_privs.load(Ordering::Relaxed), Ordering::Relaxed);
}

fn copy_signal_state(parent: &Task, child: &Task) {
    let from = parent.signals.lock();
    let mut to = child.signals.lock();
    to.mask = from.mask;
    (to.stack_base, to.stack_size, to.stack_flags) = (from.stack_base, from.stack_size, from.stack_flags);
    drop((from, to));
    *child.rseq.lock() = *parent.rseq.lock();
    child.robust_list.store(0, Ordering::Relaxed);
}
