//! Instructions for a region: kernel statements become vector code.
//!
//! Values are kept as late as possible in the form that costs least: comparisons as masks, pairs as two vectors of
//! zero-extended halves (`pmaddwd` multiplies each with its own factor), products not yet summed, so that a sum takes
//! them by `vpdpwssd`. An innermost loop is written twice in one turn, which halves pointers and random numbers.

use super::super::emit_clif::RANDOM_STRIDE;
use super::asm::Result;
use super::codes;
use super::region::{Around, Capture};
use super::sums::Sum;
use super::uses::Uses;
use super::vcode::{Base, Class, Inst, Node, Operand, Pointer, Reg, ScalarOp, Vcode, Width};
use crate::kernel::{
    Address, Amount, Binary, Cond, DType, Expr, Index, LANES, Shift, Stmt, Type, Unary, Value,
};
use iced_x86::Code;
use std::collections::BTreeMap;

/// Statements in the body of a loop that is written twice, at most.
const UNROLLED: usize = 48;

/// Bytes of a cache line.
const LINE: i64 = 64;
/// Buffers of so many bytes are not expected in a core's own caches.
const PREFETCHED: u64 = 1 << 20;
/// How many bytes ahead a line is asked for.
const AHEAD: i64 = 2048;

/// What a value is so far.
#[derive(Clone, Debug)]
pub(super) enum Val {
    Lanes(Reg),
    Mask(Reg),
    /// 16-bit numbers that a load has zero-extended to 32 bits: only pairs read them.
    Words(Reg),
    /// Lower and upper halves of pairs, each zero-extended; nothing where they are zero.
    Pair([Option<Reg>; 2]),
    /// `Σ` of products of pairs of 16-bit numbers.
    Products(Vec<(Reg, Reg)>),
}

/// A loop that is being written.
pub(super) struct Level {
    pub(super) index: Index,
    /// Turns that are written in one.
    copies: i64,
    /// Which of them is being written.
    copy: i64,
    /// Running pointers by what they start from and their step.
    pointers: BTreeMap<(usize, i64), usize>,
}

/// Vectors that are computed from an Int once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Derived {
    Splat(DType),
    Half(DType),
    Low,
    High,
}

pub(super) struct Select<'a> {
    pub(super) around: Around<'a>,
    uses: Uses,
    pub(super) code: Vcode,
    /// Code of the open loops, outermost first; the first is what runs once, in front of all.
    open: Vec<Vec<Node>>,
    pub(super) levels: Vec<Level>,
    values: BTreeMap<Value, Val>,
    /// Zero-extensions and rotations that have been made.
    words: BTreeMap<Reg, Reg>,
    rotated: BTreeMap<Reg, Reg>,
    /// How deep a register was defined.
    scope: Vec<usize>,
    derived: BTreeMap<(Value, Derived), Reg>,
    constants: BTreeMap<Vec<u8>, Reg>,
    /// The random numbers of the second copy, made with those of the first.
    second_random: BTreeMap<Value, Reg>,
    captures: Vec<(i64, Capture)>,
    pub(super) sums: Vec<Sum>,
}

pub(super) fn z(reg: Reg) -> Operand {
    Operand::Reg(reg, Width::Z)
}

fn y(reg: Reg) -> Operand {
    Operand::Reg(reg, Width::Y)
}

