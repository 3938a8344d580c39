//! execve, and the job's first program.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::{HostCall, Registers, WarmStub, layout};

use super::elf::{self, Elf};
use super::image::{self, Loaded};
use super::stack::{Builder, STRING_MAX, Strings};
use super::{auxv, random, script};
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{
    Ctx, Kernel, MappedFile, PlatformMemory, Process, Resource, Run, Space, Task, end_task, finish_process,
    run,
};
use crate::sync::Mutex;
use crate::vfs::{Caller, Credentials, Dentry, OpenFile, WalkFlags};

const PAGE: u64 = 4096;
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

/// A program that was found, read and found good.
struct Program {
    file: Arc<OpenFile>,
    elf: Elf,
    interpreter: Option<(Arc<OpenFile>, Elf)>,
    strings: Strings,
    /// AT_EXECFN: the path as it was given.
    file_name: Vec<u8>,
    name: Vec<u8>,
}

fn find(kernel: &Kernel, caller: &Caller, request: Request) -> Result<Program, Errno> {
    let Request { mut base, path, mut walk, mut strings } = request;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let file_name = path.clone();
    let mut path = path;
    for _ in 0..=SCRIPT_DEPTH {
        let file = kernel.vfs().open_executable(caller, &base, &path, walk)?;
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

/// A program in a stub, about to run.
struct Ready {
    stub: WarmStub,
    commands: Vec<HostCall>,
    registers: Registers,
    space: Space,
}

/// Where things go in the new address space; different at every exec, since warm stubs share a layout.
struct Places {
    program: u64,
    interpreter: u64,
    stack_top: u64,
    heap_gap: u64,
}

impl Places {
    fn choose(layout: &layout::Layout) -> Self {
        /// Two thirds of the address space, as on Linux.
        const PROGRAM: u64 = 0x5555_5555_4000;
        /// 28 bits of pages.
        const PROGRAM_BITS: u64 = (1 << 28) - 1;
        /// The interpreter lies between 4 and 64 GiB below the host's mmap area, out of the way of what grows
        /// down from there.
        const INTERPRETER_GAP: u64 = 4 << 30;
        const INTERPRETER_BITS: u64 = (60 << 30) / PAGE;
        /// Up to 16 MiB below the host's own.
        const STACK_BITS: u64 = (16 << 20) / PAGE;
        /// The heap begins up to 32 MiB behind the program.
        const HEAP_BITS: u64 = (32 << 20) / PAGE;
        Self {
            program: PROGRAM + (random() & PROGRAM_BITS) * PAGE,
            interpreter: (layout.mmap_base & !(PAGE - 1))
                - INTERPRETER_GAP
                - (random() % INTERPRETER_BITS) * PAGE,
            stack_top: layout.stack_top - (random() % STACK_BITS) * PAGE,
            heap_gap: (random() % HEAP_BITS) * PAGE,
        }
    }
}

fn prepare(
    kernel: &Kernel,
    program: &Program,
    credentials: &Credentials,
    secure: bool,
    stack_limit: u64,
) -> Result<Ready, Errno> {
    let platform = kernel.platform()?;
    let stub = platform.warm_stub().map_err(|_| Errno::ENOMEM)?;
    if let Some(image) = kernel.public_image() {
        use std::os::fd::AsFd;
        stub.thread().add_fd(
            image.as_fd(),
            Some(layout::IMAGE_FD),
            bulkhead_platform::FileAccess::ReadOnly,
        )?;
    }
    let host_layout = platform.layout();
    let places = Places::choose(&host_layout);
    let mut commands = Vec::with_capacity(layout::MAX_COMMANDS);
    let (loaded, mut mapped) = named(
        &program.file,
        image::load(kernel, &program.elf, &program.file, places.program, &stub, &mut commands)?,
    );
    let mut entry = loaded.entry;
    let mut interpreter_base = 0;
    if let Some((file, elf)) = &program.interpreter {
        let parts = image::load(kernel, elf, file, places.interpreter, &stub, &mut commands)?;
        let (interpreter, more) = named(file, parts);
        (entry, interpreter_base) = (interpreter.entry, interpreter.base);
        mapped.extend(more);
    }
    let stack =
        build_stack(program, &loaded, interpreter_base, credentials, secure, &places, host_layout.vdso);
    let executable = program.elf.executable_stack;
    map_stack(&stub, &stack, stack_limit, executable, &mut commands)?;
    let space = Space {
        executable: kernel.path_of(program.file.dentry()),
        arguments: stack.arguments,
        environment: stack.environment,
        auxv: stack.auxv.clone(),
        brk_start: loaded.end + places.heap_gap,
        code: loaded.code,
        data: loaded.data,
        stack_start: stack.pointer,
        stack: (stack.top - stack_size(stack_limit), stack.top),
        file: Some(program.file.clone()),
        mapped: Mutex::new(mapped),
    };
    describe_space(&stub, &space, stack.auxv_address, &mut commands)?;
    let registers = Registers { rip: entry, rsp: stack.pointer, eflags: 0x202, ..Registers::default() };
    Ok(Ready { stub, commands, registers, space })
}

/// Names what was mapped, for /proc/PID/maps.
fn named(
    file: &Arc<OpenFile>,
    (loaded, mappings): (Loaded, Vec<crate::vfs::Mapping>),
) -> (Loaded, Vec<MappedFile>) {
    let dentry = file.dentry();
    let name = |mapping: crate::vfs::Mapping| {
        let stat = rustix::fs::fstat(&mapping.host_file).ok()?;
        let host_offset = if mapping.own_file { 0 } else { mapping.host_offset };
        let (host, length) = ((stat.st_dev, stat.st_ino), mapping.length_available);
        Some(MappedFile { host, host_offset, length, dentry: dentry.clone() })
    };
    (loaded, mappings.into_iter().filter_map(name).collect())
}

struct Stack {
    bytes: Vec<u8>,
    pointer: u64,
    top: u64,
    arguments: (u64, u64),
    environment: (u64, u64),
    auxv: Vec<u8>,
    auxv_address: u64,
}

fn build_stack(
    program: &Program,
    loaded: &Loaded,
    interpreter_base: u64,
    credentials: &Credentials,
    secure: bool,
    places: &Places,
    vdso: u64,
) -> Stack {
    /// The pointer begins up to this far below the top, in steps of 16.
    const JITTER: u64 = 8192;
    let strings = &program.strings;
    let mut stack = Builder::new(places.stack_top);
    stack.push(&[0; 8]);
    let file_name = stack.push_string(&program.file_name);
    let environment_end = stack.address();
    let mut environment: Vec<u64> =
        strings.environment.iter().rev().map(|text| stack.push_string(text)).collect();
    let arguments_end = stack.address();
    let mut arguments: Vec<u64> =
        strings.arguments.iter().rev().map(|text| stack.push_string(text)).collect();
    let arguments_start = stack.address();
    environment.reverse();
    arguments.reverse();
    for _ in 0..random() % (JITTER / 16) {
        stack.push(&[0; 16]);
    }
    let random_bytes = [random().to_ne_bytes(), random().to_ne_bytes()].concat();
    let random_address = stack.push(&random_bytes);
    let platform = stack.push_string(b"x86_64");
    let pointers = auxv::Pointers { random: random_address, platform, file_name, vdso };
    let vector = auxv::vector(loaded, interpreter_base, credentials, secure, &pointers);
    let mut words = vec![arguments.len() as u64];
    words.extend(&arguments);
    words.push(0);
    words.extend(&environment);
    words.push(0);
    let before_auxv = words.len() as u64;
    words.extend(vector.iter().flat_map(|(key, value)| [*key, *value]));
    stack.align(16);
    if words.len() % 2 == 1 {
        stack.push(&[0; 8]);
    }
    let pointer = stack.push_words(&words);
    let auxv =
        vector.iter().flat_map(|(key, value)| [key.to_ne_bytes(), value.to_ne_bytes()]).flatten().collect();
    Stack {
        bytes: stack.into_bytes(),
        pointer,
        top: places.stack_top,
        arguments: (arguments_start, arguments_end),
        environment: (arguments_end, environment_end),
        auxv,
        auxv_address: pointer + 8 * before_auxv,
    }
}

/// The stack is mapped whole: the host grows a stack only for the guest's own accesses, and the sentry's must
/// reach it, too. Untouched pages cost nothing.
fn stack_size(limit: u64) -> u64 {
    /// What an unlimited stack gets; also what lies between the host's stack and its mmap area at least.
    const MOST: u64 = 112 << 20;
    const LEAST: u64 = 256 << 10;
    limit.clamp(LEAST, MOST) & !(PAGE - 1)
}

fn map_stack(
    stub: &WarmStub,
    stack: &Stack,
    limit: u64,
    executable: bool,
    commands: &mut Vec<HostCall>,
) -> Result<(), Errno> {
    const PROT: i32 = 3;
    const EXEC: i32 = 4;
    /// MAP_PRIVATE, FIXED, ANONYMOUS, NORESERVE, STACK.
    const FLAGS: i32 = 0x2 | 0x10 | 0x20 | 0x4000 | 0x2_0000;
    /// MREMAP_MAYMOVE, FIXED, DONTUNMAP.
    const MOVE: u64 = 1 | 2 | 4;
    let bytes = (stack.bytes.len() as u64).next_multiple_of(PAGE);
    let size = stack_size(limit).max(bytes + (128 << 10));
    commands.push(HostCall::mmap(stack.top - size, size, PROT, FLAGS, -1, 0));
    // The contents wait in pages of the slot area that no thread uses, and are moved into place by the list.
    let staging = layout::SLOTS + layout::SLOTS_SIZE - bytes;
    let at = staging + bytes - stack.bytes.len() as u64;
    stub.stub().memory().write(at, &stack.bytes)?;
    let args = [staging, bytes, bytes, MOVE, stack.top - bytes, 0];
    commands.push(HostCall::new(linux_raw_sys::general::__NR_mremap.into(), args));
    if executable {
        commands.push(HostCall::mprotect(stack.top - size, size, PROT | EXEC));
    }
    Ok(())
}

/// Tells the host's kernel where heap, stack and strings lie: brk is native from then on.
fn describe_space(
    stub: &WarmStub,
    space: &Space,
    auxv_address: u64,
    commands: &mut Vec<HostCall>,
) -> Result<(), Errno> {
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    const NO_FILE: u64 = u32::MAX as u64;
    let words = [
        space.code.0,
        space.code.1,
        space.data.0,
        space.data.1,
        space.brk_start,
        space.brk_start,
        space.stack_start,
        space.arguments.0,
        space.arguments.1,
        space.environment.0,
        space.environment.1,
        auxv_address,
        space.auxv.len() as u64 | NO_FILE << 32,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
    let scratch = stub.thread().scratch();
    stub.stub().memory().write(scratch, &bytes)?;
    let args = [PR_SET_MM, PR_SET_MM_MAP, scratch, bytes.len() as u64, 0, 0];
    commands.push(HostCall::new(linux_raw_sys::general::__NR_prctl.into(), args));
    Ok(())
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
    if new.euid == 0 || new.uid == 0 {
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
fn take_over(task: &Arc<Task>, program: &Program, ready: Ready, credentials: Arc<Credentials>) {
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
    task.set_credentials(credentials);
    task.set_name(&program.name);
    process.has_execed.store(true, Ordering::Relaxed);
    task.clear_tid.store(0, Ordering::Relaxed);
    task.robust_list.store(0, Ordering::Relaxed);
    *task.rseq.lock() = None;
    *process.space.lock() = Arc::new(ready.space);
    let borrowed = task.borrowed.lock().is_some();
    let old = process.stub();
    if borrowed {
        run::give_back(task);
    }
    let (stub, host) = (ready.stub.stub().clone(), ready.stub.thread().clone());
    stub.attach(process.clone());
    host.attach(task.clone());
    task.set_host(Some(host));
    task.set_memory(PlatformMemory::shared(stub.memory()));
    *process.stub.lock() = Some(stub);
    if let Some(old) = old {
        process.account(&old);
        old.kill();
    }
    apply_limits(process);
    if process.ends() {
        *process.stub.lock() = None;
        drop(ready.stub);
        finish_process(&kernel, process);
        return;
    }
    run::run_then_look(task);
    if ready.stub.start(&ready.commands, &ready.registers).is_err() {
        crate::kernel::end_process(
            process,
            crate::kernel::Ending::Killed(crate::kernel::Signal::KILL, false),
        );
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
    take_over(task, &program, ready, credentials);
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
