//! The virtual machine monitor: one process for each microVM, x86-64, KVM.
//!
//! ```text
//!                     bulkhead-vmm, jailed
//!   launcher ══ fd 3 ══► control/      frames both ways, bounded and in order
//!                          │
//!                        machine/      shell (VM, memory) -> machine (kernel, devices, threads) -> why it ended
//!                        ├─ boot/      kernel, boot parameters, MP table, initial file system
//!                        ├─ vcpu/      one thread each: KVM_RUN, exits
//!                        └─ devices/   register blocks on the exits' path; queues on the devices' thread
//!                             mmio/  the virtio transport        serial/  console log, bounded
//!                             block/ image and scratch           cmos/    clock and the ports that boot asks
//!                             vsock/ streams to the agent        rng/     entropy
//!                        software_kvm/ what an emulating KVM needs; never active on another
//! ```
//!
//! The guest is hostile from its first instruction. It reaches the VMM by register accesses and by the rings
//! in its memory, nothing else. Whatever it writes there is copied once, checked once, and can at worst stop
//! the guest: a device that finds its rings broken asks for a reset and serves nothing until it gets one.
//! Every buffer has a bound, and a connection costs at most [`devices::vsock::BUFFER_BYTES`].

pub mod arch;
pub mod boot;
pub mod control;
pub mod devices;
pub mod fuzz;
pub mod machine;
pub mod memory;
pub mod software_kvm;
pub mod statistics;
pub mod vcpu;
