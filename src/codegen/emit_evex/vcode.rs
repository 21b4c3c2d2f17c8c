//! Vector code before registers are chosen: instructions on numbered virtual registers, in loops.
//!
//! A block of 16 lanes is one register: 128 bits of bytes, 256 of 16-bit numbers, 512 of 32-bit numbers or of pairs. Two
//! blocks at once are 256 bits of bytes, 512 of 16-bit numbers, or two registers. Comparisons live in mask registers.
//! Code for 256 bits, which `narrow` makes of it, has neither registers of 512 nor masks. An instruction defines its first
//! operand unless that is memory.

use iced_x86::{Code, Register};

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reg(pub(super) usize);

/// What a virtual register becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Vector,
    Mask,
}

/// As how wide an operand is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    X,
    Y,
    Z,
    Mask,
}

impl Width {
    /// The register of that number.
    pub(super) fn register(self, number: usize) -> Register {
        let first = match self {
            Width::X => Register::XMM0,
            Width::Y => Register::YMM0,
            Width::Z => Register::ZMM0,
            Width::Mask => Register::K0,
        };
        first + number as u32
    }
}

/// Where memory operands begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Base {
    /// A pointer of the region, by its number.
    Pointer(usize),
    /// What the caller passes.
    Context,
}

/// An operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Reg(Reg, Width),
    Memory(Base, i64),
    /// The low half of the scratch register for scalars.
    Scalar,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct Inst {
    pub(super) code: Code,
    pub(super) operands: Vec<Operand>,
    pub(super) immediate: Option<u8>,
    /// Lanes that are written; with `zeroing` the others become zero, else they keep what `tied` says.
    pub(super) mask: Option<Reg>,
    pub(super) zeroing: bool,
    /// What the first operand holds before: it is read and written.
    pub(super) tied: Option<Reg>,
}

impl Inst {
    pub(super) fn new(code: Code, operands: impl Into<Vec<Operand>>) -> Inst {
        let operands = operands.into();
        Inst { code, operands, immediate: None, mask: None, zeroing: false, tied: None }
    }

    /// The register that it writes.
    pub(super) fn defines(&self) -> Option<Reg> {
        match self.operands.first() {
            Some(Operand::Reg(reg, _)) => Some(*reg),
            _ => None,
        }
    }

    /// The registers that it reads beside `tied`.
    pub(super) fn reads(&self) -> impl Iterator<Item = Reg> + '_ {
        let operands = self.operands.iter().skip(1).chain(self.operands.first().filter(|_| self.stores()));
        let operands = operands.filter_map(|o| match o {
            Operand::Reg(reg, _) => Some(*reg),
            _ => None,
        });
        operands.chain(self.mask)
    }

    fn stores(&self) -> bool {
        self.defines().is_none()
    }
}

/// A pointer, or another number that grows by a constant in every turn of its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pointer {
    /// An entry of the context: bytes from its start.
    Context(i64),
    /// Starts from another one when its loop begins, and grows by so many bytes a turn.
    Running { from: usize, step: i64 },
}

/// Scalar work on the scratch register.
#[derive(Clone, Copy, Debug)]
pub(super) enum ScalarOp {
    /// The low 32 bits of a pointer.
    Position(usize),
    /// Two numbers of the context as a pair of 16 bits.
    Pair(i64, i64),
}

/// Code and loops.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Inst(Inst),
    Scalar(ScalarOp),
    /// A constant: four bytes for all lanes, or 64.
    Constant(Reg, Vec<u8>),
    /// `count` turns; `pointers` run along.
    Loop {
        count: u32,
        pointers: Vec<usize>,
        body: Vec<Node>,
    },
}

/// The code of a region.
#[derive(Debug, Default)]
pub(super) struct Vcode {
    pub(super) nodes: Vec<Node>,
    pub(super) classes: Vec<Class>,
    pub(super) pointers: Vec<Pointer>,
}

impl Vcode {
    pub(super) fn reg(&mut self, class: Class) -> Reg {
        self.classes.push(class);
        Reg(self.classes.len() - 1)
    }
}
