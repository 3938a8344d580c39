//! Signal frames on the guest's stack, byte for byte as Linux lays them out on x86-64.
//!
//! ```text
//! rsp ->  pretcode       8    the action's restorer
//!         ucontext     304    flags, link, stack, sigcontext (256), mask
//!         siginfo      128
//!         (gap)
//!         fpstate             XSAVE area, 64-aligned; sigcontext.fpstate points to it
//! ```

use std::sync::Arc;

use bulkhead_platform::Registers;

use super::{Action, Info, SigSet, flags};
use crate::errno::Errno;
use crate::kernel::task::Task;

/// SS_AUTODISARM of sigaltstack(2).
pub(super) const SS_AUTODISARM: u32 = 1 << 31;
/// SS_ONSTACK.
pub(super) const SS_ONSTACK: u32 = 1;
/// SS_DISABLE.
pub(super) const SS_DISABLE: u32 = 2;

const RED_ZONE: u64 = 128;
const PRETCODE: usize = 8;
const UCONTEXT: usize = 304;
const FRAME: usize = PRETCODE + UCONTEXT + Info::SIZE;

/// Offsets in the ucontext.
mod uc {
    pub(super) const FLAGS: usize = 0;
    pub(super) const STACK_BASE: usize = 16;
    pub(super) const STACK_FLAGS: usize = 24;
    pub(super) const STACK_SIZE: usize = 32;
    pub(super) const REGISTERS: usize = 40;
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags.
    pub(super) const GENERAL: usize = 18;
    pub(super) const SEGMENTS: usize = REGISTERS + 18 * 8;
    pub(super) const FPSTATE: usize = REGISTERS + 23 * 8;
    pub(super) const MASK: usize = 296;
}

/// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS.
const UC_FLAGS: u64 = 1 | 2 | 4;
/// cs 0x33, ss 0x2b in their places.
const SEGMENTS: u64 = 0x002b_0000_0000_0033;
/// Cleared for a handler: TF, DF, RF.
const FLAGS_CLEARED: u64 = 0x100 | 0x400 | 0x1_0000;
/// What sigreturn takes from the frame: CF PF AF ZF SF TF DF OF RF AC.
const FLAGS_RESTORED: u64 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
/// The largest XSAVE area that is read back, in bytes: AVX-512's is 2,696; AMX is refused.
const XSTATE_MAX: usize = 4096;
/// The FXSAVE part, which every area has.
const FXSAVE: usize = 512;
/// Where the FXSAVE part says how long the whole is.
const SW_BYTES: usize = 464;
/// FP_XSTATE_MAGIC1.
const MAGIC1: u32 = 0x4650_5853;

/// The alternate stack at the time of delivery.
pub(super) struct AltStack {
    pub(super) base: u64,
    pub(super) size: u64,
    pub(super) flags: u32,
    pub(super) on: bool,
}

/// What a frame gives back beside registers.
pub(super) struct Restored {
    pub(super) mask: SigSet,
    pub(super) stack_base: u64,
    pub(super) stack_size: u64,
    pub(super) stack_flags: u32,
}

fn general(r: &Registers) -> [u64; uc::GENERAL] {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip, r.eflags,
    ]
}

fn set_general(r: &mut Registers, values: &[u64; uc::GENERAL]) {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip,
    ] = values[..uc::GENERAL - 1].try_into().unwrap_or_default();
    r.eflags = (r.eflags & !FLAGS_RESTORED) | (values[uc::GENERAL - 1] & FLAGS_RESTORED);
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(value)
}

