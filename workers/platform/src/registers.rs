//! The registers of a guest thread as values, and their place in the host's signal frame.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::GuestMemory;

/// All general registers. Flags and segment registers are sanitised by the host's kernel when they are loaded.
///
/// The names are the registers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    /// The thread pointer. A value outside of user addresses leaves the thread's own unchanged.
    pub fs_base: u64,
    /// As `fs_base`.
    pub gs_base: u64,
}

// The host's `struct rt_sigframe` without its first word: ucontext, then siginfo.
/// Bytes of ucontext.
pub(crate) const UC_SIZE: usize = 304;
/// Bytes of ucontext and siginfo.
pub(crate) const FRAME_SIZE: usize = UC_SIZE + 128;
/// Offset of the general registers in ucontext.
pub(crate) const UC_REGISTERS: u64 = 40;
/// Offset of rax in ucontext.
pub(crate) const UC_RAX: u64 = UC_REGISTERS + 13 * 8;
/// Bytes of the general registers, r8 to eflags, in the order of `struct sigcontext`.
pub(crate) const GENERAL_SIZE: usize = 18 * 8;
const UC_STACK: usize = 16;
const UC_SEGMENTS: usize = 40 + GENERAL_SIZE;
const UC_ERR: usize = UC_SEGMENTS + 8;
const UC_TRAPNO: usize = UC_ERR + 8;
const UC_CR2: usize = UC_TRAPNO + 16;
const UC_FPSTATE: usize = UC_CR2 + 8;

/// UC_SIGCONTEXT_SS and UC_STRICT_RESTORE_SS: the frame's ss counts.
const UC_FLAGS: u64 = 2 | 4;
/// cs 0x33 and ss 0x2b of 64-bit user code, as the frame packs them.
const USER_SEGMENTS: u64 = 0x002b_0000_0000_0033;

impl Registers {
    /// The general registers as the frame holds them.
    pub(crate) fn general(&self) -> [u8; GENERAL_SIZE] {
        let r = self;
        let words = [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
            r.rcx, r.rsp, r.rip, r.eflags,
        ];
        let mut bytes = [0; GENERAL_SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_frame(frame: &Frame, fs_base: u64, gs_base: u64) -> Self {
        let w = |n: usize| word(&frame.0, UC_REGISTERS as usize + 8 * n);
        Self {
            r8: w(0),
            r9: w(1),
            r10: w(2),
            r11: w(3),
            r12: w(4),
            r13: w(5),
            r14: w(6),
            r15: w(7),
            rdi: w(8),
            rsi: w(9),
            rbp: w(10),
            rbx: w(11),
            rdx: w(12),
            rax: w(13),
            rcx: w(14),
            rsp: w(15),
            rip: w(16),
            eflags: w(17),
            fs_base,
            gs_base,
        }
    }
}

/// A copy of ucontext and siginfo of a stub's signal frame. It is guest memory: hostile.
pub(crate) struct Frame(pub(crate) [u8; FRAME_SIZE]);

impl Frame {
    pub(crate) fn fpstate(&self) -> u64 {
        word(&self.0, UC_FPSTATE)
    }

    pub(crate) fn fault(&self, signo: i32) -> crate::Fault {
        crate::Fault {
            signo,
            code: word(&self.0, UC_SIZE + 8) as i32,
            addr: word(&self.0, UC_SIZE + 16),
            trapno: word(&self.0, UC_TRAPNO),
            err: word(&self.0, UC_ERR),
            cr2: word(&self.0, UC_CR2),
        }
    }
}

/// A whole ucontext to start a thread from by rt_sigreturn: clear extended state, no signal blocked, and the
/// slot's alternate stack.
pub(crate) fn start_context(registers: &Registers, alternate_stack: u64, size: u64) -> [u8; UC_SIZE] {
    let mut uc = [0; UC_SIZE];
    let mut put = |at: usize, value: u64| uc[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, UC_FLAGS);
    put(UC_STACK, alternate_stack);
    put(UC_STACK + 16, size);
    put(UC_SEGMENTS, USER_SEGMENTS);
    let at = UC_REGISTERS as usize;
    uc[at..at + GENERAL_SIZE].copy_from_slice(&registers.general());
    uc
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

// The extended state behind a frame: the 512 bytes of FXSAVE, whose last part (`struct _fpx_sw_bytes`) says how
// long the whole is.
const FXSAVE_SIZE: usize = 512;
const SW_BYTES: usize = 464;
const SW_MAGIC: u32 = 0x4650_5853;
/// AVX-512 needs 2.7 KiB; AMX, which stubs don't get, would need 11.
const MAX_EXTENDED: usize = 16 << 10;

/// Bytes of the extended state whose FXSAVE part this is.
fn extended_size(fxsave: &[u8; FXSAVE_SIZE]) -> usize {
    let word = word(fxsave, SW_BYTES);
    let (magic, size) = (word as u32, (word >> 32) as usize);
    if magic == SW_MAGIC { size.clamp(FXSAVE_SIZE, MAX_EXTENDED) } else { FXSAVE_SIZE }
}

/// The size that the last extended state had: the same for all frames of a host but for those that a guest made.
static USUAL_SIZE: AtomicUsize = AtomicUsize::new(FXSAVE_SIZE);

pub(crate) fn read_extended(memory: &GuestMemory, address: u64) -> Result<Vec<u8>, Errno> {
    let mut state = vec![0; USUAL_SIZE.load(Ordering::Relaxed)];
    let got = memory.read_some(address, &mut state);
    let fxsave = state[..got].first_chunk().ok_or(Errno::FAULT)?;
    let size = extended_size(fxsave);
    if size <= got {
        state.truncate(size);
        return Ok(state);
    }
    state.resize(size, 0);
    // Between the two reads the guest may have changed it; the size stays the one that was checked.
    memory.read(address, &mut state)?;
    USUAL_SIZE.store(size, Ordering::Relaxed);
    Ok(state)
}

pub(crate) fn write_extended(memory: &GuestMemory, address: u64, state: &[u8]) -> Result<(), Errno> {
    if state.len() != USUAL_SIZE.load(Ordering::Relaxed) {
        let mut fxsave = [0; FXSAVE_SIZE];
        memory.read(address, &mut fxsave)?;
        if state.len() > extended_size(&fxsave) {
            return Err(Errno::INVAL);
        }
    }
    memory.write(address, state)
}
