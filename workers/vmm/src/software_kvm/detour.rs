//! System calls of an unmodified kernel.
//!
//! When the kernel writes LSTAR, three pages are put into its address space:
//! - a page table, hung into the unused last 2 MiB of the kernel's half. Linux gives the levels above the user bit already
//!   (for the vsyscall page), and every process shares them;
//! - a page of `int3` that ring 3 may execute. LSTAR points there; `int3` is what does raise the privilege;
//! - the handler below, for ring 0 only. The #BP gate points there; breakpoints of programs go on to the kernel.
//!
//! A program that jumps to the `int3` page itself, with any flags in r11, gains flags that it may set anyway. Needs
//! page-table isolation off (`mitigations=off`): a process's own tables would not have the page.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::walk::Physical;
use super::{LSTAR, SoftwareKvm, SoftwareKvmError, TRAMPOLINE, kvm};
use crate::memory::Memory;

/// The last 2 MiB of the address space.
const VIRTUAL: u64 = 0xffff_ffff_ffe0_0000;
const INT3_PAGE: u64 = 0x1000;
const HANDLER_PAGE: u64 = 0x2000;
/// Accessed and dirty are set beforehand, so that no walk has to write here.
const TABLE_FLAGS: u64 = 0x67;
const USER_PAGE: u64 = 0x65;
const KERNEL_PAGE: u64 = 0x61;
const INT3: u8 = 0xcc;
const BREAKPOINT_GATE: u64 = 3 * 16;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

const HANDLER: [u8; 42] = [
    0x48, 0x81, 0x3c, 0x24, 0x01, 0x10, 0xe0,
    0xff, //  0: cmpq $VIRTUAL+0x1001, (%rsp): from the int3 page?
    0x75, 0x1a, //                                      8: jne  36
    0xfc, //                                           10: cld, as FMASK would have done
    0x49, 0x81, 0xe3, 0xd5, 0x0d, 0x25,
    0x00, //       11: and  $0x250dd5, %r11: flags that a user may set
    // RF makes the kernel return by iret, not by sysretq.
    0x49, 0x81, 0xcb, 0x02, 0x02, 0x01, 0x00, //       18: or   $0x10202, %r11: RF, IF, bit 1
    0x48, 0x8b, 0x64, 0x24,
    0x18, //                   25: mov  0x18(%rsp), %rsp: the user's, as `syscall` leaves it
    0xff, 0x25, 0x0c, 0x00, 0x00,
    0x00, //             30: jmp  *48(page): the kernel's system-call entry
    0xff, 0x25, 0x0e, 0x00, 0x00, 0x00, //             36: jmp  *56(page): the kernel's #BP handler
];
const ENTRY_AT: u64 = 48;
const BREAKPOINT_AT: u64 = 56;

/// Diverts a processor's system calls; `entry` is what its kernel wanted in LSTAR. The pages are made by the first.
pub(super) fn install(
    software: &SoftwareKvm,
    vcpu: &VcpuFd,
    memory: &Memory,
    entry: u64,
) -> Result<(), SoftwareKvmError> {
    let special = vcpu.get_sregs().map_err(kvm("read registers"))?;
    let physical = Physical { ram: memory, trampoline: &software.trampoline };
    let mut table = special.cr3 & ADDRESS;
    for _ in 0..2 {
        let next = physical.read_entry(table + 511 * 8).filter(|entry| entry & 1 != 0);
        table = next.ok_or(SoftwareKvmError::Layout("last page table"))? & ADDRESS;
    }
    let last = table + 511 * 8;
    let present = physical.read_entry(last).ok_or(SoftwareKvmError::Layout("last page table"))?;
    if present != TRAMPOLINE | TABLE_FLAGS {
        if present & 1 != 0 {
            return Err(SoftwareKvmError::Layout("unused last 2 MiB"));
        }
        // The gate as it is now: the kernel has filled its table before it writes LSTAR.
        let no_gate = SoftwareKvmError::Layout("breakpoint gate");
        let gate_at =
            physical.translate(&special, special.idt.base + BREAKPOINT_GATE, false).ok_or(no_gate)?;
        let halves = [gate_at, gate_at + 8].map(|at| physical.read_entry(at));
        let [Some(low), Some(high)] = halves else { return Err(SoftwareKvmError::Layout("breakpoint gate")) };
        let breakpoint = low & 0xffff | low >> 48 << 16 | high << 32;
        fill(&software.trampoline, entry, breakpoint).ok_or(SoftwareKvmError::Memory)?;
        let to = VIRTUAL + HANDLER_PAGE;
        let low = low & 0x0000_ffff_ffff_0000 | to & 0xffff | (to >> 16 & 0xffff) << 48;
        let written = physical
            .write_entry(last, TRAMPOLINE | TABLE_FLAGS)
            .and_then(|()| physical.write_entry(gate_at + 8, to >> 32))
            .and_then(|()| physical.write_entry(gate_at, low));
        written.ok_or(SoftwareKvmError::Layout("breakpoint gate"))?;
    }
    let value = kvm_msr_entry { index: LSTAR, data: VIRTUAL + INT3_PAGE, ..Default::default() };
    let values = Msrs::from_entries(&[value]).map_err(|_| SoftwareKvmError::Memory)?;
    match vcpu.set_msrs(&values).map_err(kvm("set LSTAR"))? {
        1 => Ok(()),
        _ => Err(SoftwareKvmError::Layout("system-call register")),
    }
}

fn fill(trampoline: &Memory, entry: u64, breakpoint: u64) -> Option<()> {
    let at = |offset: u64| GuestAddress(TRAMPOLINE + offset);
    let pages = [(1, INT3_PAGE | USER_PAGE), (2, HANDLER_PAGE | KERNEL_PAGE)];
    for (index, page) in pages {
        trampoline.write_obj(TRAMPOLINE + page, at(index * 8)).ok()?;
    }
    trampoline.write_slice(&[INT3; 4096], at(INT3_PAGE)).ok()?;
    trampoline.write_slice(&HANDLER, at(HANDLER_PAGE)).ok()?;
    trampoline.write_obj(entry, at(HANDLER_PAGE + ENTRY_AT)).ok()?;
    trampoline.write_obj(breakpoint, at(HANDLER_PAGE + BREAKPOINT_AT)).ok()
}
