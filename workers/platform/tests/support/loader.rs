//! Loads an ELF program, and its interpreter, into a warm stub.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bulkhead_platform::layout::Layout;
use bulkhead_platform::{FileAccess, HostCall, Registers, WarmStub};

const PAGE: u64 = 4096;
const STACK_SIZE: u64 = 1 << 20;

struct Image {
    entry: u64,
    base: u64,
    headers: u64,
    header_count: u64,
    interpreter: Option<String>,
    end: u64,
}

/// Starts `path` with these arguments and environment.
pub fn start(warm: WarmStub, layout: Layout, path: &Path, argv: &[String], envp: &[String]) {
    let mut commands = Vec::new();
    let program = load(&warm, path, 0x5555_0000_0000, &mut commands);
    let interpreter = program
        .interpreter
        .as_ref()
        .map(|path| load(&warm, Path::new(path), 0x7e00_0000_0000, &mut commands));
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    commands.push(HostCall::mmap(layout.stack_top - STACK_SIZE, STACK_SIZE, prot, flags, -1, 0));
    // The stack's contents go into memory that the list has not mapped yet: through a page of the slot area that
    // no thread uses, moved into place by the list.
    let stack = build_stack(&program, interpreter.as_ref(), layout, argv, envp);
    let top = layout.stack_top;
    let bytes = (stack.bytes.len() as u64).next_multiple_of(PAGE);
    let staging = bulkhead_platform::layout::SLOTS + bulkhead_platform::layout::SLOTS_SIZE - bytes;
    warm.stub()
        .memory()
        .write(staging + bytes - stack.bytes.len() as u64, &stack.bytes)
        .expect("the staging pages");
    let args = [staging, bytes, bytes, (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64, top - bytes, 0];
    commands.push(HostCall::new(libc::SYS_mremap, args));
    set_brk(&warm, &program, &mut commands);
    let entry = interpreter.map_or(program.entry, |image| image.entry);
    let registers = Registers { rip: entry, rsp: stack.pointer, eflags: 0x202, ..Registers::default() };
    warm.start(&commands, &registers).expect("a short list");
}

/// brk is native once the host knows where it begins.
fn set_brk(warm: &WarmStub, program: &Image, commands: &mut Vec<HostCall>) {
    let brk = program.end.next_multiple_of(PAGE);
    let mut map = [0u64; 13];
    // start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, ... exe_fd.
    map[..4].fill(program.base.max(0x1_0000));
    map[1] += PAGE;
    map[4] = brk;
    map[5] = brk;
    map[6..11].fill(brk);
    map[12] = u64::from(u32::MAX) << 32;
    let bytes: Vec<u8> = map.iter().flat_map(|word| word.to_le_bytes()).collect();
    let scratch = warm.thread().scratch();
    warm.stub().memory().write(scratch, &bytes).expect("the scratch area");
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    let args = [PR_SET_MM, PR_SET_MM_MAP, scratch, bytes.len() as u64, 0, 0];
    commands.push(HostCall::new(libc::SYS_prctl, args));
}

fn load(warm: &WarmStub, path: &Path, base: u64, commands: &mut Vec<HostCall>) -> Image {
    let file = File::open(path).expect("the program");
    let fd = warm.add_fd(file.as_fd(), FileAccess::ReadOnly).expect("the program's descriptor");
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).expect("an ELF header");
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u16::from_le_bytes(header[at..at + 2].try_into().expect("2 bytes"));
    let base = if short(16) == 2 { 0 } else { base };
    let (phoff, phnum) = (word(32), u64::from(short(56)));
    let mut image =
        Image { entry: base + word(24), base, headers: 0, header_count: phnum, interpreter: None, end: 0 };
    for n in 0..phnum {
        let mut raw = [0; 56];
        file.read_exact_at(&mut raw, phoff + 56 * n).expect("a program header");
        let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("8 bytes"));
        let kind = u32::from_le_bytes(raw[..4].try_into().expect("4 bytes"));
        let flags = u32::from_le_bytes(raw[4..8].try_into().expect("4 bytes"));
        let (offset, address, in_file, in_memory) = (word(8), base + word(16), word(32), word(40));
        if kind == 3 {
            let mut name = vec![0; in_file as usize - 1];
            file.read_exact_at(&mut name, offset).expect("the interpreter's name");
            image.interpreter = Some(String::from_utf8(name).expect("a name"));
        }
        if kind != 1 {
            continue;
        }
        if offset <= phoff && phoff < offset + in_file {
            image.headers = address + phoff - offset;
        }
        image.end = image.end.max(address + in_memory);
        segment(commands, fd, (offset, address, in_file, in_memory), flags);
    }
    commands.push(HostCall::close(fd));
    image
}

fn segment(commands: &mut Vec<HostCall>, fd: i32, extent: (u64, u64, u64, u64), flags: u32) {
    let (offset, address, in_file, in_memory) = extent;
    let bit = |from: u32, to: i32| if flags & from != 0 { to } else { 0 };
    let prot = bit(4, libc::PROT_READ) | bit(2, libc::PROT_WRITE) | bit(1, libc::PROT_EXEC);
    let start = address & !(PAGE - 1);
    let file_end = address + in_file;
    let file_pages = file_end.next_multiple_of(PAGE);
    let end = (address + in_memory).next_multiple_of(PAGE);
    let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let mut anonymous_from = start;
    if in_file > 0 {
        let from = offset & !(PAGE - 1);
        commands.push(HostCall::mmap(start, file_pages - start, prot, fixed, fd, from));
        if in_memory > in_file && flags & 2 != 0 && file_pages > file_end {
            commands.push(HostCall::zero(file_end, file_pages - file_end));
        }
        anonymous_from = file_pages;
    }
    if end > anonymous_from {
        let flags = fixed | libc::MAP_ANONYMOUS;
        commands.push(HostCall::mmap(anonymous_from, end - anonymous_from, prot, flags, -1, 0));
    }
}

struct Stack {
    bytes: Vec<u8>,
    pointer: u64,
}

fn build_stack(
    program: &Image,
    interpreter: Option<&Image>,
    layout: Layout,
    argv: &[String],
    envp: &[String],
) -> Stack {
    let mut strings = vec![0x5a; 16];
    let mut place = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let argv: Vec<u64> = argv.iter().map(|text| place(text)).collect();
    let envp: Vec<u64> = envp.iter().map(|text| place(text)).collect();
    let strings_at = (layout.stack_top - strings.len() as u64) & !15;
    let mut words = vec![argv.len() as u64];
    words.extend(argv.iter().map(|at| strings_at + at));
    words.push(0);
    words.extend(envp.iter().map(|at| strings_at + at));
    words.push(0);
    let auxv = [
        (33, layout.vdso),
        (6, PAGE),
        (3, program.headers),
        (4, 56),
        (5, program.header_count),
        (7, interpreter.map_or(0, |image| image.base)),
        (9, program.entry),
        (11, 0),
        (12, 0),
        (13, 0),
        (14, 0),
        (23, 0),
        (25, strings_at),
        (0, 0),
    ];
    auxv.iter().for_each(|(key, value)| words.extend([*key, *value]));
    let pointer = (strings_at - 8 * words.len() as u64) & !15;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize((strings_at - pointer) as usize, 0);
    bytes.extend_from_slice(&strings);
    bytes.resize((layout.stack_top - pointer) as usize, 0);
    Stack { bytes, pointer }
}