/// Writes the frame and points the registers at the handler.
pub(super) fn push(
    task: &Arc<Task>,
    registers: &mut Registers,
    info: &Info,
    action: &Action,
    old_mask: SigSet,
    stack: &AltStack,
) -> Result<(), Errno> {
    let host = task.host().ok_or(Errno::ESRCH)?;
    let memory = task.memory();
    let switches = action.flags & flags::SA_ONSTACK != 0 && stack.size != 0 && !stack.on;
    let top =
        if switches { stack.base.wrapping_add(stack.size) } else { registers.rsp.wrapping_sub(RED_ZONE) };
    let extended = host.extended_state().unwrap_or_default();
    let fpstate = top.wrapping_sub(extended.len() as u64) & !63;
    // The ABI: 16-aligned before the call that would have pushed the return address.
    let frame = (fpstate.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
    if stack.on && action.flags & flags::SA_ONSTACK != 0 && frame < stack.base {
        return Err(Errno::EFAULT);
    }
    // Frame and extended state lie side by side: one write puts both, and zeros between them.
    let mut bytes = vec![0; (fpstate.wrapping_sub(frame)) as usize + extended.len()];
    put(&mut bytes, 0, action.restorer);
    let context = &mut bytes[PRETCODE..PRETCODE + UCONTEXT];
    put(context, uc::FLAGS, UC_FLAGS);
    put(context, uc::STACK_BASE, stack.base);
    let stack_flags = match (stack.size, stack.on) {
        (0, _) => SS_DISABLE,
        (_, true) => SS_ONSTACK | stack.flags,
        (_, false) => stack.flags,
    };
    context[uc::STACK_FLAGS..uc::STACK_FLAGS + 4].copy_from_slice(&stack_flags.to_ne_bytes());
    put(context, uc::STACK_SIZE, stack.size);
    for (at, value) in general(registers).into_iter().enumerate() {
        put(context, uc::REGISTERS + 8 * at, value);
    }
    put(context, uc::SEGMENTS, SEGMENTS);
    let fault = *task.last_fault.lock();
    for (at, value) in [fault.err, fault.trapno, old_mask.0, fault.cr2].into_iter().enumerate() {
        put(context, uc::SEGMENTS + 8 * (at + 1), value);
    }
    put(context, uc::FPSTATE, if extended.is_empty() { 0 } else { fpstate });
    put(context, uc::MASK, old_mask.0);
    bytes[PRETCODE + UCONTEXT..FRAME].copy_from_slice(info.bytes());
    let at = bytes.len() - extended.len();
    bytes[at..].copy_from_slice(&extended);
    memory.write(frame, &bytes)?;
    registers.rsp = frame;
    registers.rip = action.handler;
    registers.rdi = info.signal.number() as u64;
    registers.rsi = frame + (PRETCODE + UCONTEXT) as u64;
    registers.rdx = frame + PRETCODE as u64;
    registers.rax = 0;
    registers.eflags &= !FLAGS_CLEARED;
    Ok(())
}

/// Reads the frame that the stack pointer stands on (behind pretcode, which the handler's return popped).
pub(super) fn pop(task: &Arc<Task>, registers: &mut Registers) -> Result<Restored, Errno> {
    /// Enough for the whole of a frame as [`push`] makes it, with AVX-512's state.
    const WHOLE: usize = 3328;
    let base = registers.rsp;
    let mut bytes = [0; WHOLE];
    let got = task.memory().read_some(base, &mut bytes);
    let bytes = &bytes[..got];
    let context = bytes.get(..UCONTEXT).ok_or(Errno::EFAULT)?;
    let mut values = [0; uc::GENERAL];
    for (at, value) in values.iter_mut().enumerate() {
        *value = get(context, uc::REGISTERS + 8 * at);
    }
    set_general(registers, &values);
    let fpstate = get(context, uc::FPSTATE);
    if fpstate != 0 {
        // What is not in the bytes at hand is read anew: a handler may have moved it.
        let near = fpstate.checked_sub(base).and_then(|at| bytes.get(usize::try_from(at).ok()?..));
        restore_extended(task, fpstate, near.unwrap_or_default())?;
    }
    let stack_flags = get(context, uc::STACK_FLAGS) as u32;
    let size = get(context, uc::STACK_SIZE);
    Ok(Restored {
        mask: SigSet(get(context, uc::MASK)),
        stack_base: get(context, uc::STACK_BASE),
        stack_size: if stack_flags & SS_DISABLE != 0 { 0 } else { size },
        stack_flags: stack_flags & SS_AUTODISARM,
    })
}

/// Bytes of the extended state that begins with these.
fn extended_length(fxsave: &[u8]) -> usize {
    let word = |at: usize| get(fxsave, at) as u32;
    let (magic, length) = (word(SW_BYTES), word(SW_BYTES + 4) as usize);
    if magic == MAGIC1 && (FXSAVE..=XSTATE_MAX).contains(&length) { length } else { FXSAVE }
}

/// `near` are the bytes at `fpstate`, as far as they have been read.
fn restore_extended(task: &Arc<Task>, fpstate: u64, near: &[u8]) -> Result<(), Errno> {
    let host = task.host().ok_or(Errno::ESRCH)?;
    let at_hand = near.get(..FXSAVE).map(extended_length).and_then(|length| near.get(..length));
    if let Some(state) = at_hand {
        return host.set_extended_state(state).map_err(|_| Errno::EFAULT);
    }
    let memory = task.memory();
    let mut area = vec![0; FXSAVE];
    memory.read(fpstate, &mut area)?;
    let length = extended_length(&area);
    area.resize(length, 0);
    memory.read(fpstate + FXSAVE as u64, &mut area[FXSAVE..])?;
    host.set_extended_state(&area).map_err(|_| Errno::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_go_through_a_frame_unchanged_and_flags_are_filtered() {
        let mut before =
            Registers { r8: 1, r15: 2, rdi: 3, rsp: 4, rip: 5, rax: 6, rcx: 7, ..Registers::default() };
        before.eflags = 0x246;
        let mut after = Registers { eflags: 0x202, ..Registers::default() };
        set_general(&mut after, &general(&before));
        assert_eq!(after, Registers { eflags: 0x246, ..before });
        let mut hostile = general(&before);
        hostile[uc::GENERAL - 1] = u64::MAX;
        set_general(&mut after, &hostile);
        assert_eq!(after.eflags & !(FLAGS_RESTORED | 0x246), 0);
    }
}