impl<'a> Select<'a> {
    pub(super) fn new(around: Around<'a>, stmt: &Stmt) -> Select<'a> {
        Select {
            around,
            uses: Uses::of(stmt),
            code: Vcode::default(),
            open: vec![vec![]],
            levels: vec![],
            values: BTreeMap::new(),
            words: BTreeMap::new(),
            rotated: BTreeMap::new(),
            scope: vec![],
            derived: BTreeMap::new(),
            constants: BTreeMap::new(),
            second_random: BTreeMap::new(),
            captures: vec![],
            sums: vec![],
        }
    }

    pub(super) fn finish(mut self) -> (Vcode, Vec<(i64, Capture)>) {
        self.code.nodes = self.open.pop().unwrap_or_default();
        (self.code, self.captures)
    }

    // Code.

    fn push_at(&mut self, depth: usize, node: Node) {
        self.open[depth].push(node);
    }

    fn new_reg(&mut self, class: Class, depth: usize) -> Reg {
        self.scope.push(depth);
        self.code.reg(class)
    }

    fn here(&self) -> usize {
        self.open.len() - 1
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

    fn def_at(
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
    fn constant(&mut self, dtype: DType, lanes: &[i32; LANES]) -> Reg {
        let size = dtype.bytes();
        let bytes: Vec<u8> = lanes.iter().flat_map(|lane| lane.to_le_bytes()[..size].to_vec()).collect();
        self.constant_bytes(bytes)
    }

    fn constant_bytes(&mut self, mut bytes: Vec<u8>) -> Reg {
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

    // What comes from outside.

    fn capture(&mut self, capture: Capture) -> i64 {
        if let Some((at, _)) = self.captures.iter().find(|(_, c)| *c == capture) {
            return *at;
        }
        let end = self.captures.last().map_or(0, |(at, c)| at + c.bytes());
        self.captures.push((end, capture));
        end
    }

    fn derive(&mut self, value: Value, what: Derived) -> Reg {
        if let Some(&reg) = self.derived.get(&(value, what)) {
            return reg;
        }
        let reg = match what {
            Derived::Splat(dtype) => self.splat_memory(dtype, value, 0),
            Derived::Low => self.splat_memory(DType::I32, value, 0),
            Derived::High => self.splat_memory(DType::I32, value, 4),
            Derived::Half(dtype) => {
                // (1 << k) >> 1 is zero for k = 0.
                let one = self.constant(dtype, &[1; LANES]);
                let count = self.derive(value, Derived::Splat(dtype));
                let width = codes::width(dtype);
                let (one, count) = (Operand::Reg(one, width), Operand::Reg(count, width));
                let left = codes::shift_by_lanes(Shift::Left, dtype);
                let power = self.def_at(0, left, width, &[one, count], None);
                let right = codes::shift_by_constant(Shift::RightLogical, dtype);
                self.def_at(0, right, width, &[Operand::Reg(power, width)], Some(1))
            }
        };
        self.derived.insert((value, what), reg);
        reg
    }

    fn splat_memory(&mut self, dtype: DType, value: Value, offset: i64) -> Reg {
        let at = self.capture(Capture::Scalar(value));
        let from = Operand::Memory(Base::Context, at + offset);
        self.def_at(0, codes::broadcast(dtype), codes::width(dtype), &[from], None)
    }

    /// A value that is defined outside: made again if that is cheap, else taken.
    fn outside(&mut self, value: Value) -> Result<Val> {
        let reg = match self.around.definitions.get(&value) {
            Some(Expr::ConstLanes(dtype, lanes)) => self.constant(*dtype, lanes),
            Some(Expr::Splat(dtype, scalar)) => self.derive(*scalar, Derived::Splat(*dtype)),
            Some(Expr::SplatPair(a, b)) => self.splat_pair(*a, *b),
            _ => {
                let at = self.capture(Capture::Lanes(value));
                let from = Operand::Memory(Base::Context, at);
                self.def_at(0, codes::load(Width::Z), Width::Z, &[from], None)
            }
        };
        Ok(Val::Lanes(reg))
    }

    fn splat_pair(&mut self, a: Value, b: Value) -> Reg {
        if let (Some(Expr::ConstInt(a)), Some(Expr::ConstInt(b))) =
            (self.around.definitions.get(&a), self.around.definitions.get(&b))
        {
            let pair = [(*a as i16).to_le_bytes(), (*b as i16).to_le_bytes()].concat();
            return self.constant_bytes(pair);
        }
        let (a, b) = (self.capture(Capture::Scalar(a)), self.capture(Capture::Scalar(b)));
        self.push_at(0, Node::Scalar(ScalarOp::Pair(a, b)));
        self.def_at(0, Code::EVEX_Vpbroadcastd_zmm_k1z_r32, Width::Z, &[Operand::Scalar], None)
    }

    // Addresses.

    pub(super) fn address(&mut self, address: &Address) -> Operand {
        let bytes = self.around.kernel.params[address.param.0 as usize].dtype.bytes() as i64;
        let (outer, inner) = self.split(&address.terms);
        let start = Address { param: address.param, terms: outer, offset: 0 };
        let start = self.context_pointer(Capture::Address(start));
        let (pointer, moved) = self.run_along(start, &inner, |stride| stride * bytes);
        Operand::Memory(Base::Pointer(pointer), address.offset * bytes + moved)
    }

    /// Terms of the loops around the region, and those of its own, in the order of the loops.
    fn split(&self, terms: &[(Index, i64)]) -> (Vec<(Index, i64)>, Vec<(usize, i64)>) {
        let (mut outer, mut inner) = (vec![], vec![]);
        for &(index, stride) in terms {
            match self.levels.iter().position(|l| l.index == index) {
                Some(level) => inner.push((level, stride)),
                None if self.uses.is_inner(index) => {} // A loop of one turn.
                None => outer.push((index, stride)),
            }
        }
        inner.sort();
        (outer, inner)
    }

    fn context_pointer(&mut self, capture: Capture) -> usize {
        let at = self.capture(capture);
        let pointer = Pointer::Context(at);
        self.code.pointers.iter().position(|p| *p == pointer).unwrap_or_else(|| {
            self.code.pointers.push(pointer);
            self.code.pointers.len() - 1
        })
    }

    /// The pointer that runs with the loops of `terms`, and how far the copies that are being written lie from it.
    fn run_along(
        &mut self,
        start: usize,
        terms: &[(usize, i64)],
        scale: impl Fn(i64) -> i64,
    ) -> (usize, i64) {
        let (mut pointer, mut moved) = (start, 0i64);
        for &(level, stride) in terms {
            let step = scale(stride);
            let level = &mut self.levels[level];
            moved = moved.wrapping_add(level.copy * step);
            let step = step.wrapping_mul(level.copies);
            let pointers = &mut self.code.pointers;
            pointer = *level.pointers.entry((pointer, step)).or_insert_with(|| {
                pointers.push(Pointer::Running { from: pointer, step });
                pointers.len() - 1
            });
        }
        (pointer, moved)
    }

    // Forms of values.

    pub(super) fn dtype(&self, value: Value) -> Result<DType> {
        match self.around.kernel.values[value.0 as usize] {
            Type::Lanes(dtype) => Ok(dtype),
            Type::Pairs => Ok(DType::I32),
            Type::Int | Type::Dyadic => Err("a scalar".into()),
        }
    }

    fn val(&mut self, value: Value) -> Result<Val> {
        match self.values.get(&value) {
            Some(val) => Ok(val.clone()),
            None => {
                let val = self.outside(value)?;
                self.values.insert(value, val.clone());
                Ok(val)
            }
        }
    }

    /// A value as one vector in lane order.
    pub(super) fn lanes(&mut self, value: Value) -> Result<Reg> {
        let reg = match self.val(value)? {
            Val::Lanes(reg) => return Ok(reg),
            Val::Mask(mask) => {
                let dtype = self.dtype(value)?;
                let mask = Operand::Reg(mask, Width::Mask);
                self.def(codes::mask_to_lanes(dtype), codes::width(dtype), &[mask])
            }
            Val::Words(_) => return Err("a load that was widened for pairs only".into()),
            Val::Pair(halves) => match halves {
                [Some(low), Some(high)] => {
                    let high = self.rotated(high);
                    self.def(Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, Width::Z, &[z(low), z(high)])
                }
                [Some(low), None] => low,
                [None, Some(high)] => self.rotated(high),
                [None, None] => self.constant(DType::I32, &[0; LANES]),
            },
            Val::Products(products) => self.sum_products(None, &products),
        };
        self.values.insert(value, Val::Lanes(reg));
        Ok(reg)
    }

    /// `start + Σ products` in a new vector.
    fn sum_products(&mut self, start: Option<Reg>, products: &[(Reg, Reg)]) -> Reg {
        let mut sum = start;
        for &(a, b) in products {
            sum = Some(match sum {
                None => self.def(Code::EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512, Width::Z, &[z(a), z(b)]),
                Some(sum) => {
                    let to = self.new_reg(Class::Vector, self.here());
                    self.add_product(to, sum, (a, b));
                    to
                }
            });
        }
        sum.unwrap_or_else(|| self.constant(DType::I32, &[0; LANES]))
    }

    /// `to = from + a·b`.
    pub(super) fn add_product(&mut self, to: Reg, from: Reg, (a, b): (Reg, Reg)) {
        let code = Code::EVEX_Vpdpwssd_zmm_k1z_zmm_zmmm512b32;
        self.inst(Inst { tied: Some(from), ..Inst::new(code, [z(to), z(a), z(b)]) });
    }

    /// Products that nobody else needs.
    pub(super) fn products(&mut self, value: Value) -> Option<Vec<(Reg, Reg)>> {
        match self.values.get(&value) {
            Some(Val::Products(products)) if self.uses.reads(value) == 1 => Some(products.clone()),
            _ => None,
        }
    }

    /// I16 lanes zero-extended to 32 bits; nothing for zeros.
    fn extended(&mut self, value: Value) -> Result<Option<Reg>> {
        if let Some(Expr::ConstLanes(_, lanes)) = self.around.definitions.get(&value)
            && lanes.iter().all(|&l| l == 0)
        {
            return Ok(None);
        }
        if let Val::Words(reg) = self.val(value)? {
            return Ok(Some(reg));
        }
        let reg = self.lanes(value)?;
        if let Some(&words) = self.words.get(&reg) {
            return Ok(Some(words));
        }
        let code = Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256;
        let words = self.def_at(self.scope[reg.0], code, Width::Z, &[y(reg)], None);
        self.words.insert(reg, words);
        Ok(Some(words))
    }

    /// Pairs with their halves exchanged.
    fn rotated(&mut self, reg: Reg) -> Reg {
        if let Some(&rotated) = self.rotated.get(&reg) {
            return rotated;
        }
        let code = Code::EVEX_Vprold_zmm_k1z_zmmm512b32_imm8;
        let rotated = self.def_at(self.scope[reg.0], code, Width::Z, &[z(reg)], Some(16));
        self.rotated.insert(reg, rotated);
        rotated
    }

    // Statements.

    pub(super) fn stmt(&mut self, stmt: &Stmt) -> Result {
        match stmt {
            Stmt::For { index, count, body } => self.turns(*index, *count, body),
            Stmt::Let(_, Expr::ConstInt(_)) | Stmt::Assume(..) => Ok(()),
            Stmt::Let(value, expr) => {
                let val = self.expr(*value, expr)?;
                self.values.insert(*value, val);
                Ok(())
            }
            Stmt::Store(address, value) => {
                let width = codes::width(self.dtype(*value)?);
                let reg = self.lanes(*value)?;
                let to = self.address(address);
                self.prefetch(address, to);
                self.inst(Inst::new(codes::store(width), [to, Operand::Reg(reg, width)]));
                Ok(())
            }
            Stmt::Acc64(..) | Stmt::MaxInto(..) | Stmt::MinInto(..) => self.fold(stmt),
            Stmt::Contract(_) => Err("a contraction".into()),
        }
    }

    /// Asks for the line of a large buffer that a loop will read or write some turns later. The machine does not look
    /// ahead of stores at all, and of loads only within a page and after some misses: too late for short rows.
    fn prefetch(&mut self, address: &Address, to: Operand) {
        let decl = &self.around.kernel.params[address.param.0 as usize];
        let bytes = decl.dtype.bytes() as i64;
        let (Some(level), Operand::Memory(base, at)) = (self.levels.last(), to) else { return };
        let step = address.terms.iter().find(|t| t.0 == level.index).map_or(0, |t| t.1 * bytes);
        let first_of_line = step >= LINE || level.copy * step % LINE < step && at % LINE < step;
        if step > 0 && first_of_line && decl.len * bytes as u64 >= PREFETCHED {
            let ahead = Operand::Memory(base, at + AHEAD.max(8 * step));
            self.inst(Inst::new(Code::Prefetcht1_m8, [ahead]));
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
        let copies = if twice { 2 } else { 1 };
        self.levels.push(Level { index, copies, copy: 0, pointers: BTreeMap::new() });
        self.open.push(vec![]);
        for copy in 0..copies {
            if let Some(level) = self.levels.last_mut() {
                level.copy = copy;
            }
            body.iter().try_for_each(|stmt| self.stmt(stmt))?;
        }
        let body = self.open.pop().unwrap_or_default();
        let pointers = self.levels.pop().map(|l| l.pointers.into_values().collect()).unwrap_or_default();
        let count = count / copies as u32;
        self.push_at(self.here(), Node::Loop { count, pointers, body });
        self.close_sums(outer)
    }

    fn expr(&mut self, value: Value, expr: &Expr) -> Result<Val> {
        let dtype = self.dtype(value)?;
        let width = codes::width(dtype);
        let operand = |reg| Operand::Reg(reg, width);
        Ok(Val::Lanes(match expr {
            Expr::Load(address) => return self.load(value, address, dtype),
            Expr::LoadPairs(address) => {
                let from = self.address(address);
                self.def(codes::load(Width::Z), Width::Z, &[from])
            }
            Expr::ConstLanes(dtype, lanes) => self.constant(*dtype, lanes),
            Expr::Splat(dtype, scalar) => self.derive(*scalar, Derived::Splat(*dtype)),
            Expr::SplatPair(a, b) => self.splat_pair(*a, *b),
            Expr::Widen(to, x) => return self.widen(*to, *x),
            Expr::NarrowSat(to, x) => return self.narrow(*to, *x),
            Expr::Cast(_, x) => self.lanes(*x)?,
            Expr::Pair(a, b) => return Ok(Val::Pair([self.extended(*a)?, self.extended(*b)?])),
            Expr::Dot2(a, b) => return self.dot2(value, *a, *b),
            Expr::Binary(op, a, b) => return self.binary(*op, *a, *b, dtype),
            Expr::Unary(Unary::Abs, x) => {
                let x = self.lanes(*x)?;
                self.def(codes::abs(dtype), width, &[operand(x)])
            }
            Expr::Shift(shift, x, by) => self.shift(*shift, *x, *by, dtype)?,
            Expr::Compare(cond, a, b) => {
                let of = self.dtype(*a)?;
                let [a, b] = [self.lanes(*a)?, self.lanes(*b)?].map(|r| Operand::Reg(r, codes::width(of)));
                let condition = match cond {
                    Cond::Eq => 0,
                    Cond::Lt => 1,
                    Cond::Le => 2,
                };
                return Ok(Val::Mask(self.def_imm(codes::compare(of), Width::Mask, &[a, b], condition)));
            }
            Expr::Select(mask, a, b) => {
                let mask = self.mask(*mask)?;
                let [a, b] = [self.lanes(*a)?, self.lanes(*b)?].map(operand);
                let reg = self.new_reg(Class::Vector, self.here());
                let blend = Inst::new(codes::blend(dtype), [operand(reg), b, a]);
                self.inst(Inst { mask: Some(mask), ..blend });
                reg
            }
            Expr::Interleave { a, b, high } => {
                let [a, b] = [self.lanes(*a)?, self.lanes(*b)?].map(operand);
                let low = Code::EVEX_Vpunpcklbw_xmm_k1z_xmm_xmmm128;
                let code = if *high { Code::EVEX_Vpunpckhbw_xmm_k1z_xmm_xmmm128 } else { low };
                self.def(code, width, &[a, b])
            }
            Expr::Random { key, block } => self.random(value, *key, &block.0, block.1)?,
            _ => return Err("an expression that is not wide".into()),
        }))
    }

    fn mask(&mut self, value: Value) -> Result<Reg> {
        if let Val::Mask(mask) = self.val(value)? {
            return Ok(mask);
        }
        let dtype = self.dtype(value)?;
        let lanes = Operand::Reg(self.lanes(value)?, codes::width(dtype));
        Ok(self.def(codes::lanes_to_mask(dtype), Width::Mask, &[lanes]))
    }

    /// Loads lanes in the form that all who read them want.
    fn load(&mut self, value: Value, address: &Address, dtype: DType) -> Result<Val> {
        let from = self.address(address);
        self.prefetch(address, from);
        if dtype == DType::I16 && self.uses.in_pairs_only(value) {
            return Ok(Val::Words(self.def(Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256, Width::Z, &[from])));
        }
        let Some((to, widened)) = self.uses.widened_only(value) else {
            let width = codes::width(dtype);
            return Ok(Val::Lanes(self.def(codes::load(width), width, &[from])));
        };
        if dtype == DType::U8 && to == DType::I16 && widened.iter().all(|w| self.uses.in_pairs_only(*w)) {
            return Ok(Val::Words(self.def(Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128, Width::Z, &[from])));
        }
        let code = codes::widen(dtype, to).ok_or("a widening that does not exist")?;
        Ok(Val::Lanes(self.def(code, codes::width(to), &[from])))
    }

    fn widen(&mut self, to: DType, x: Value) -> Result<Val> {
        let from = self.dtype(x)?;
        let val = self.val(x)?;
        if self.uses.widened_only(x).is_some() && self.uses.is_loaded(x) || matches!(val, Val::Mask(_)) {
            return Ok(val);
        }
        let x = Operand::Reg(self.lanes(x)?, codes::width(from));
        let code = codes::widen(from, to).ok_or("a widening that does not exist")?;
        Ok(Val::Lanes(self.def(code, codes::width(to), &[x])))
    }

    fn narrow(&mut self, to: DType, x: Value) -> Result<Val> {
        let from = self.dtype(x)?;
        if let val @ Val::Mask(_) = self.val(x)? {
            return Ok(val);
        }
        let width = codes::width(from);
        let mut reg = self.lanes(x)?;
        if to == DType::U8 && self.around.ranges[x.0 as usize].lo < 0 {
            let zero = self.constant(from, &[0; LANES]);
            let max = codes::binary(Binary::Max, from).ok_or("a maximum that does not exist")?;
            reg = self.def(max, width, &[Operand::Reg(reg, width), Operand::Reg(zero, width)]);
        }
        let code = codes::narrow(from, to).ok_or("a narrowing that does not exist")?;
        Ok(Val::Lanes(self.def(code, codes::width(to), &[Operand::Reg(reg, width)])))
    }

    fn dot2(&mut self, value: Value, a: Value, b: Value) -> Result<Val> {
        let products = match (self.val(a)?, self.val(b)?) {
            (Val::Pair(a), Val::Pair(b)) => {
                let both = |(a, b): (Option<Reg>, Option<Reg>)| Some((a?, b?));
                a.into_iter().zip(b).filter_map(both).collect()
            }
            (Val::Pair(pair), _) => {
                let factors = self.lanes(b)?;
                self.products_of(pair, factors)
            }
            (_, Val::Pair(pair)) => {
                let factors = self.lanes(a)?;
                self.products_of(pair, factors)
            }
            _ => vec![(self.lanes(a)?, self.lanes(b)?)],
        };
        if self.uses.reads(value) == 1 {
            return Ok(Val::Products(products));
        }
        Ok(Val::Lanes(self.sum_products(None, &products)))
    }

    /// A pair of zero-extended halves times pairs: the upper half meets the factors exchanged.
    fn products_of(&mut self, [low, high]: [Option<Reg>; 2], factors: Reg) -> Vec<(Reg, Reg)> {
        let mut out = vec![];
        out.extend(low.map(|low| (low, factors)));
        if let Some(high) = high {
            out.push((high, self.rotated(factors)));
        }
        out
    }

    fn binary(&mut self, op: Binary, a: Value, b: Value, dtype: DType) -> Result<Val> {
        let width = codes::width(dtype);
        if op == Binary::Add {
            for (x, sum) in [(a, b), (b, a)] {
                if let Some(products) = self.products(x) {
                    let start = self.lanes(sum)?;
                    return Ok(Val::Lanes(self.sum_products(Some(start), &products)));
                }
            }
        }
        let (left, right) = (self.val(a)?, self.val(b)?);
        if let (Val::Mask(a), Val::Mask(b), Some(code)) = (&left, &right, codes::mask_binary(op)) {
            let [a, b] = [*a, *b].map(|r| Operand::Reg(r, Width::Mask));
            return Ok(Val::Mask(self.def(code, Width::Mask, &[a, b])));
        }
        if op == Binary::And {
            for (mask, x) in [(&left, b), (&right, a)] {
                if let Val::Mask(mask) = mask {
                    let x = Operand::Reg(self.lanes(x)?, width);
                    let reg = self.new_reg(Class::Vector, self.here());
                    let copy = Inst::new(codes::masked_copy(dtype), [Operand::Reg(reg, width), x]);
                    self.inst(Inst { mask: Some(*mask), zeroing: true, ..copy });
                    return Ok(Val::Lanes(reg));
                }
            }
        }
        let [a, b] = [self.lanes(a)?, self.lanes(b)?].map(|r| Operand::Reg(r, width));
        let code = codes::binary(op, dtype).ok_or("an operation that does not exist")?;
        Ok(Val::Lanes(self.def(code, width, &[a, b])))
    }

    fn shift(&mut self, shift: Shift, x: Value, by: Amount, dtype: DType) -> Result<Reg> {
        if !matches!(dtype, DType::I16 | DType::I32) {
            return Err("a shift of bytes".into());
        }
        let width = codes::width(dtype);
        let mut reg = self.lanes(x)?;
        if shift == Shift::RightRound {
            if by == Amount::Imm(0) {
                return Ok(reg);
            }
            reg = self.rounding(x, reg, by, dtype)?;
        }
        let x = Operand::Reg(reg, width);
        Ok(match by {
            Amount::Imm(k) => self.def_imm(codes::shift_by_constant(shift, dtype), width, &[x], k),
            Amount::Value(k) => {
                let count = Operand::Reg(self.derive(k, Derived::Splat(dtype)), width);
                self.def(codes::shift_by_lanes(shift, dtype), width, &[x, count])
            }
        })
    }

    /// `x + half − (x < 0)`, with nothing taken off when the shift and so half is zero: ties away from zero.
    fn rounding(&mut self, x: Value, reg: Reg, by: Amount, dtype: DType) -> Result<Reg> {
        let width = codes::width(dtype);
        let operand = |r| Operand::Reg(r, width);
        let op = |op| codes::binary(op, dtype).ok_or("an operation that does not exist");
        let (mut add, least) = match by {
            Amount::Imm(k) => (self.constant(dtype, &[1 << (k - 1); LANES]), k as i64),
            Amount::Value(v) => (self.derive(v, Derived::Half(dtype)), self.around.ranges[v.0 as usize].lo),
        };
        if self.around.ranges[x.0 as usize].lo < 0 {
            let bits = 8 * dtype.bytes() as u8 - 1;
            let right = codes::shift_by_constant(Shift::Right, dtype);
            let sign = self.def_imm(right, width, &[operand(reg)], bits);
            add = self.def(op(Binary::Add)?, width, &[operand(add), operand(sign)]);
            if least == 0 {
                let zero = self.constant(dtype, &[0; LANES]);
                add = self.def(op(Binary::Max)?, width, &[operand(add), operand(zero)]);
            }
        }
        Ok(self.def(op(Binary::Add)?, width, &[operand(reg), operand(add)]))
    }

    /// `fqt_runtime::random::block`; in a loop that is written twice, both blocks at once.
    fn random(&mut self, value: Value, key: Value, terms: &[(Index, i64)], offset: i64) -> Result<Reg> {
        if let Some(second) = self.second_random.remove(&value) {
            return Ok(second);
        }
        let (outer, inner) = self.split(terms);
        let of_block = |blocks: i64| blocks.wrapping_mul(RANDOM_STRIDE) as i32 as i64;
        let start = self.context_pointer(Capture::Position(outer));
        let (pointer, _) = self.run_along(start, &inner, of_block);
        let twice = self.levels.last().is_some_and(|l| l.copies == 2);
        let last = self.levels.len().wrapping_sub(1);
        let apart = inner.iter().find(|t| t.0 == last).map_or(0, |t| t.1);
        let words: Vec<u8> = (0..16)
            .flat_map(|l: i64| {
                let block = if l < 8 { offset } else { offset.wrapping_add(apart) };
                let word = of_block(block).wrapping_add((l % 8).wrapping_mul(0x9E37_79B9));
                (word as u32).to_le_bytes()
            })
            .collect();
        let words = self.constant_bytes(words);
        let low = self.derive(key, Derived::Low);
        let add = Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32;
        let keyed = self.def_at(0, add, Width::Z, &[z(words), z(low)], None);
        self.push_at(self.here(), Node::Scalar(ScalarOp::Position(pointer)));
        let broadcast = Code::EVEX_Vpbroadcastd_zmm_k1z_r32;
        let position = self.def(broadcast, Width::Z, &[Operand::Scalar]);
        let x = self.def(add, Width::Z, &[z(position), z(keyed)]);
        let x = self.mix(x, 16, None);
        let x = self.times(x, 0x7FEB_352D);
        let high = self.derive(key, Derived::High);
        let x = self.mix(x, 15, Some(high));
        let x = self.times(x, 0x846C_A68Bu32 as i32);
        let x = self.mix(x, 16, None);
        if twice {
            let code = Code::EVEX_Vextracti64x4_ymmm256_k1z_zmm_imm8;
            let second = self.def_imm(code, Width::Y, &[z(x)], 1);
            self.second_random.insert(value, second);
        }
        Ok(x)
    }

    /// `x ^ x >> by`, and `^ key`.
    fn mix(&mut self, x: Reg, by: u8, key: Option<Reg>) -> Reg {
        let shifted = self.def_imm(Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, Width::Z, &[z(x)], by);
        let Some(key) = key else {
            return self.def(Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, Width::Z, &[z(x), z(shifted)]);
        };
        let to = self.new_reg(Class::Vector, self.here());
        let code = Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8;
        let xor =
            Inst { immediate: Some(0x96), tied: Some(x), ..Inst::new(code, [z(to), z(shifted), z(key)]) };
        self.inst(xor);
        to
    }

    fn times(&mut self, x: Reg, factor: i32) -> Reg {
        let factor = self.constant(DType::I32, &[factor; LANES]);
        self.def(Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, Width::Z, &[z(x), z(factor)])
    }
}
