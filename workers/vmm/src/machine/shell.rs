use std::os::fd::{IntoRawFd, OwnedFd};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::arch::{MOST_VCPUS, cpuid};
use crate::memory::{GuestRam, MemoryError};
use crate::software_kvm::{SoftwareKvm, SoftwareKvmError};

/// Intel's KVM keeps three pages of its own in the guest's address space; others ignore it.
const TSS_ADDRESS: usize = 0xfffb_d000;
const API_VERSION: i32 = 12;

/// What a shell is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShellConfig {
    /// Processors, 1 to 8.
    pub vcpus: u8,
    /// Guest memory, in bytes.
    pub memory_bytes: u64,
    /// Whether this KVM emulates the guest's kernel ([`crate::software_kvm::detected`]).
    pub software_kvm: bool,
}

/// A shell that can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShellError {
    /// The number of processors.
    #[error("{0} processors are not between 1 and {MOST_VCPUS}")]
    Vcpus(u8),
    /// Not a KVM that we know.
    #[error("KVM's interface is version {0}, not {API_VERSION}; see `bulkhead doctor`")]
    Version(i32),
    /// It lacks something.
    #[error("this KVM lacks {0}; see `bulkhead doctor`")]
    Lacks(&'static str),
    /// It refused.
    #[error("KVM can't {what}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What this KVM needs.
    #[error(transparent)]
    SoftwareKvm(#[from] SoftwareKvmError),
}

pub(super) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> ShellError {
    move |source| ShellError::Kvm { what, source }
}

/// A machine without a program: VM, interrupt controllers, memory, processors.
///
/// The first memory slot of a VM costs 6 to 8 ms of grace periods in the kernel, whatever its size: that is what is made
/// ahead. Fields are dropped in order: processors and VM before the memory that they use.
#[derive(Debug)]
pub struct Shell {
    pub(super) vcpus: Vec<VcpuFd>,
    pub(super) vm: VmFd,
    pub(super) software_kvm: Option<SoftwareKvm>,
    pub(super) ram: GuestRam,
    pub(super) tsc_khz: Option<u32>,
}

impl Shell {
    /// Makes one from an open /dev/kvm.
    ///
    /// # Errors
    /// [`ShellError`].
    pub fn new(device: OwnedFd, config: ShellConfig) -> Result<Self, ShellError> {
        if !(1..=MOST_VCPUS).contains(&config.vcpus) {
            return Err(ShellError::Vcpus(config.vcpus));
        }
        let kvm_fd = open(device)?;
        let vm = kvm_fd.create_vm().map_err(kvm("create a machine"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(kvm("place its own pages"))?;
        vm.create_irq_chip().map_err(kvm("create the interrupt controllers"))?;
        // No PIT: with the clock's frequency on the command line and the TSC-deadline timer nothing asks for one.
        let ram = GuestRam::new(config.memory_bytes)?;
        for (slot, (guest_phys_addr, userspace_addr, memory_size)) in (0..).zip(ram.slots()) {
            let region =
                kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr };
            // SAFETY: 1. the range is a mapping of `ram`, page-aligned; 2. it outlives the machine, which is dropped first;
            // 3. nothing of ours but volatile accesses and system calls touches it.
            unsafe { vm.set_user_memory_region(region) }.map_err(kvm("map guest memory"))?;
        }
        let software_kvm = config.software_kvm.then(|| SoftwareKvm::new(&vm)).transpose()?;
        let mut supported = cpuid::supported(&kvm_fd).map_err(kvm("list the processor's features"))?;
        if software_kvm.is_some() {
            cpuid::without_paravirtual(&mut supported, crate::software_kvm::HYPERCALLS);
        }
        let mut vcpus = Vec::new();
        for id in 0..config.vcpus {
            let vcpu = vm.create_vcpu(u64::from(id)).map_err(kvm("create a processor"))?;
            vcpu.set_cpuid2(&cpuid::for_vcpu(&supported, id, config.vcpus))
                .map_err(kvm("set the processor's features"))?;
            vcpus.push(vcpu);
        }
        let tsc_khz = vcpus.first().and_then(|vcpu| vcpu.get_tsc_khz().ok()).filter(|khz| *khz > 0);
        Ok(Self { vcpus, vm, software_kvm, ram, tsc_khz })
    }

    /// Whether KVM emulates the guest's kernel.
    pub fn is_software_kvm(&self) -> bool {
        self.software_kvm.is_some()
    }

    /// Guest memory.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }
}

fn open(device: OwnedFd) -> Result<Kvm, ShellError> {
    // SAFETY: 1. the descriptor is ours alone: it was owned. If it is not /dev/kvm, the first request says so.
    let kvm_fd = unsafe { <Kvm as std::os::fd::FromRawFd>::from_raw_fd(device.into_raw_fd()) };
    match kvm_fd.get_api_version() {
        API_VERSION => {}
        other => return Err(ShellError::Version(other)),
    }
    let needed = [
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::UserMemory, "memory slots"),
        (Cap::SetTssAddr, "a place for its pages"),
        (Cap::Irqfd, "interrupts by descriptor"),
        (Cap::Ioeventfd, "notifications by descriptor"),
        (Cap::ImmediateExit, "immediate exits"),
        (Cap::ExtCpuid, "processor features"),
    ];
    for (cap, name) in needed {
        if !kvm_fd.check_extension(cap) {
            return Err(ShellError::Lacks(name));
        }
    }
    Ok(kvm_fd)
}
