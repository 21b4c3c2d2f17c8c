//! Instructions for a region: kernel statements become vector code.
//!
//! Values are kept as late as possible in the form that costs least: comparisons as masks, pairs as two vectors of
//! zero-extended halves (`pmaddwd` multiplies each with its own factor), products not yet summed, so that a sum takes
//! them by `vpdpwssd`. An innermost loop is written twice in one turn, which halves pointers and random numbers: one
//! block after the other, or both in shared vectors (`twin`).

use super::super::emit_clif::plan::walk;
use super::asm::Result;
use super::codes;
use super::region::{Around, Capture};
use super::sums::Sum;
use super::uses::Uses;
use super::vcode::{Base, Class, Inst, Node, Operand, Reg, Vcode, Width};
use crate::kernel::{DType, Expr, Index, LANES, Param, Stmt, Value};
use iced_x86::Code;
use std::collections::{BTreeMap, BTreeSet};

/// Statements in the body of a loop that is written twice, at most.
const UNROLLED: usize = 48;

/// What a value is so far.
#[derive(Clone, Debug)]
pub(super) enum Val {
    Lanes(Reg),
    Mask(Reg),
    /// A mask that nobody has read.
    Comparison(Comparison),
    /// 16-bit numbers that a load has zero-extended to 32 bits: only pairs read them.
    Words(Reg),
    /// Lower and upper halves of pairs, each zero-extended; nothing where they are zero.
    Pair([Option<Reg>; 2]),
    /// `Σ` of products of pairs of 16-bit numbers.
    Products(Vec<(Reg, Reg)>),
}

/// A comparison of lanes. One that a mask restricts costs no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub(super) code: Code,
    pub(super) operands: [Operand; 2],
    pub(super) condition: u8,
}

/// A loop that is being written.
pub(super) struct Level {
    pub(super) index: Index,
    pub(super) count: i64,
    /// Turns that are written in one.
    pub(super) copies: i64,
    /// Which of them is being written.
    pub(super) copy: i64,
    /// Running pointers by what they start from and their step.
    pub(super) pointers: BTreeMap<(usize, i64), usize>,
    /// Lines that the body has asked for ahead.
    pub(super) asked: BTreeSet<(Base, i64)>,
}

/// Vectors that are computed from an Int once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Derived {
    Splat(DType),
    Half(DType),
    /// How far to shift lanes so that the sign is left, or nothing if the Int is zero.
    Sign(DType),
    Low,
    High,
}

pub(super) struct Select<'a> {
    pub(super) around: Around<'a>,
    pub(super) uses: Uses,
    /// What contractions of the kernel write.
    pub(super) contracted: BTreeSet<Param>,
    pub(super) code: Vcode,
    /// Code of the open loops, outermost first; the first is what runs once, in front of all.
    pub(super) open: Vec<Vec<Node>>,
    pub(super) levels: Vec<Level>,
    pub(super) values: BTreeMap<Value, Val>,
    /// Zero-extensions and rotations that have been made.
    pub(super) words: BTreeMap<Reg, Reg>,
    pub(super) rotated: BTreeMap<Reg, Reg>,
    /// Vectors brought into the order of two blocks.
    pub(super) doubled: BTreeMap<Reg, Reg>,
    pub(super) spread: BTreeMap<Reg, [Reg; 2]>,
    /// How deep a register was defined.
    pub(super) scope: Vec<usize>,
    pub(super) derived: BTreeMap<(Value, Derived), Reg>,
    pub(super) constants: BTreeMap<Vec<u8>, Reg>,
    /// The random numbers of the second copy, made with those of the first.
    pub(super) second_random: BTreeMap<Value, Reg>,
    /// Positions of random blocks in all lanes, by the pointers that hold them, in the loop that is being written.
    pub(super) positions: BTreeMap<usize, Reg>,
    pub(super) captures: Vec<(i64, Capture)>,
    pub(super) sums: Vec<Sum>,
}

pub(super) fn z(reg: Reg) -> Operand {
    Operand::Reg(reg, Width::Z)
}

pub(super) fn y(reg: Reg) -> Operand {
    Operand::Reg(reg, Width::Y)
}

