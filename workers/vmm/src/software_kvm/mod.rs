//! What a KVM that emulates the guest's kernel needs (module kvm_pvm), and nothing else does. On only where that module is
//! found; on hardware the detour would kill the guest.
//!
//! Such a KVM runs the guest's ring 3 natively and emulates its ring 0, and differs from hardware in two ways:
//! - a `syscall` of ring 3 jumps to LSTAR without leaving ring 3: [`detour`];
//! - some instructions are not emulated; KVM_RUN then ends with an internal error, RIP still on them: [`assist`].
//!
//! The kernel is not patched for either.

mod assist;
mod decode;
mod detour;
mod walk;

use std::path::Path;

use kvm_bindings::{KVM_MSR_EXIT_REASON_FILTER, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::Memory;

const MODULE: &str = "/sys/module/kvm_pvm";
const LSTAR: u32 = 0xc000_0082;
/// Three pages of the VMM's own, behind the devices.
const TRAMPOLINE: u64 = 0xd100_0000;
const TRAMPOLINE_BYTES: usize = 3 * 4096;
/// A slot that the guest's memory never uses.
const SLOT: u32 = 16;

/// Words for the guest's command line. Ring 3 sees the real processor's features whatever KVM_SET_CPUID2 says, so the kernel
/// keeps XSAVE, in the one format that the assist knows. Off: what is not emulated or emulated slowly, namely popcnt (151),
/// smap (308), cx16 (141), erms (297), fsrm (580). `lpj`: nothing to calibrate.
pub const COMMAND_LINE: &str = "lpj=1000000 noxsaves noxsaveopt clearcpuid=151,308,141,297,580,xsavec";

/// KVM's features that a guest uses by hypercalls (leaf 0x40000001, EAX): the kick of a waiting processor (7), a flush of
/// others' translations (9), interrupts to several (11), giving way to one (13). A hypercall never returns here: RIP stays on
/// `vmcall`, and the boot processor on the first interrupt that it sends to the second one. Without the features Linux does
/// all of that by its local APIC, as on bare hardware.
pub const HYPERCALLS: u32 = 1 << 7 | 1 << 9 | 1 << 11 | 1 << 13;

/// The most processors of a guest: more were never tried here.
pub const MOST_VCPUS: u8 = 2;

/// Whether this host's KVM is such a one. Asked before the jail, where /sys can be seen.
pub fn detected() -> bool {
    Path::new(MODULE).exists()
}

/// Decodes any bytes: for the fuzz target.
pub(crate) fn decode_any(bytes: &[u8]) {
    let _any = decode::Instruction::decode(bytes, &Default::default(), &Default::default());
}

/// The help can't be set up or given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoftwareKvmError {
    /// KVM refused.
    #[error("software KVM: can't {what}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The trampoline's memory can't be made.
    #[error("software KVM: can't make the trampoline's memory")]
    Memory,
    /// The kernel's tables are not laid out as Linux lays them out.
    #[error("software KVM: the guest kernel's {0} is not where Linux has it")]
    Layout(&'static str),
    /// An instruction that neither KVM nor the assist knows.
    #[error("software KVM: instruction {bytes} at {rip:#x} is not emulated (privilege level {level})")]
    Instruction {
        /// Its first bytes.
        bytes: String,
        /// Where.
        rip: u64,
        /// 0 or 3.
        level: u8,
    },
}

fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> SoftwareKvmError {
    move |source| SoftwareKvmError::Kvm { what, source }
}

/// The help for one machine.
#[derive(Debug)]
pub struct SoftwareKvm {
    trampoline: Memory,
}

impl SoftwareKvm {
    /// Maps the trampoline into the machine and asks for the guest's writes of LSTAR.
    ///
    /// # Errors
    /// [`SoftwareKvmError`].
    pub fn new(vm: &VmFd) -> Result<Self, SoftwareKvmError> {
        let trampoline = Memory::from_ranges(&[(GuestAddress(TRAMPOLINE), TRAMPOLINE_BYTES)])
            .map_err(|_| SoftwareKvmError::Memory)?;
        for region in trampoline.iter() {
            let slot = kvm_userspace_memory_region {
                slot: SLOT,
                flags: 0,
                guest_phys_addr: TRAMPOLINE,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: 1. the range is a mapping of ours, page-aligned; 2. it outlives the machine: `self` is kept by every
            // processor's context.
            unsafe { vm.set_user_memory_region(slot) }.map_err(kvm("map the trampoline"))?;
        }
        let mut exits = kvm_enable_cap { cap: Cap::X86UserSpaceMsr as u32, ..Default::default() };
        exits.args[0] = u64::from(KVM_MSR_EXIT_REASON_FILTER);
        vm.enable_cap(&exits).map_err(kvm("ask for filtered registers"))?;
        // A clear bit: denied, that is, sent to us.
        let lstar =
            MsrFilterRange { flags: MsrFilterRangeFlags::WRITE, base: LSTAR, msr_count: 1, bitmap: &[0] };
        vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[lstar]).map_err(kvm("filter LSTAR"))?;
        Ok(Self { trampoline })
    }

    /// The guest has written a filtered register.
    ///
    /// # Errors
    /// [`SoftwareKvmError`]; the machine can't go on.
    pub fn on_filtered_write(
        &self,
        vcpu: &VcpuFd,
        memory: &Memory,
        index: u32,
        value: u64,
    ) -> Result<(), SoftwareKvmError> {
        if index != LSTAR {
            return Err(SoftwareKvmError::Layout("system-call register"));
        }
        detour::install(self, vcpu, memory, value)
    }

    /// Completes the instruction at RIP, or gives the guest the fault that it must have.
    ///
    /// # Errors
    /// [`SoftwareKvmError`]; the machine can't go on.
    pub fn assist(&self, vcpu: &VcpuFd, memory: &Memory) -> Result<(), SoftwareKvmError> {
        assist::assist(&walk::Physical { ram: memory, trampoline: &self.trampoline }, vcpu)
    }
}
