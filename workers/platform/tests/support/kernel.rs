//! A kernel just big enough to run test programs: processes, wait4, threads, files of the host read-only.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use bulkhead_platform::{
    Abi, Call, Config, ExitStatus, Fault, FileAccess, GuestThread, HostCall, Kernel, Platform, Ran,
    Registers, Stub,
};

use super::loader;
pub use super::policy::{Ordinary, Policy};

/// Calls that tests invent: they mean nothing to the host.
pub const TEST_CALL: u64 = 5000;

/// How a guest process ended, as wait4 tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Signaled(i32),
}

pub struct Process {
    pub pid: u64,
    parent: u64,
    stub: Option<Arc<Stub>>,
    pub(super) exit: Option<End>,
    pub(super) end: Option<End>,
    reaped: bool,
}

/// A thread or child that is to be born.
struct Expected {
    pid: u64,
    regs: Registers,
    child_tid: Option<u64>,
    clear_tid: Option<u64>,
}

/// What hangs on a guest thread.
pub(super) struct Task {
    pub(super) process: u64,
    pub(super) tid: u64,
    pub(super) clear_tid: Mutex<Option<u64>>,
    pub(super) rseq: Mutex<Option<(u64, u32, u32)>>,
    /// A vfork child: whose thread it borrows, and with which registers that goes on.
    pub(super) lender: Option<(Arc<Task>, Registers)>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) next: u64,
    pub(super) processes: HashMap<u64, Process>,
    expected: HashMap<u64, Expected>,
    waiters: VecDeque<(u64, Arc<GuestThread>, Registers)>,
    files: Vec<Option<Arc<File>>>,
    /// Calls served, by number.
    counts: HashMap<u64, u64>,
}

impl State {
    /// An ended child; Err if there is none at all.
    fn reap_child(&mut self, parent: u64) -> Result<Option<(u64, End)>, ()> {
        let mut children = self.processes.values_mut().filter(|p| p.parent == parent && !p.reaped).peekable();
        if children.peek().is_none() {
            return Err(());
        }
        let ended = children.find_map(|process| process.end.map(|end| (process, end)));
        Ok(ended.map(|(process, end)| {
            process.reaped = true;
            (process.pid, end)
        }))
    }
}

pub struct Mini {
    pub platform: OnceLock<Arc<Platform>>,
    policy: Box<dyn Policy>,
    pub(super) state: Mutex<State>,
    changed: Condvar,
    pub output: Mutex<Vec<u8>>,
    /// Remarks of policies, in order.
    pub notes: Mutex<Vec<String>>,
    /// Processes that may exist at once.
    pub process_limit: usize,
}

/// Starts a platform and a kernel over it.
pub fn boot(config: Config, policy: impl Policy + 'static) -> Arc<Mini> {
    let platform = Arc::new(Platform::start(config).expect("the platform"));
    let kernel = Arc::new(Mini {
        platform: OnceLock::new(),
        policy: Box::new(policy),
        state: Mutex::new(State { files: vec![None, None, None], ..State::default() }),
        changed: Condvar::new(),
        output: Mutex::default(),
        notes: Mutex::default(),
        process_limit: 20,
    });
    kernel.platform.set(platform.clone()).ok().expect("first");
    platform.serve(kernel.clone()).expect("the platform's threads");
    kernel
}

/// Runs a program to its end; its end and what it wrote.
pub fn run(config: Config, policy: impl Policy + 'static, path: &Path, args: &[&str]) -> (End, String) {
    let kernel = boot(config, policy);
    let pid = kernel.spawn(path, args);
    let end = kernel.wait(pid);
    (end, kernel.printed())
}

