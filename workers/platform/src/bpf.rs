//! Classic BPF for seccomp: an assembler with labels and an interpreter.
//!
//! The interpreter answers "would the filter let this call run natively?", so that the consent list and
//! `GuestThread::native` can never disagree with the filter; and it lets tests ask the real program.

use std::collections::HashMap;

/// One instruction, `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

const LD_ABS: u16 = 0x20;
const JEQ: u16 = 0x15;
const JSET: u16 = 0x45;
const AND: u16 = 0x54;
const TAX: u16 = 0x07;
const JGT_X: u16 = 0x2d;
const JEQ_X: u16 = 0x1d;
const RET: u16 = 0x06;

/// `struct seccomp_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Data {
    pub(crate) nr: u32,
    pub(crate) arch: u32,
    pub(crate) ip: u64,
    pub(crate) args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64| if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
        match offset {
            0 => Some(self.nr),
            4 => Some(self.arch),
            8 | 12 => Some(half(self.ip)),
            16..64 if offset.is_multiple_of(4) => Some(half(self.args[(offset as usize - 16) / 8])),
            _ => None,
        }
    }
}

/// A forward jump target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Label(usize);

#[derive(Clone, Copy)]
enum Target {
    Next,
    Label(Label),
}

/// Builds a program. Conditional jumps reach 255 instructions; `finish` panics at build time of the table (in
/// tests and at start, before any guest) if one does not reach.
#[derive(Default)]
pub(crate) struct Assembler {
    code: Vec<(Instruction, Target, Target)>,
    places: HashMap<Label, usize>,
    labels: usize,
}

impl Assembler {
    pub(crate) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }

    pub(crate) fn here(&mut self, label: Label) {
        self.places.insert(label, self.code.len());
    }

    fn push(&mut self, code: u16, k: u32, yes: Target, no: Target) {
        self.code.push((Instruction { code, jt: 0, jf: 0, k }, yes, no));
    }

    pub(crate) fn load_nr(&mut self) {
        self.push(LD_ABS, 0, Target::Next, Target::Next);
    }

    pub(crate) fn load_arch(&mut self) {
        self.push(LD_ABS, 4, Target::Next, Target::Next);
    }

    pub(crate) fn load_ip_low(&mut self) {
        self.push(LD_ABS, 8, Target::Next, Target::Next);
    }

    pub(crate) fn load_ip_high(&mut self) {
        self.push(LD_ABS, 12, Target::Next, Target::Next);
    }

    pub(crate) fn load_arg_low(&mut self, arg: u32) {
        self.push(LD_ABS, 16 + 8 * arg, Target::Next, Target::Next);
    }

    pub(crate) fn load_arg_high(&mut self, arg: u32) {
        self.push(LD_ABS, 20 + 8 * arg, Target::Next, Target::Next);
    }

    pub(crate) fn and(&mut self, mask: u32) {
        self.push(AND, mask, Target::Next, Target::Next);
    }

    /// Moves A to X.
    pub(crate) fn tax(&mut self) {
        self.push(TAX, 0, Target::Next, Target::Next);
    }

    pub(crate) fn jump_if_equal(&mut self, k: u32, to: Label) {
        self.push(JEQ, k, Target::Label(to), Target::Next);
    }

    pub(crate) fn jump_unless_equal(&mut self, k: u32, to: Label) {
        self.push(JEQ, k, Target::Next, Target::Label(to));
    }

    pub(crate) fn jump_if_any_bit(&mut self, mask: u32, to: Label) {
        self.push(JSET, mask, Target::Label(to), Target::Next);
    }

    pub(crate) fn jump_unless_any_bit(&mut self, mask: u32, to: Label) {
        self.push(JSET, mask, Target::Next, Target::Label(to));
    }

    /// Unsigned A > X.
    pub(crate) fn jump_if_greater_than_x(&mut self, to: Label) {
        self.push(JGT_X, 0, Target::Label(to), Target::Next);
    }

    pub(crate) fn jump_unless_equal_to_x(&mut self, to: Label) {
        self.push(JEQ_X, 0, Target::Next, Target::Label(to));
    }

    pub(crate) fn ret(&mut self, action: u32) {
        self.push(RET, action, Target::Next, Target::Next);
    }

    pub(crate) fn finish(self) -> Vec<Instruction> {
        let places = self.places;
        let reach = |from: usize, target: Target| match target {
            Target::Next => 0,
            Target::Label(label) => u8::try_from(places[&label] - from - 1).expect("a jump that reaches"),
        };
        let resolve = |(at, (mut instruction, yes, no)): (usize, (Instruction, Target, Target))| {
            instruction.jt = reach(at, yes);
            instruction.jf = reach(at, no);
            instruction
        };
        self.code.into_iter().enumerate().map(resolve).collect()
    }
}

/// What the program returns for a call. Programs made here always return; anything else is None.
pub(crate) fn run(program: &[Instruction], data: &Data) -> Option<u32> {
    let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
    loop {
        let i = program.get(pc)?;
        pc += 1;
        let branch = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LD_ABS => a = data.word(i.k)?,
            AND => a &= i.k,
            TAX => x = a,
            JEQ => pc += branch(a == i.k),
            JSET => pc += branch(a & i.k != 0),
            JGT_X => pc += branch(a > x),
            JEQ_X => pc += branch(a == x),
            RET => return Some(i.k),
            _ => return None,
        }
    }
}
