use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_CRASH};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use super::Kicker;
use crate::devices::{Access, Bus};
use crate::machine::End;
use crate::memory::Memory;
use crate::software_kvm::SoftwareKvm;
use crate::statistics::{ExitKind, Statistics};

/// What a processor's exits need.
#[derive(Debug, Clone)]
pub struct ExitContext {
    /// The way to devices.
    pub bus: Arc<Bus>,
    /// Guest memory.
    pub memory: Memory,
    /// Counters.
    pub statistics: Arc<Statistics>,
    /// Assists, where KVM emulates.
    pub software_kvm: Option<Arc<SoftwareKvm>>,
    /// Set when the machine is to end; then the thread is kicked.
    pub stop: Arc<AtomicBool>,
    /// Where the guest is at each kick, when somebody wants to know.
    pub samples: Option<Samples>,
}

/// Where the guest was at each kick: a profile. Where KVM emulates, one of instruction counts.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<Vec<Sample>>>);

/// The address that the guest was at, then what on its kernel's stack may be a caller's, the innermost first.
pub(crate) type Sample = Vec<u64>;

impl Samples {
    /// The most that are kept: four minutes of one a millisecond.
    const MOST: usize = 240_000;
    /// The words of a stack that are looked at, and the most that are kept of them.
    const STACK_WORDS: u64 = 512;
    const MOST_CALLERS: usize = 40;
    /// Linux's stacks are as large, and begin at a multiple of it.
    const STACK_BYTES: u64 = 16 << 10;
    /// Where the kernel's code and data are.
    const KERNEL: u64 = 0xffff_ffff_8000_0000;

    /// Notes where a processor is.
    fn note(&self, vcpu: &VcpuFd, memory: &Memory) {
        let Ok(registers) = vcpu.get_regs() else { return };
        let mut sample = vec![registers.rip];
        if registers.rip >= Self::KERNEL {
            sample.extend(Self::callers(vcpu, memory, registers.rsp).into_iter().take(Self::MOST_CALLERS));
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::MOST {
            kept.push(sample);
        }
    }

    /// A kernel's stack is contiguous memory: one translation is enough for all of it.
    fn callers(vcpu: &VcpuFd, memory: &Memory, stack: u64) -> Vec<u64> {
        let Ok(at) = vcpu.translate_gva(stack) else { return Vec::new() };
        let words = ((Self::STACK_BYTES - stack % Self::STACK_BYTES) / 8).min(Self::STACK_WORDS);
        let read = |word: u64| memory.read_obj::<u64>(GuestAddress(at.physical_address + word * 8)).ok();
        (0..words).map_while(read).filter(|word| *word >= Self::KERNEL).collect()
    }

    /// All so far, and forgets them.
    pub(crate) fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One processor.
#[derive(Debug)]
pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
}

/// What is left to do after the exit's borrow of the run page has ended.
enum Next {
    Run,
    /// Kicked; or this processor waits for another to start it.
    Interrupted,
    End(End),
    /// KVM met an instruction that it can't emulate, or failed in another way.
    InternalError,
    WriteMsr {
        index: u32,
        value: u64,
    },
}

impl Vcpu {
    /// Takes a processor that was set up.
    pub fn new(id: u8, fd: VcpuFd) -> Self {
        Self { id, fd }
    }

    /// Runs the guest until it ends or is stopped. Must be called on the processor's own thread.
    pub fn run(mut self, context: &ExitContext) -> End {
        let flag = &raw mut self.fd.get_kvm_run().immediate_exit;
        // SAFETY: 1. the run page stays mapped as long as `self.fd`, which this function owns and drops after `_armed`: locals
        // go in reverse order, and a parameter goes after them.
        let _armed = unsafe { Kicker::arm(flag) };
        while !context.stop.load(Ordering::SeqCst) {
            let next = self.step(context);
            let end = match next {
                Next::Run => None,
                Next::Interrupted => {
                    self.interrupted(context);
                    None
                }
                Next::End(end) => Some(end),
                Next::InternalError => self.internal_error(context),
                Next::WriteMsr { index, value } => self.write_msr(context, index, value),
            };
            if let Some(end) = end {
                return end;
            }
        }
        End::Stopped
    }

    fn step(&mut self, context: &ExitContext) -> Next {
        let count = |kind| context.statistics.count(kind);
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => context.bus.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if context.bus.port_write(port, data) == Access::Reset {
                    return Next::End(End::Reset);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => context.bus.mmio_read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => context.bus.mmio_write(address, data),
            Ok(VcpuExit::Hlt) => count(ExitKind::Halt),
            Ok(VcpuExit::Intr) => count(ExitKind::Interrupted),
            Ok(VcpuExit::Shutdown) => return Next::End(End::TripleFault),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => return Next::End(End::Crash),
            Ok(VcpuExit::SystemEvent(..)) => return Next::End(End::Reset),
            Ok(VcpuExit::InternalError) => return Next::InternalError,
            Ok(VcpuExit::X86Wrmsr(exit)) => {
                // Accepted, unless the handler finds otherwise and ends the machine.
                *exit.error = 0;
                return Next::WriteMsr { index: exit.index, value: exit.data };
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Next::End(End::Kvm(format!(
                    "processor {} can't enter the guest ({reason:#x})",
                    self.id
                )));
            }
            Ok(other) => {
                count(ExitKind::Other);
                return Next::End(End::Kvm(format!("processor {}: unexpected exit {other:?}", self.id)));
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                count(ExitKind::Interrupted);
                return Next::Interrupted;
            }
            Err(error) => {
                return Next::End(End::Kvm(format!("processor {} can't run: {error}", self.id)));
            }
        }
        Next::Run
    }

    /// A kick that was not for the end: the next one sets the flag anew, and `stop` is looked at before the guest is entered.
    fn interrupted(&mut self, context: &ExitContext) {
        self.fd.set_kvm_immediate_exit(0);
        if let Some(samples) = &context.samples {
            samples.note(&self.fd, &context.memory);
        }
    }

    fn internal_error(&mut self, context: &ExitContext) -> Option<End> {
        context.statistics.count(ExitKind::Assist);
        // SAFETY: 1. the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        match &context.software_kvm {
            Some(software) if suberror == KVM_INTERNAL_ERROR_EMULATION => {
                software.assist(&self.fd, &context.memory).err().map(|lacks| End::Kvm(lacks.to_string()))
            }
            _ => Some(End::Kvm(format!("processor {}: KVM internal error {suberror}", self.id))),
        }
    }

    fn write_msr(&mut self, context: &ExitContext, index: u32, value: u64) -> Option<End> {
        let Some(software) = &context.software_kvm else {
            return Some(End::Kvm(format!("processor {}: unexpected write of register {index:#x}", self.id)));
        };
        let done = software.on_filtered_write(&self.fd, &context.memory, index, value);
        done.err().map(|error| End::Kvm(error.to_string()))
    }
}