impl<'a> Select<'a> {
    pub(super) fn new(around: Around<'a>, stmt: &Stmt) -> Select<'a> {
        let mut contracted = BTreeSet::new();
        walk(&around.kernel.body, &mut |stmt| {
            if let Stmt::Contract(contract) = stmt {
                contracted.insert(contract.out.param);
            }
        });
        Select {
            around,
            uses: Uses::of(stmt),
            contracted,
            code: Vcode::default(),
            open: vec![vec![]],
            levels: vec![],
            values: BTreeMap::new(),
            words: BTreeMap::new(),
            rotated: BTreeMap::new(),
            doubled: BTreeMap::new(),
            spread: BTreeMap::new(),
            scope: vec![],
            derived: BTreeMap::new(),
            constants: BTreeMap::new(),
            second_random: BTreeMap::new(),
            positions: BTreeMap::new(),
            captures: vec![],
            sums: vec![],
        }
    }

    pub(super) fn finish(mut self) -> (Vcode, Vec<(i64, Capture)>) {
        self.code.nodes = self.open.pop().unwrap_or_default();
        (self.code, self.captures)
    }

    // Code.

    pub(super) fn push_at(&mut self, depth: usize, node: Node) {
        self.open[depth].push(node);
    }

    pub(super) fn new_reg(&mut self, class: Class, depth: usize) -> Reg {
        self.scope.push(depth);
        self.code.reg(class)
    }

    pub(super) fn here(&self) -> usize {
        self.open.len() - 1
    }

    /// The outermost open loop in which a register is defined, for what follows from it alone.
    pub(super) fn depth_of(&self, reg: Reg) -> usize {
        self.scope[reg.0].min(self.here())
    }

    pub(super) fn inst(&mut self, inst: Inst) {
        self.push_at(self.here(), Node::Inst(inst));
    }

    /// An instruction that defines a new vector, where it is written.
    pub(super) fn def(&mut self, code: Code, width: Width, reads: &[Operand]) -> Reg {
        self.def_at(self.here(), code, width, reads, None)
    }

    pub(super) fn def_imm(&mut self, code: Code, width: Width, reads: &[Operand], immediate: u8) -> Reg {
        self.def_at(self.here(), code, width, reads, Some(immediate))
    }

    pub(super) fn def_at(
        &mut self,
        depth: usize,
        code: Code,
        width: Width,
        reads: &[Operand],
        immediate: Option<u8>,
    ) -> Reg {
        let class = if width == Width::Mask { Class::Mask } else { Class::Vector };
        let reg = self.new_reg(class, depth);
        let operands = [&[Operand::Reg(reg, width)], reads].concat();
        self.push_at(depth, Node::Inst(Inst { immediate, ..Inst::new(code, operands) }));
        reg
    }

    /// A constant in a new vector, made once in front of everything.
    pub(super) fn constant(&mut self, dtype: DType, lanes: &[i32; LANES]) -> Reg {
        let size = dtype.bytes();
        let bytes: Vec<u8> = lanes.iter().flat_map(|lane| lane.to_le_bytes()[..size].to_vec()).collect();
        self.constant_bytes(bytes)
    }

    pub(super) fn constant_bytes(&mut self, mut bytes: Vec<u8>) -> Reg {
        let first = bytes[..4].to_vec();
        if bytes.chunks(4).all(|c| c == first) {
            bytes = first;
        } else {
            bytes.resize(64, 0);
        }
        if let Some(&reg) = self.constants.get(&bytes) {
            return reg;
        }
        let reg = self.new_reg(Class::Vector, 0);
        self.push_at(0, Node::Constant(reg, bytes.clone()));
        self.constants.insert(bytes, reg);
        reg
    }

    /// A vector of zeros that may be changed.
    pub(super) fn fresh_zero(&mut self) -> Reg {
        let reg = self.new_reg(Class::Vector, self.here());
        self.push_at(self.here(), Node::Constant(reg, vec![0; 4]));
        reg
    }

    pub(super) fn stmt(&mut self, stmt: &Stmt) -> Result {
        match stmt {
            Stmt::For { index, count, body } => self.turns(*index, *count, body),
            Stmt::Let(_, Expr::ConstInt(_)) => Ok(()),
            Stmt::Let(value, expr) => {
                let val = self.expr(*value, expr)?;
                self.values.insert(*value, val);
                Ok(())
            }
            Stmt::Store(address, value) => {
                let width = codes::width(self.dtype(*value)?);
                let reg = self.lanes(*value)?;
                let to = self.address(address)?;
                self.prefetch(address, to);
                self.inst(Inst::new(codes::store(width), [to, Operand::Reg(reg, width)]));
                Ok(())
            }
            Stmt::Acc64(..) | Stmt::MaxInto(..) | Stmt::MinInto(..) => self.fold(stmt),
            Stmt::Contract(_) => Err("a contraction".into()),
        }
    }

    fn turns(&mut self, index: Index, count: u32, body: &[Stmt]) -> Result {
        if count == 1 {
            return body.iter().try_for_each(|stmt| self.stmt(stmt));
        }
        let outer = self.sums.len();
        self.open_sums(index, count, body)?;
        let innermost = !body.iter().any(|s| matches!(s, Stmt::For { .. }));
        let twice = innermost && count.is_multiple_of(2) && body.len() <= UNROLLED;
        let twin = twice && self.suits_twin(index, body);
        let copies = if twice { 2 } else { 1 };
        let (pointers, asked) = Default::default();
        self.levels.push(Level { index, count: count.into(), copies, copy: 0, pointers, asked });
        self.open.push(vec![]);
        let positions = std::mem::take(&mut self.positions);
        let extremes = if twin { self.twin(body)? } else { vec![] };
        for copy in if twin { 0..0 } else { 0..copies } {
            if let Some(level) = self.levels.last_mut() {
                level.copy = copy;
            }
            // The permutations of whole vectors have no halves.
            if self.around.wide.bytes < 64 || !self.shuffle(body)? {
                body.iter().try_for_each(|stmt| self.stmt(stmt))?;
            }
        }
        self.positions = positions;
        let body = self.open.pop().unwrap_or_default();
        let pointers = self.levels.pop().map(|l| l.pointers.into_values().collect()).unwrap_or_default();
        let count = count / copies as u32;
        self.push_at(self.here(), Node::Loop { count, pointers, body });
        self.fold_twins(extremes)?;
        self.close_sums(outer)
    }
}
