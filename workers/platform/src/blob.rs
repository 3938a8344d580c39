//! The stub's program: its code and its filter in a hand-made static ELF file of one page.

use crate::bpf::Instruction;
use crate::{layout, registers, wire};

std::arch::global_asm!(
    include_str!("stub.S"),
    SYS_mmap = const libc::SYS_mmap,
    SYS_rt_sigprocmask = const libc::SYS_rt_sigprocmask,
    SYS_rt_sigaction = const libc::SYS_rt_sigaction,
    SYS_write = const libc::SYS_write,
    SYS_clone = const libc::SYS_clone,
    SYS_seccomp = const libc::SYS_seccomp,
    SYS_exit_group = const libc::SYS_exit_group,
    SYS_rt_sigreturn = const libc::SYS_rt_sigreturn,
    SECCOMP_SET_MODE_FILTER = const libc::SECCOMP_SET_MODE_FILTER,
    SECCOMP_FLAGS = const SECCOMP_FLAGS,
    CLONE_STUB = const libc::CLONE_PARENT | libc::SIGCHLD,
    SIGACTION_FLAGS = const SIGACTION_FLAGS,
    SLOTS = const layout::SLOTS,
    SLOTS_SIZE = const layout::SLOTS_SIZE,
    SLOTS_FLAGS = const libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE,
    SLOT_SIZE = const layout::SLOT_SIZE,
    STACK = const layout::SLOT_SIZE - wire::STACK_MARGIN,
    SLOT_COUNT = const layout::SLOT_COUNT,
    SLOT_FS = const layout::SLOT_FS,
    SLOT_GS = const layout::SLOT_FS + 8,
    SLOT_TOKEN = const layout::SLOT_TOKEN,
    SLOT_COMMANDS = const layout::SLOT_COMMANDS,
    SLOT_START_UC = const layout::SLOT_START_UC,
    COMMAND_SIZE = const layout::COMMAND_SIZE,
    UC_RAX = const registers::UC_RAX,
    FPROG = const FPROG,
    BELL = const wire::BELL,
    PARK = const wire::PARK,
    BORN = const wire::BORN,
    DONE = const wire::DONE,
    KICK = const wire::KICK,
    ORDER = const wire::ORDER,
    BASES = const wire::BASES,
    RUN = const wire::RUN,
    VALUE = const wire::VALUE,
    THEN_RESUME = const wire::THEN_RESUME,
    KEEP_GOING = const wire::KEEP_GOING,
    options(att_syntax)
);

/// NEW_LISTENER and WAIT_KILLABLE_RECV: a received call can be ended by death alone.
const SECCOMP_FLAGS: u64 = 8 | 32;
/// SA_SIGINFO, SA_ONSTACK, SA_RESTART and SA_RESTORER.
const SIGACTION_FLAGS: u64 = 4 | 0x0800_0000 | 0x1000_0000 | 0x0400_0000;

const TEXT_OFFSET: usize = 0xc0;
/// Where `struct sock_fprog` and the filter behind it lie in the page.
const FPROG_OFFSET: usize = 0x500;
const FPROG: u64 = layout::STUB_TEXT + FPROG_OFFSET as u64;
const FILTER_OFFSET: usize = FPROG_OFFSET + 16;

unsafe extern "C" {
    static bulkhead_stub_begin: u8;
    static bulkhead_stub_end: u8;
}

fn code() -> &'static [u8] {
    // SAFETY: (1) the two symbols enclose the bytes that global_asm! put into one read-only section of this
    // program, begin before end; (2) nothing writes there.
    unsafe {
        let begin = &raw const bulkhead_stub_begin;
        let length = (&raw const bulkhead_stub_end).offset_from_unsigned(begin);
        std::slice::from_raw_parts(begin, length)
    }
}

/// The ELF file with this filter in it.
pub(crate) fn build(filter: &[Instruction]) -> Vec<u8> {
    let page = layout::STUB_TEXT_SIZE as usize;
    let mut file = vec![0; page];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    // ELF header: 64-bit, little-endian, executable, x86-64; two program headers.
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &(layout::STUB_TEXT + TEXT_OFFSET as u64).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    // PT_LOAD, readable and executable: the whole page.
    put(64, &1u32.to_le_bytes());
    put(68, &5u32.to_le_bytes());
    for at in [80, 88] {
        put(at, &layout::STUB_TEXT.to_le_bytes());
    }
    for at in [96, 104, 112] {
        put(at, &layout::STUB_TEXT_SIZE.to_le_bytes());
    }
    // PT_GNU_STACK, not executable: otherwise every mapping would be.
    put(120, &0x6474_e551u32.to_le_bytes());
    put(124, &6u32.to_le_bytes());
    let code = code();
    assert!(TEXT_OFFSET + code.len() <= FPROG_OFFSET, "the stub's code is {} bytes", code.len());
    put(TEXT_OFFSET, code);
    assert!(FILTER_OFFSET + 8 * filter.len() <= page, "the filter has {} instructions", filter.len());
    put(FPROG_OFFSET, &(filter.len() as u16).to_le_bytes());
    put(FPROG_OFFSET + 8, &(layout::STUB_TEXT + FILTER_OFFSET as u64).to_le_bytes());
    for (n, instruction) in filter.iter().enumerate() {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&instruction.code.to_le_bytes());
        bytes[2] = instruction.jt;
        bytes[3] = instruction.jf;
        bytes[4..].copy_from_slice(&instruction.k.to_le_bytes());
        put(FILTER_OFFSET + 8 * n, &bytes);
    }
    file
}