impl Mini {
    pub fn platform(&self) -> &Platform {
        self.platform.get().expect("booted")
    }

    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("output")).into_owned()
    }

    pub fn note(&self, text: impl Into<String>) {
        self.notes.lock().expect("notes").push(text.into());
        self.changed.notify_all();
    }

    pub fn noted(&self, text: &str) -> bool {
        self.notes.lock().expect("notes").iter().any(|note| note == text)
    }

    pub fn count(&self, nr: i64) -> u64 {
        self.state.lock().expect("state").counts.get(&(nr as u64)).copied().unwrap_or(0)
    }

    /// Starts a program as a process of its own; its pid.
    pub fn spawn(&self, path: &Path, args: &[&str]) -> u64 {
        let pid = {
            let mut state = self.state.lock().expect("state");
            state.next += 1;
            let pid = state.next;
            state.processes.insert(pid, Process::new(pid, 0));
            pid
        };
        self.exec(pid, path, args);
        pid
    }

    /// Puts a program into a warm stub for this process.
    pub fn exec(&self, pid: u64, path: &Path, args: &[&str]) {
        let warm = self.platform().warm_stub().expect("a warm stub");
        warm.thread().attach(Task::new(pid, pid, None));
        self.state.lock().expect("state").processes.get_mut(&pid).expect("it").stub =
            Some(warm.stub().clone());
        let mut argv = vec![path.display().to_string()];
        argv.extend(args.iter().map(|text| (*text).to_owned()));
        loader::start(warm, self.platform().layout(), path, &argv, &["LANG=C".to_owned()]);
    }

    /// Waits for the end of a process.
    pub fn wait(&self, pid: u64) -> End {
        let mut state = self.state.lock().expect("state");
        loop {
            if let Some(end) = state.processes[&pid].end {
                return end;
            }
            let (next, timeout) = self.changed.wait_timeout(state, Duration::from_secs(20)).expect("state");
            assert!(!timeout.timed_out(), "process {pid} does not end; printed: {}", self.printed());
            state = next;
        }
    }

    /// Waits until a policy has made this remark.
    pub fn wait_for_note(&self, text: &str) {
        let mut notes = self.notes.lock().expect("notes");
        while !notes.iter().any(|note| note == text) {
            let (next, timeout) = self.changed.wait_timeout(notes, Duration::from_secs(20)).expect("notes");
            assert!(!timeout.timed_out(), "no '{text}' among {:?}; {}", *next, self.printed());
            notes = next;
        }
    }

    pub fn stub_of(&self, pid: u64) -> Arc<Stub> {
        self.state.lock().expect("state").processes[&pid].stub.clone().expect("a running process")
    }

    /// The host pid of a process, if it has arrived.
    pub fn host_pid(&self, pid: u64) -> Option<i32> {
        let state = self.state.lock().expect("state");
        state.processes.get(&pid)?.stub.as_ref().map(|stub| stub.pid())
    }

    /// Waits a while for the end of a process, then kills it.
    pub fn wait_or_kill(&self, pid: u64, patience: Duration) -> End {
        let state = self.state.lock().expect("state");
        let running = |state: &mut State| state.processes[&pid].end.is_none();
        let (state, _) = self.changed.wait_timeout_while(state, patience, running).expect("state");
        drop(state);
        self.stub_of(pid).kill();
        self.wait(pid)
    }

    pub fn alive(&self) -> usize {
        self.state.lock().expect("state").processes.values().filter(|p| p.end.is_none()).count()
    }

    pub fn processes_ever(&self) -> usize {
        self.state.lock().expect("state").processes.len()
    }

    fn wait4(&self, thread: &Arc<GuestThread>, registers: &Registers) {
        let process = task(thread).process;
        // Looked at and entered under one lock, so that no end slips through.
        let found = {
            let mut state = self.state.lock().expect("state");
            let found = state.reap_child(process);
            if found == Ok(None) {
                state.waiters.push_back((process, thread.clone(), *registers));
            }
            found
        };
        match found {
            Err(()) => thread.ret(-i64::from(libc::ECHILD)),
            Ok(Some(child)) => finish_wait(thread, registers, child),
            Ok(None) => {}
        }
    }

    fn wake_waiters(&self) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.lock().expect("state");
            for (process, thread, registers) in std::mem::take(&mut state.waiters) {
                match state.reap_child(process) {
                    Ok(Some(child)) => woken.push((thread, registers, child)),
                    _ => state.waiters.push_back((process, thread, registers)),
                }
            }
        }
        for (thread, registers, child) in woken {
            finish_wait(&thread, &registers, child);
        }
    }

    /// clone and fork; clone3 is ENOSYS.
    fn clone(&self, thread: &Arc<GuestThread>, regs: &Registers, flags: u64, stack: u64) {
        let caller = task(thread);
        let alive = self.alive();
        let mut state = self.state.lock().expect("state");
        let is_thread = flags & libc::CLONE_THREAD as u64 != 0;
        if !is_thread && alive >= self.process_limit {
            drop(state);
            return thread.ret(-i64::from(libc::EAGAIN));
        }
        state.next += 1;
        let id = state.next;
        let has = |flag: i32| flags & flag as u64 != 0;
        let mut child = Registers { rax: 0, ..*regs };
        if stack != 0 {
            child.rsp = stack;
        }
        if has(libc::CLONE_SETTLS) {
            child.fs_base = regs.r8;
        }
        let process = if is_thread { caller.process } else { id };
        let expected = Expected {
            pid: process,
            regs: child,
            child_tid: has(libc::CLONE_CHILD_SETTID).then_some(regs.r10),
            clear_tid: has(libc::CLONE_CHILD_CLEARTID).then_some(regs.r10),
        };
        state.expected.insert(id, expected);
        if !is_thread {
            state.processes.insert(id, Process::new(id, caller.process));
        }
        drop(state);
        if has(libc::CLONE_PARENT_SETTID) {
            let _fault = thread.memory().write(regs.rdx, &(id as u32).to_le_bytes());
        }
        let parent = Registers { rax: id, ..*regs };
        if is_thread {
            thread.spawn_thread(id, &parent).expect("a slot");
        } else {
            thread.fork(id, &parent);
        }
    }

    pub fn file(&self, fd: u64) -> Option<Arc<File>> {
        self.state.lock().expect("state").files.get(fd as usize).cloned().flatten()
    }

    /// Offers a file to guests; its descriptor there.
    pub fn offer(&self, file: File) -> u64 {
        let mut state = self.state.lock().expect("state");
        state.files.push(Some(Arc::new(file)));
        state.files.len() as u64 - 1
    }

    /// A private file mapping.
    fn map(&self, thread: &Arc<GuestThread>, call: &Call, registers: &Registers) {
        let [address, length, prot, flags, fd, offset] = call.args;
        let Some(file) = self.file(fd) else { return thread.ret(-i64::from(libc::EBADF)) };
        match thread.add_fd(file.as_fd(), None, FileAccess::ReadOnly) {
            Ok(at) => {
                // The descriptor stays behind in the stub: only its number's reuse would matter here.
                let map = HostCall::mmap(address, length, prot as i32, flags as i32, at, offset);
                thread.run_and_return(&[map], registers).expect("a short list");
            }
            Err(error) => thread.ret(-i64::from(error.raw_os_error())),
        }
    }
}

