//! Instructions that this KVM's emulator lacks: completed here, or turned into the fault that the guest must get.

use std::arch::x86_64::__cpuid_count;

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use zerocopy::IntoBytes;

use super::decode::{Instruction, MOST_BYTES, register};
use super::walk::Physical;
use super::{SoftwareKvmError, kvm};

const BREAKPOINT: u8 = 3;
const PAGE_FAULT: u8 = 14;
const FAULT_PRESENT: u32 = 1;
const FAULT_WRITE: u32 = 2;
const FLAG_ZERO: u64 = 1 << 6;
const FLAG_ALIGNMENT: u64 = 1 << 18;
/// Carry, parity, adjust, zero, sign, overflow.
const FLAGS_OF_POPCNT: u64 = 0x8d5;
/// The x87 and SSE part of the XSAVE area, with its header, in bytes.
const LEGACY_BYTES: usize = 576;
const HEADER: usize = 512;
/// The kernel's XSAVE area as KVM holds it, in bytes.
const AREA_BYTES: usize = 4096;
/// State components that a 6.1 kernel may use in the plain format.
const COMPONENTS: u32 = 10;

/// Why an instruction was not completed.
enum Stopped {
    /// The guest gets a page fault at this address.
    Fault {
        address: u64,
        write: bool,
    },
    /// The assist doesn't know it.
    Unknown,
    Kvm(SoftwareKvmError),
}

impl From<SoftwareKvmError> for Stopped {
    fn from(error: SoftwareKvmError) -> Self {
        Self::Kvm(error)
    }
}

struct Assist<'a> {
    memory: &'a Physical<'a>,
    vcpu: &'a VcpuFd,
    registers: kvm_regs,
    special: kvm_sregs,
}

pub(super) fn assist(memory: &Physical<'_>, vcpu: &VcpuFd) -> Result<(), SoftwareKvmError> {
    let registers = vcpu.get_regs().map_err(kvm("read registers"))?;
    let special = vcpu.get_sregs().map_err(kvm("read registers"))?;
    let mut assist = Assist { memory, vcpu, registers, special };
    let mut bytes = [0; MOST_BYTES];
    let fetched = assist.fetch(&mut bytes);
    let result = match fetched {
        Ok(count) => assist.complete(&bytes[..count]),
        Err(address) => Err(Stopped::Fault { address, write: false }),
    };
    match result {
        Ok(()) => vcpu.set_regs(&assist.registers).map_err(kvm("write registers")),
        Err(Stopped::Fault { address, write }) => assist.page_fault(address, write),
        Err(Stopped::Kvm(error)) => Err(error),
        Err(Stopped::Unknown) => Err(SoftwareKvmError::Instruction {
            bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            rip: registers.rip,
            level: special.cs.dpl,
        }),
    }
}

