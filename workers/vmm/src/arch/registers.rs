use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::Memory;

const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const PD: u64 = 0xb000;
const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 0x80;
/// Paging, write-protect, numeric errors, extension type, protected mode; caches on.
const CR0: u64 = 0x8005_0033;
const CR4_PAE: u64 = 0x20;
/// Long mode, enabled and active.
const EFER: u64 = 0x500;

/// Writes page tables that map the first GiB onto itself.
///
/// # Errors
/// When the guest has no memory there.
pub fn write_page_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    memory.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    memory.write_obj(PD | PRESENT_WRITABLE, GuestAddress(PDPT))?;
    for entry in 0..512u64 {
        memory.write_obj(entry << 21 | LARGE | PRESENT_WRITABLE, GuestAddress(PD + entry * 8))?;
    }
    Ok(())
}

/// Puts the boot processor at a kernel's 64-bit entry, with the boot parameters' address in RSI.
///
/// # Errors
/// What KVM said.
pub fn set_boot_state(vcpu: &VcpuFd, entry: u64, parameters: u64) -> Result<(), kvm_ioctls::Error> {
    let segment = kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() };
    let code = kvm_segment { selector: 0x10, type_: 11, l: 1, ..segment };
    let data = kvm_segment { selector: 0x18, type_: 3, db: 1, ..segment };
    let mut special = vcpu.get_sregs()?;
    special.cs = code;
    (special.ds, special.es, special.ss, special.fs, special.gs) = (data, data, data, data, data);
    (special.cr0, special.cr3, special.cr4, special.efer) = (CR0, PML4, CR4_PAE, EFER);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs { rip: entry, rsi: parameters, rflags: 2, ..Default::default() })
}