impl Process {
    pub(super) fn new(pid: u64, parent: u64) -> Self {
        Self { pid, parent, stub: None, exit: None, end: None, reaped: false }
    }
}

impl Task {
    fn new(process: u64, tid: u64, clear_tid: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            process,
            tid,
            clear_tid: Mutex::new(clear_tid),
            rseq: Mutex::new(None),
            lender: None,
        })
    }
}

pub(super) fn task(thread: &GuestThread) -> Arc<Task> {
    thread.attached().expect("a task").downcast().expect("a task")
}

fn finish_wait(thread: &Arc<GuestThread>, registers: &Registers, (pid, end): (u64, End)) {
    let status = match end {
        End::Exited(code) => code << 8,
        End::Signaled(signal) => signal,
    };
    if registers.rsi != 0 {
        let _fault = thread.memory().write(registers.rsi, &status.to_le_bytes());
    }
    thread.ret(pid as i64);
}

impl Kernel for Mini {
    fn call(&self, thread: &Arc<GuestThread>, call: Call) {
        *self.state.lock().expect("state").counts.entry(call.nr).or_default() += 1;
        if self.policy.call(self, thread, &call) {
            return;
        }
        if call.abi != Abi::X86_64 {
            return thread.ret(-i64::from(libc::ENOSYS));
        }
        let nr = call.nr as i64;
        match nr {
            libc::SYS_exit_group => self.exit_group(thread, call.args[0]),
            libc::SYS_rseq => {
                let [address, length, flags, signature, ..] = call.args;
                let register = (flags & 1 == 0).then_some((address, length as u32, signature as u32));
                *task(thread).rseq.lock().expect("task") = register;
                thread.native();
            }
            // They arrive only where they are mediated, but for mremap.
            libc::SYS_mremap
            | libc::SYS_munmap
            | libc::SYS_mprotect
            | libc::SYS_brk
            | libc::SYS_madvise
            | libc::SYS_futex => thread.native(),
            libc::SYS_mmap if call.args[3] & libc::MAP_ANONYMOUS as u64 != 0 => thread.native(),
            libc::SYS_mmap => match self.file(call.args[4]) {
                Some(file) => {
                    if let Err(error) = thread.map_file(file.as_fd(), FileAccess::ReadOnly) {
                        thread.ret(-i64::from(error.raw_os_error()));
                    }
                }
                None => thread.ret(-i64::from(libc::EBADF)),
            },
            _ => {
                let value = self.serve(thread, &call);
                thread.ret(value);
            }
        }
    }

