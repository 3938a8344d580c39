//! execve, and the job's first program.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::prepare::{Program, Ready, TRIES, prepare};
use super::stack::{STRING_MAX, Strings};
use super::{elf, script};
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{
    Ctx, Ending, Kernel, PlatformMemory, Process, Resource, Run, Signal, Task, end_process, end_task,
    finish_process, run,
};
use crate::vfs::{Caller, Credentials, Dentry, OpenFile, WalkFlags, secure};

/// Scripts whose interpreter is a script, at most, as on Linux.
const SCRIPT_DEPTH: usize = 5;
/// Strings of argv or the environment, at most: each costs the sentry more than its own bytes.
const STRINGS_COUNT_MAX: usize = 1 << 17;

/// What is to be executed.
pub struct Request {
    /// Where a relative path starts.
    pub base: Arc<Dentry>,
    /// The path as the caller gave it.
    pub path: Vec<u8>,
    /// How the path is walked.
    pub walk: WalkFlags,
    /// argv and environment.
    pub strings: Strings,
}

fn find(kernel: &Kernel, caller: &Caller, request: Request) -> Result<Program, Errno> {
    let Request { mut base, path, mut walk, mut strings } = request;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let file_name = path.clone();
    let mut path = path;
    for _ in 0..=SCRIPT_DEPTH {
        let file = kernel.vfs().open_executable(caller, &base, &path, walk)?;
        // Nobody may be writing to it.
        drop(file.inode().deny_write()?);
        let mut head = [0; script::LINE_MAX];
        let length = read_all(&file, 0, &mut head)?;
        let Some((interpreter, argument)) = script::parse(&head[..length]) else {
            return read(kernel, caller, file, strings, file_name, name);
        };
        // argv[0] gives way to the interpreter, its argument and the script's own path.
        let given = strings.arguments.into_iter().skip(1);
        let front = [Some(interpreter.clone()), argument, Some(path)];
        strings.arguments = front.into_iter().flatten().chain(given).collect();
        (path, base, walk) = (interpreter, caller.cwd.clone(), WalkFlags::FOLLOW);
    }
    Err(Errno::ELOOP)
}

fn read(
    kernel: &Kernel,
    caller: &Caller,
    file: Arc<OpenFile>,
    strings: Strings,
    file_name: Vec<u8>,
    name: Vec<u8>,
) -> Result<Program, Errno> {
    let elf = elf::parse(&|offset, into| read_all(&file, offset, into))?;
    let interpreter = match &elf.interpreter {
        None => None,
        Some(path) => {
            let found = kernel.vfs().open_executable(caller, &caller.cwd, path, WalkFlags::FOLLOW)?;
            // Linux says ELIBBAD for a damaged interpreter; ENOEXEC would make shells take it for a script.
            let elf = elf::parse(&|offset, into| read_all(&found, offset, into)).map_err(|_| Errno::EIO)?;
            Some((found, elf))
        }
    };
    Ok(Program { file, elf, interpreter, strings, file_name, name })
}

