//! A program's new address space: where things go, and the commands that put them there.

use std::sync::Arc;

use bulkhead_platform::{HostCall, Registers, WarmStub, layout};

use super::elf::Elf;
use super::image::{self, Loaded};
use super::stack::{Builder, Strings};
use super::{auxv, random};
use crate::errno::Errno;
use crate::kernel::{Kernel, MappedFile, Space};
use crate::sync::Mutex;
use crate::vfs::{Credentials, OpenFile};

const PAGE: u64 = 4096;

/// A program that was found, read and found good.
pub(super) struct Program {
    pub(super) file: Arc<OpenFile>,
    pub(super) elf: Elf,
    pub(super) interpreter: Option<(Arc<OpenFile>, Elf)>,
    pub(super) strings: Strings,
    /// AT_EXECFN: the path as it was given.
    pub(super) file_name: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// A program in a stub, about to run.
pub(super) struct Ready {
    pub(super) stub: WarmStub,
    pub(super) commands: Vec<HostCall>,
    pub(super) registers: Registers,
    pub(super) space: Arc<Space>,
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

/// How often a program is prepared anew because the host killed its stub (out of memory).
pub(super) const TRIES: u32 = 16;

/// Prepares a program in a warm stub. One that the host killed meanwhile says nothing of the program.
pub(super) fn prepare(
    kernel: &Kernel,
    program: &Program,
    credentials: &Credentials,
    secure: bool,
    stack_limit: u64,
) -> Result<Ready, Errno> {
    let platform = kernel.platform()?;
    let mut tries = 0;
    loop {
        let stub = platform.warm_stub().map_err(|_| Errno::ENOMEM)?;
        tries += 1;
        match prepare_in(&stub, kernel, program, credentials, secure, stack_limit) {
            Ok((commands, registers, space)) => return Ok(Ready { stub, commands, registers, space }),
            Err(_) if !stub.waits() && tries < TRIES => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn prepare_in(
    stub: &WarmStub,
    kernel: &Kernel,
    program: &Program,
    credentials: &Credentials,
    secure: bool,
    stack_limit: u64,
) -> Result<(Vec<HostCall>, Registers, Arc<Space>), Errno> {
    let platform = kernel.platform()?;
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
        image::load(kernel, &program.elf, &program.file, places.program, stub, &mut commands)?,
    );
    let mut entry = loaded.entry;
    let mut interpreter_base = 0;
    if let Some((file, elf)) = &program.interpreter {
        let parts = image::load(kernel, elf, file, places.interpreter, stub, &mut commands)?;
        let (interpreter, more) = named(file, parts);
        (entry, interpreter_base) = (interpreter.entry, interpreter.base);
        mapped.extend(more);
    }
    let stack =
        build_stack(program, &loaded, interpreter_base, credentials, secure, &places, host_layout.vdso);
    let executable = program.elf.executable_stack;
    map_stack(stub, &stack, stack_limit, executable, &mut commands)?;
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
        mapped: Mutex::new(mapped.into()),
    };
    describe_space(stub, &space, stack.auxv_address, &mut commands)?;
    // Program and interpreter together can have more segments than one list carries. Behind the point of no
    // return it would be too late to say so.
    if commands.len() > layout::MAX_COMMANDS {
        return Err(Errno::ENOEXEC);
    }
    let registers = Registers { rip: entry, rsp: stack.pointer, eflags: 0x202, ..Registers::default() };
    Ok((commands, registers, Arc::new(space)))
}

/// Names what was mapped, for /proc/PID/maps.
fn named(
    file: &Arc<OpenFile>,
    (loaded, mappings): (Loaded, Vec<crate::vfs::Mapping>),
) -> (Loaded, Vec<MappedFile>) {
    let dentry = file.dentry();
    let name = |mapping: crate::vfs::Mapping| MappedFile::new(&mapping, dentry).ok();
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
