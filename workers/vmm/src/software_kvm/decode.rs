use kvm_bindings::{kvm_regs, kvm_sregs};

/// An instruction, as far as the assist has to know it: prefixes, opcode, ModRM and the address that it means.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) rex: u8,
    /// The prefixes 66, and F2 or F3.
    pub(super) operand_size: bool,
    pub(super) repeat: u8,
    /// After 0F, if that is there.
    pub(super) opcode: u8,
    pub(super) two_bytes: bool,
    pub(super) modrm: u8,
    pub(super) address: u64,
    pub(super) length: u64,
}

/// The longest that there is.
pub(super) const MOST_BYTES: usize = 15;

/// One of the sixteen general registers.
pub(super) fn register(registers: &mut kvm_regs, number: u8) -> &mut u64 {
    match number & 15 {
        0 => &mut registers.rax,
        1 => &mut registers.rcx,
        2 => &mut registers.rdx,
        3 => &mut registers.rbx,
        4 => &mut registers.rsp,
        5 => &mut registers.rbp,
        6 => &mut registers.rsi,
        7 => &mut registers.rdi,
        8 => &mut registers.r8,
        9 => &mut registers.r9,
        10 => &mut registers.r10,
        11 => &mut registers.r11,
        12 => &mut registers.r12,
        13 => &mut registers.r13,
        14 => &mut registers.r14,
        _ => &mut registers.r15,
    }
}

impl Instruction {
    /// Decodes; nothing when the bytes end before the instruction does.
    pub(super) fn decode(bytes: &[u8], registers: &kvm_regs, special: &kvm_sregs) -> Option<Self> {
        let mut instruction = Self::default();
        let mut rest = bytes.iter().copied();
        let mut base = 0;
        let mut byte = rest.next()?;
        loop {
            match byte {
                0x66 => instruction.operand_size = true,
                0xf2 | 0xf3 => instruction.repeat = byte,
                0x64 => base = special.fs.base,
                0x65 => base = special.gs.base,
                0x2e | 0x3e | 0xf0 => {}
                _ => break,
            }
            byte = rest.next()?;
        }
        if byte & 0xf0 == 0x40 {
            instruction.rex = byte;
            byte = rest.next()?;
        }
        if byte == 0x0f {
            instruction.two_bytes = true;
            byte = rest.next()?;
        }
        instruction.opcode = byte;
        // Those without a ModRM byte are one byte longer here than they are; their length is not used.
        instruction.modrm = rest.next().unwrap_or(0);
        let mut copy = *registers;
        let (offset, from_rip) = instruction.operand(&mut rest, &mut copy)?;
        instruction.length = (bytes.len() - rest.len()) as u64;
        let rip = if from_rip { registers.rip.wrapping_add(instruction.length) } else { 0 };
        instruction.address = base.wrapping_add(offset).wrapping_add(rip);
        Some(instruction)
    }

    /// SIB byte and displacement: the address without segment, and whether it counts from the next instruction.
    fn operand(&self, rest: &mut impl Iterator<Item = u8>, registers: &mut kvm_regs) -> Option<(u64, bool)> {
        let (mode, low) = (self.modrm >> 6, self.modrm & 7);
        if mode == 3 {
            return Some((0, false));
        }
        let mut address = 0u64;
        let mut displacement = [0, 1, 4, 0][usize::from(mode)];
        let mut from_rip = false;
        if low == 4 {
            let sib = rest.next()?;
            let index = sib >> 3 & 7 | (self.rex & 2) << 2;
            if index != 4 {
                address = *register(registers, index) << (sib >> 6);
            }
            if sib & 7 == 5 && mode == 0 {
                displacement = 4;
            } else {
                let base = *register(registers, sib & 7 | (self.rex & 1) << 3);
                address = address.wrapping_add(base);
            }
        } else if low == 5 && mode == 0 {
            (displacement, from_rip) = (4, true);
        } else {
            address = *register(registers, low | (self.rex & 1) << 3);
        }
        let offset = match displacement {
            1 => i64::from(rest.next()? as i8),
            4 => {
                let bytes = [rest.next()?, rest.next()?, rest.next()?, rest.next()?];
                i64::from(i32::from_le_bytes(bytes))
            }
            _ => 0,
        };
        Some((address.wrapping_add_signed(offset), from_rip))
    }

    /// Whether the operand is in memory.
    pub(super) fn is_memory(&self) -> bool {
        self.modrm >> 6 != 3
    }

    /// ModRM's middle field: a register, or more of the opcode.
    pub(super) fn field(&self) -> u8 {
        self.modrm >> 3 & 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Instruction {
        let registers = kvm_regs { rax: 0x1000, rbx: 0x20, r13: 0x5000, rip: 0x100, ..Default::default() };
        let mut special = kvm_sregs::default();
        special.gs.base = 0x7000_0000;
        Instruction::decode(bytes, &registers, &special).expect("complete")
    }

    #[test]
    fn addresses_are_those_of_the_processor() {
        // popcnt 8(%rax,%rbx,4), %rcx
        let sib = decode(&[0xf3, 0x48, 0x0f, 0xb8, 0x4c, 0x98, 0x08]);
        assert_eq!((sib.address, sib.length, sib.field()), (0x1088, 7, 1));
        // cmpxchg16b %gs:(%r13)
        let gs = decode(&[0x65, 0x49, 0x0f, 0xc7, 0x4d, 0x00]);
        assert_eq!((gs.address, gs.length), (0x7000_5000, 6));
        // xsave64 0x10(%rip)
        let rip = decode(&[0x48, 0x0f, 0xae, 0x25, 0x10, 0, 0, 0]);
        assert_eq!((rip.address, rip.length), (0x118, 8));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..MOST_BYTES)) {
            let _any = Instruction::decode(&bytes, &kvm_regs::default(), &kvm_sregs::default());
        }
    }
}