fn read_all(file: &Arc<OpenFile>, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < into.len() {
        match file.ops().read_at(file, offset + done as u64, &mut into[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Who the program runs as: set-uid and set-gid bits count, unless the process gave that up.
fn new_credentials(task: &Task, file: &OpenFile) -> (Arc<Credentials>, bool) {
    const SET_UID: u32 = 0o4000;
    const SET_GID: u32 = 0o2010;
    let old = task.credentials();
    let (mode, uid, gid) = file.inode().with_meta(|meta| (meta.mode, meta.uid, meta.gid));
    let mut new = (*old).clone();
    if !task.process.no_new_privs.load(Ordering::Relaxed) {
        if mode & SET_UID != 0 {
            new.euid = uid;
        }
        if mode & SET_GID == SET_GID {
            new.egid = gid;
        }
    }
    (new.suid, new.fsuid, new.sgid, new.fsgid) = (new.euid, new.euid, new.egid, new.egid);
    new.secure_bits &= !secure::KEEP;
    if (new.euid == 0 || new.uid == 0) && new.secure_bits & secure::NO_ROOT == 0 {
        new.permitted = new.bounding | new.inheritable;
        new.effective = if new.euid == 0 { new.permitted } else { 0 };
    } else {
        new.permitted = new.ambient;
        new.effective = new.ambient;
    }
    let secure = new.euid != new.uid || new.egid != new.gid;
    (Arc::new(new), secure)
}

/// exec's point of no return: the process takes the new program over.
fn take_over(task: &Arc<Task>, program: &Program, ready: Ready, credentials: Arc<Credentials>, secure: bool) {
    let process = &task.process;
    let kernel = process.kernel();
    leave_other_threads(&kernel, task);
    let files = task.files();
    let files = if Arc::strong_count(&files) > 2 {
        let own = Arc::new(files.fork());
        drop(task.set_files(own.clone()));
        own
    } else {
        files
    };
    drop(files.close_on_exec());
    reset_signals(task);
    process.dumpable.store(i32::from(!secure), Ordering::Relaxed);
    task.set_credentials(credentials);
    task.set_name(&program.name);
    process.has_execed.store(true, Ordering::Relaxed);
    task.clear_tid.store(0, Ordering::Relaxed);
    task.robust_list.store(0, Ordering::Relaxed);
    *task.rseq.lock() = None;
    let borrowed = task.borrowed.lock().is_some();
    let old = process.stub();
    if borrowed {
        run::give_back(task);
    }
    enter(task, &ready);
    if let Some(old) = old {
        process.leave_stub(old);
    }
    start(&kernel, task, program, ready, secure);
}

/// Makes the process's memory and the task's host thread those of a stub.
fn enter(task: &Arc<Task>, ready: &Ready) {
    let process = &task.process;
    *process.space.lock() = ready.space.clone();
    let (stub, host) = (ready.stub.stub().clone(), ready.stub.thread().clone());
    stub.attach(process.clone());
    host.attach(task.clone());
    task.set_host(Some(host));
    task.set_memory(PlatformMemory::shared(stub.memory()));
    *process.stub.lock() = Some(stub);
    apply_limits(process);
}

/// Starts the program, in another stub if the host has killed the one that it was to run in.
fn start(kernel: &Arc<Kernel>, task: &Arc<Task>, program: &Program, mut ready: Ready, secure: bool) {
    let process = &task.process;
    for _ in 0..TRIES {
        if process.ends() {
            *process.stub.lock() = None;
            drop(ready.stub);
            finish_process(kernel, process);
            return;
        }
        run::run_then_look(task);
        if ready.stub.start(&ready.commands, &ready.registers).is_ok() {
            return;
        }
        let stack_limit = process.limits.soft(Resource::Stack);
        let Ok(again) = prepare(kernel, program, &task.credentials(), secure, stack_limit) else { break };
        serve_again(task);
        enter(task, &again);
        ready = again;
    }
    // The stub is dropped and its end is not told: nobody else finishes the process, even if somebody else has decided
    // its end.
    *process.stub.lock() = None;
    end_process(process, Ending::Killed(Signal::KILL, false));
    finish_process(kernel, process);
}

/// Takes back that the task runs, unless somebody has ended it meanwhile.
fn serve_again(task: &Task) {
    let mut run = task.run.lock();
    if matches!(*run, Run::Running) {
        *run = Run::Serving;
    }
}

fn leave_other_threads(kernel: &Kernel, task: &Arc<Task>) {
    let process = &task.process;
    let others: Vec<Arc<Task>> = {
        let mut tasks = process.tasks.lock();
        let all = std::mem::replace(&mut *tasks, vec![task.clone()]);
        all.into_iter().filter(|other| !Arc::ptr_eq(other, task)).collect()
    };
    for other in &others {
        end_task(other);
        other.let_host_go();
    }
    let mut tree = kernel.tree.lock();
    for other in &others {
        if other.tid() != process.pid {
            tree.remove_task(other.tid());
        }
    }
    if task.tid() != process.pid {
        tree.rename_task(task.tid(), process.pid);
    }
}

fn reset_signals(task: &Task) {
    task.process.signals.lock().actions.reset_handlers();
    task.process.timers.lock().posix.clear();
    task.process.attachments.clear();
    let mut signals = task.signals.lock();
    (signals.stack_base, signals.stack_size, signals.stack_flags) = (0, 0, 0);
    signals.taken = None;
}

fn apply_limits(process: &Arc<Process>) {
    for resource in [Resource::AddressSpace, Resource::Data] {
        let soft = process.limits.soft(resource);
        if soft != crate::kernel::INFINITY {
            crate::syscalls::limit_changed(process, resource, soft);
        }
    }
}

fn execute(task: &Arc<Task>, caller: &Caller, request: Request) -> Result<(), Errno> {
    let kernel = task.process.kernel();
    let stack_limit = task.process.limits.soft(Resource::Stack);
    request.strings.check(stack_limit)?;
    let program = find(&kernel, caller, request)?;
    program.strings.check(stack_limit)?;
    let (credentials, secure) = new_credentials(task, &program.file);
    let ready = prepare(&kernel, &program, &credentials, secure, stack_limit)?;
    take_over(task, &program, ready, credentials, secure);
    Ok(())
}

/// Starts the job's first program in a task that has no host thread yet.
///
/// # Errors
/// As execve.
pub fn start_first(task: &Arc<Task>, request: Request) -> Result<(), Errno> {
    *task.run.lock() = Run::Serving;
    let caller = task.fs().caller(task.credentials(), task.process.pid, task.tid());
    execute(task, &caller, request)
}

fn read_strings(cx: &Ctx<'_>, mut array: u64, budget: &mut u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if array == 0 {
        return Ok(strings);
    }
    loop {
        let pointer: u64 = cx.memory.read_value(array)?;
        if pointer == 0 {
            return Ok(strings);
        }
        if strings.len() >= STRINGS_COUNT_MAX {
            return Err(Errno::E2BIG);
        }
        let text = cx.memory.read_string(pointer, STRING_MAX, Errno::E2BIG)?;
        *budget = budget.checked_sub(text.len() as u64 + 9).ok_or(Errno::E2BIG)?;
        strings.push(text);
        array = array.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}

fn exec(
    cx: &mut Ctx<'_>,
    base: Arc<Dentry>,
    walk: WalkFlags,
    path: Vec<u8>,
    argv: u64,
    envp: u64,
) -> SysResult {
    if cx.registers.is_none() {
        return Err(Errno::ENOSYS.into());
    }
    let mut budget = 6 << 20;
    let mut arguments = read_strings(cx, argv, &mut budget)?;
    let environment = read_strings(cx, envp, &mut budget)?;
    if arguments.is_empty() {
        // Linux gives an empty argv an empty name.
        arguments.push(Vec::new());
    }
    let caller = cx.caller();
    let request = Request { base, path, walk, strings: Strings { arguments, environment } };
    execute(cx.task, &caller, request)?;
    Err(Fail::Done)
}

/// execve(2).
pub fn sys_execve(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let path = cx.memory.read_string(args.u64(0), 4096, Errno::ENAMETOOLONG)?;
    let base = cx.fs().cwd();
    exec(cx, base, WalkFlags::FOLLOW, path, args.u64(1), args.u64(2))
}

/// execveat(2).
pub fn sys_execveat(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const AT_FDCWD: i32 = -100;
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    let flags = args.uint(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = cx.memory.read_string(args.u64(1), 4096, Errno::ENAMETOOLONG)?;
    let base = match args.int(0) {
        AT_FDCWD => cx.fs().cwd(),
        fd => cx.files().get(fd)?.dentry().clone(),
    };
    let walk =
        WalkFlags { follow: flags & AT_SYMLINK_NOFOLLOW == 0, resolve: 0, empty: flags & AT_EMPTY_PATH != 0 };
    exec(cx, base, walk, path, args.u64(2), args.u64(3))
}