impl Assist<'_> {
    /// The bytes at RIP: those of the next page only if it is there.
    fn fetch(&self, bytes: &mut [u8; MOST_BYTES]) -> Result<usize, u64> {
        let rip = self.registers.rip;
        let first = MOST_BYTES.min(4096 - (rip & 4095) as usize);
        self.memory.read(&self.special, rip, &mut bytes[..first])?;
        let rest = self.memory.read(&self.special, rip.wrapping_add(first as u64), &mut bytes[first..]);
        Ok(if rest.is_ok() { MOST_BYTES } else { first })
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Stopped> {
        let fault = |address| Stopped::Fault { address, write: false };
        self.memory.read(&self.special, address, into).map_err(fault)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Stopped> {
        let fault = |address| Stopped::Fault { address, write: true };
        self.memory.write(&self.special, address, from).map_err(fault)
    }

    fn complete(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        let decoded = Instruction::decode(bytes, &self.registers, &self.special).ok_or(Stopped::Unknown)?;
        let wide = decoded.rex & 8 != 0;
        let skipped = match (decoded.two_bytes, decoded.opcode) {
            (false, 0xcc) => {
                self.inject(BREAKPOINT, None)?;
                1
            }
            // stac and clac: the flag, not a no-op, since the kernel's own accesses are checked by it.
            (true, 0x01) if decoded.modrm == 0xcb => {
                self.registers.rflags |= FLAG_ALIGNMENT;
                3
            }
            (true, 0x01) if decoded.modrm == 0xca => {
                self.registers.rflags &= !FLAG_ALIGNMENT;
                3
            }
            // fwait, x87 (the kernel only clears its state with it), emms.
            (false, 0x9b) => 1,
            (false, 0xd8..=0xdf) => decoded.length,
            (true, 0x77) => 2,
            (true, 0xb8) if decoded.repeat == 0xf3 => self.popcnt(&decoded, wide)?,
            (true, 0xc7) if decoded.field() == 1 && decoded.is_memory() && wide => self.exchange(&decoded)?,
            (true, 0xae) if decoded.is_memory() && !decoded.operand_size => match decoded.field() {
                4 | 6 => self.xsave(&decoded)?,
                5 => self.xrstor(&decoded)?,
                _ => return Err(Stopped::Unknown),
            },
            _ => return Err(Stopped::Unknown),
        };
        self.registers.rip = self.registers.rip.wrapping_add(skipped);
        Ok(())
    }

    fn popcnt(&mut self, decoded: &Instruction, wide: bool) -> Result<u64, Stopped> {
        let value = if decoded.is_memory() {
            let mut bytes = [0; 8];
            self.read(decoded.address, if wide { &mut bytes } else { &mut bytes[..4] })?;
            u64::from_le_bytes(bytes)
        } else {
            *register(&mut self.registers, decoded.modrm & 7 | (decoded.rex & 1) << 3)
        };
        let value = if wide { value } else { value & 0xffff_ffff };
        *register(&mut self.registers, decoded.field() | (decoded.rex & 4) << 1) =
            u64::from(value.count_ones());
        self.registers.rflags &= !FLAGS_OF_POPCNT;
        self.registers.rflags |= if value == 0 { FLAG_ZERO } else { 0 };
        Ok(decoded.length)
    }

    /// cmpxchg16b. Not atomic against other processors of the guest, as nothing that this KVM emulates is.
    fn exchange(&mut self, decoded: &Instruction) -> Result<u64, Stopped> {
        let mut bytes = [0; 16];
        self.read(decoded.address, &mut bytes)?;
        let found = u128::from_le_bytes(bytes);
        let wanted = u128::from(self.registers.rdx) << 64 | u128::from(self.registers.rax);
        if found == wanted {
            let new = u128::from(self.registers.rcx) << 64 | u128::from(self.registers.rbx);
            self.write(decoded.address, &new.to_le_bytes())?;
            self.registers.rflags |= FLAG_ZERO;
        } else {
            (self.registers.rax, self.registers.rdx) = (found as u64, (found >> 64) as u64);
            self.registers.rflags &= !FLAG_ZERO;
        }
        Ok(decoded.length)
    }

    fn mask(&self) -> u64 {
        self.registers.rax & 0xffff_ffff | self.registers.rdx << 32
    }

    fn xsave(&mut self, decoded: &Instruction) -> Result<u64, Stopped> {
        let state = self.vcpu.get_xsave().map_err(kvm("read the extended state"))?;
        let (mask, host) = (self.mask(), state.region.as_bytes());
        let mut area = [0; AREA_BYTES];
        let end = area_end(mask);
        self.read(decoded.address, &mut area[..end])?;
        let present = merge(&mut area, host, mask, bits(host));
        area[HEADER..HEADER + 8].copy_from_slice(&present.to_le_bytes());
        self.write(decoded.address, &area[..end])?;
        Ok(decoded.length)
    }

    fn xrstor(&mut self, decoded: &Instruction) -> Result<u64, Stopped> {
        let mut state = self.vcpu.get_xsave().map_err(kvm("read the extended state"))?;
        let mask = self.mask();
        let mut area = [0; AREA_BYTES];
        self.read(decoded.address, &mut area[..area_end(mask)])?;
        // The compacted format, which the command line turns off.
        if area[HEADER + 8..HEADER + 16] != [0; 8] {
            return Err(Stopped::Unknown);
        }
        let host = state.region.as_mut_bytes();
        let present = merge(host, &area, mask, bits(&area));
        host[HEADER..HEADER + 8].copy_from_slice(&present.to_le_bytes());
        // SAFETY: 1. this kernel's area is the 4 KiB of the structure: `get_xsave` filled it in the same format.
        unsafe { self.vcpu.set_xsave(&state) }.map_err(kvm("write the extended state"))?;
        Ok(decoded.length)
    }

    fn inject(&self, exception: u8, error_code: Option<u32>) -> Result<(), SoftwareKvmError> {
        let mut events = self.vcpu.get_vcpu_events().map_err(kvm("read events"))?;
        events.exception.injected = 1;
        events.exception.nr = exception;
        events.exception.has_error_code = u8::from(error_code.is_some());
        events.exception.error_code = error_code.unwrap_or(0);
        self.vcpu.set_vcpu_events(&events).map_err(kvm("inject an exception"))
    }

    /// The kernel saves state into signal frames with faults expected: it must get them.
    fn page_fault(&mut self, address: u64, write: bool) -> Result<(), SoftwareKvmError> {
        let present = self.memory.translate(&self.special, address, false).is_some();
        let code = if write { FAULT_WRITE } else { 0 } | if present { FAULT_PRESENT } else { 0 };
        self.special.cr2 = address;
        self.vcpu.set_sregs(&self.special).map_err(kvm("write registers"))?;
        self.inject(PAGE_FAULT, Some(code))
    }
}

/// Which components an area holds.
fn bits(area: &[u8]) -> u64 {
    u64::from_le_bytes(area[HEADER..HEADER + 8].try_into().expect("eight bytes"))
}

/// Where a component lies in the plain format, if the processor has it.
fn component(number: u32) -> Option<std::ops::Range<usize>> {
    let leaf = __cpuid_count(13, number);
    let (size, offset) = (leaf.eax as usize, leaf.ebx as usize);
    (size > 0 && offset + size <= AREA_BYTES).then_some(offset..offset + size)
}

fn area_end(mask: u64) -> usize {
    let wanted = (2..COMPONENTS).filter(|number| mask >> number & 1 != 0);
    wanted.filter_map(component).map(|range| range.end).fold(LEGACY_BYTES, usize::max)
}

/// Copies the components of `mask` that `from` holds; returns which ones `to` holds then.
fn merge(to: &mut [u8], from: &[u8], mask: u64, held: u64) -> u64 {
    let before = bits(to);
    let mut copy = |range: std::ops::Range<usize>| to[range.clone()].copy_from_slice(&from[range]);
    for number in (0..COMPONENTS).filter(|number| mask >> number & held >> number & 1 != 0) {
        match number {
            0 => {
                copy(0..24);
                copy(32..160);
            }
            1 => copy(160..416),
            _ => component(number).into_iter().for_each(&mut copy),
        }
    }
    // MXCSR and its mask go with SSE and AVX.
    if mask & 6 != 0 {
        copy(24..32);
    }
    before & !mask | held & mask
}