    fn trapped(&self, thread: &Arc<GuestThread>, call: Call, registers: Registers) {
        if self.policy.trapped(self, thread, &call, &registers) {
            return;
        }
        match call.nr as i64 {
            libc::SYS_fork => self.clone(thread, &registers, libc::SIGCHLD as u64, 0),
            libc::SYS_clone => self.clone(thread, &registers, call.args[0], call.args[1]),
            libc::SYS_vfork => self.vfork(thread, &registers),
            libc::SYS_execve => self.execve(thread, &call),
            libc::SYS_wait4 => self.wait4(thread, &registers),
            libc::SYS_exit => {
                let task = task(thread);
                let clear = *task.clear_tid.lock().expect("task");
                let rseq = *task.rseq.lock().expect("task");
                thread.exit_thread(clear, rseq);
            }
            libc::SYS_mmap => self.map(thread, &call, &registers),
            _ => thread.ret(-i64::from(libc::ENOSYS)),
        }
    }

    fn fault(&self, thread: &Arc<GuestThread>, fault: Fault, registers: Registers) {
        if self.policy.fault(self, thread, &fault, &registers) {
            return;
        }
        if let Some(process) = self.state.lock().expect("state").processes.get_mut(&task(thread).process) {
            process.exit = Some(End::Signaled(fault.signo));
        }
        thread.stub().kill();
    }

    fn interrupted(&self, thread: &Arc<GuestThread>, registers: Registers, redirected: Option<Call>) {
        if self.policy.interrupted(self, thread, &registers, redirected) {
            return;
        }
        match (&task(thread).lender, redirected) {
            (Some((parent, registers)), Some(_)) => {
                thread.attach(parent.clone());
                thread.resume(registers);
            }
            _ => thread.resume(&registers),
        }
    }

    fn born(&self, child: &Arc<GuestThread>, token: u64) {
        let mut state = self.state.lock().expect("state");
        let expected = state.expected.remove(&token).expect("a birth that was asked for");
        if let Some(process) = state.processes.get_mut(&expected.pid) {
            process.stub = Some(child.stub().clone());
        }
        drop(state);
        child.attach(Task::new(expected.pid, token, expected.clear_tid));
        if let Some(address) = expected.child_tid {
            let _fault = child.memory().write(address, &(token as u32).to_le_bytes());
        }
        child.resume(&expected.regs);
    }

    fn ran(&self, thread: &Arc<GuestThread>, ran: Ran) {
        if self.policy.ran(self, thread, &ran) {
            return;
        }
        if let Some(token) = ran.token {
            let mut state = self.state.lock().expect("state");
            state.expected.remove(&token);
            state.processes.remove(&token);
        }
        let error = ran.result.err().map_or(0, |error| -i64::from(error.raw_os_error()));
        self.note(format!("ran {} commands, then {error}", ran.succeeded));
        thread.ret(error);
    }

    fn stillborn(&self, token: u64) {
        let mut state = self.state.lock().expect("state");
        state.expected.remove(&token);
        if let Some(process) = state.processes.get_mut(&token) {
            process.end = Some(End::Signaled(libc::SIGKILL));
        }
        drop(state);
        self.changed.notify_all();
        self.wake_waiters();
    }

    fn gone(&self, stub: &Arc<Stub>, status: ExitStatus) {
        if let Some(why) = stub.condemned() {
            self.note(format!("condemned: {why}"));
        }
        let mut state = self.state.lock().expect("state");
        let process =
            state.processes.values_mut().find(|p| p.stub.as_ref().is_some_and(|s| Arc::ptr_eq(s, stub)));
        if let Some(process) = process {
            process.end = Some(process.exit.unwrap_or(match status {
                ExitStatus::Exited(code) => End::Exited(code),
                ExitStatus::Killed(signal) => End::Signaled(signal),
            }));
        }
        drop(state);
        self.changed.notify_all();
        self.wake_waiters();
    }
}
