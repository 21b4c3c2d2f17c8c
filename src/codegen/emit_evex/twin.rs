//! Two blocks at a time: innermost loops whose vectors are full.
//!
//! A block of 16-bit numbers is half a vector, one of bytes a quarter. Where a loop is written twice and its body allows
//! it, both blocks share vectors: bytes and 16-bit numbers lie one block after the other, and 32-bit numbers and pairs
//! are two vectors in the order in which `vpunpcklwd` and `vpunpckhwd` take 16-bit numbers apart, so that `vpackssdw`
//! puts them together again. What comes from outside of the loop is brought into that order once. A body with anything
//! else than what is here is written block by block.

use super::super::fold::{Fold, folding};
use super::asm::Result;
use super::codes;
use super::select::{Derived, Select, Val, y, z};
use super::vcode::{Class, Inst, Node, Operand, Reg, Width};
use crate::kernel::{Address, Amount, Binary, DType, Expr, Index, LANES, Shift, Stmt, Value};
use iced_x86::Code;
use std::collections::{BTreeMap, BTreeSet};

/// Parts of 128 bits that `vshufi32x4` takes of a vector twice: the first and third, the second and fourth, the lower half.
const PARTS: [u8; 2] = [0b10_00_10_00, 0b11_01_11_01];
const LOWER: u8 = 0b01_00_01_00;

/// What two blocks of a value are so far.
#[derive(Clone, Copy, Debug)]
enum Both {
    /// 16-bit numbers or bytes.
    One(Reg),
    /// 32-bit numbers or pairs.
    Two([Reg; 2]),
    /// Products of pairs, not yet summed.
    Products([Reg; 2], [Reg; 2]),
}

/// A maximum or minimum of both blocks, to be folded into that of one when the loop is over.
pub(super) struct Extreme {
    both: Reg,
    one: Reg,
    op: Binary,
}

/// A body that is being written.
struct Twin<'s, 'a> {
    select: &'s mut Select<'a>,
    values: BTreeMap<Value, Both>,
    extremes: Vec<Extreme>,
}

impl Select<'_> {
    /// Whether the body of a loop can be written for two blocks at once, and gains by it.
    pub(super) fn suits_twin(&self, index: Index, body: &[Stmt]) -> bool {
        let mut inside = BTreeSet::new();
        let every = body.iter().all(|stmt| match stmt {
            Stmt::Let(value, expr) => {
                inside.insert(*value);
                self.has_twin(*value, expr, &inside)
            }
            Stmt::Store(_, value) => inside.contains(value) && self.dtype(*value) != Ok(DType::I32),
            _ => folding(stmt).is_some_and(|(address, fold, value)| {
                fold != Fold::Sum && inside.contains(&value) && self.held_extreme(address, fold).is_some()
            }),
        });
        let narrows = |stmt: &Stmt| matches!(stmt, Stmt::Let(_, Expr::NarrowSat(DType::I16, _)));
        every && body.iter().any(narrows) && self.apart(index, body)
    }

    fn has_twin(&self, value: Value, expr: &Expr, inside: &BTreeSet<Value>) -> bool {
        let Ok(dtype) = self.dtype(value) else { return matches!(expr, Expr::ConstInt(_)) };
        let of = |x: &Value| self.dtype(*x);
        match expr {
            Expr::Load(_) => dtype != DType::I32,
            // Outside of the loop, numbers that were widened for pairs only have another form.
            Expr::Pair(a, b) => [a, b].iter().all(|v| !matches!(self.values.get(v), Some(Val::Words(_)))),
            Expr::Dot2(..) | Expr::Random { .. } => true,
            Expr::Binary(op, ..) => binary(*op, dtype).is_some(),
            Expr::Shift(shift, _, Amount::Imm(_)) => {
                *shift != Shift::RightRound && matches!(dtype, DType::I16 | DType::I32)
            }
            Expr::Shift(shift, ..) => *shift != Shift::RightRound && dtype == DType::I32,
            Expr::NarrowSat(DType::I16, x) => of(x) == Ok(DType::I32),
            Expr::NarrowSat(_, x) => inside.contains(x) && of(x) == Ok(DType::I16),
            Expr::Widen(to, x) => inside.contains(x) && *to == DType::I16,
            _ => false,
        }
    }

    /// Whether the second block can be loaded before the first is stored: each is only stored where it was loaded.
    fn apart(&self, index: Index, body: &[Stmt]) -> bool {
        let (mut loads, mut stores): (Vec<&Address>, Vec<&Address>) = (vec![], vec![]);
        for stmt in body {
            match stmt {
                Stmt::Let(_, Expr::Load(address)) => loads.push(address),
                Stmt::Store(address, _) => stores.push(address),
                _ => {}
            }
        }
        let alone = |s: &Address| stores.iter().filter(|o| o.param == s.param).count() == 1;
        let moves = |s: &Address| s.terms.iter().any(|t| t.0 == index && t.1.unsigned_abs() >= LANES as u64);
        stores.iter().all(|s| {
            let mut met = loads.iter().filter(|l| (self.around.may_alias)(l.param, s.param));
            alone(s) && met.all(|l| moves(s) && l.terms == s.terms && l.offset == s.offset)
        })
    }

    /// Writes a body that suits for both blocks of a turn.
    pub(super) fn twin(&mut self, body: &[Stmt]) -> Result<Vec<Extreme>> {
        let mut twin = Twin { select: self, values: BTreeMap::new(), extremes: vec![] };
        body.iter().try_for_each(|stmt| twin.stmt(stmt))?;
        Ok(twin.extremes)
    }

    /// Behind the loop: what was folded for both blocks.
    pub(super) fn fold_twins(&mut self, extremes: Vec<Extreme>) -> Result {
        for Extreme { both, one, op } in extremes {
            let upper = Code::EVEX_Vextracti64x4_ymmm256_k1z_zmm_imm8;
            let second = self.def_imm(upper, Width::Y, &[z(both)], 1);
            let code = codes::binary(op, DType::I16).ok_or("an operation that does not exist")?;
            for part in [both, second] {
                self.inst(Inst::new(code, [y(one), y(one), y(part)]));
            }
        }
        Ok(())
    }

    /// A vector with its lower half in both halves.
    fn doubled(&mut self, reg: Reg) -> Reg {
        if let Some(&doubled) = self.doubled.get(&reg) {
            return doubled;
        }
        let doubled = self.parts(reg, LOWER);
        self.doubled.insert(reg, doubled);
        doubled
    }

    /// A block of 32-bit numbers or pairs, the same for both blocks.
    fn spread(&mut self, reg: Reg) -> [Reg; 2] {
        if let Some(&spread) = self.spread.get(&reg) {
            return spread;
        }
        let spread = PARTS.map(|parts| self.parts(reg, parts));
        self.spread.insert(reg, spread);
        spread
    }

    fn parts(&mut self, reg: Reg, parts: u8) -> Reg {
        let code = Code::EVEX_Vshufi32x4_zmm_k1z_zmm_zmmm512b32_imm8;
        self.def_at(self.depth_of(reg), code, Width::Z, &[z(reg), z(reg)], Some(parts))
    }

    /// Whether all lanes, or pairs, of a value are known to be the same.
    fn is_uniform(&self, value: Value) -> bool {
        match self.around.definitions.get(&value) {
            Some(Expr::ConstLanes(_, lanes)) => lanes.iter().all(|l| *l == lanes[0]),
            Some(Expr::Splat(dtype, _)) => *dtype == DType::I32,
            Some(Expr::SplatPair(..)) => true,
            _ => false,
        }
    }
}

impl Twin<'_, '_> {
    fn stmt(&mut self, stmt: &Stmt) -> Result {
        match stmt {
            Stmt::Let(_, Expr::ConstInt(_)) => Ok(()),
            Stmt::Let(value, expr) => {
                let both = self.expr(*value, expr)?;
                self.values.insert(*value, both);
                Ok(())
            }
            Stmt::Store(address, value) => self.store(address, *value),
            _ => self.fold(stmt),
        }
    }

    fn expr(&mut self, value: Value, expr: &Expr) -> Result<Both> {
        let dtype = self.select.dtype(value)?;
        Ok(match expr {
            Expr::Load(address) => return self.load(address, dtype),
            Expr::Pair(a, b) => {
                let [a, b] = [z(self.one(*a)?), z(self.one(*b)?)];
                let codes =
                    [Code::EVEX_Vpunpcklwd_zmm_k1z_zmm_zmmm512, Code::EVEX_Vpunpckhwd_zmm_k1z_zmm_zmmm512];
                Both::Two(codes.map(|code| self.select.def(code, Width::Z, &[a, b])))
            }
            Expr::Dot2(a, b) => {
                let (a, b) = (self.two(*a)?, self.two(*b)?);
                let alone = self.select.uses.reads(value) == 1;
                if alone { Both::Products(a, b) } else { Both::Two(self.sum(None, a, b)) }
            }
            Expr::Binary(op, a, b) => return self.binary(*op, *a, *b, dtype),
            Expr::Shift(shift, x, by) => return self.shift(*shift, *x, *by, dtype),
            Expr::NarrowSat(DType::I16, x) => {
                let two = self.two(*x)?.map(z);
                Both::One(self.select.def(Code::EVEX_Vpackssdw_zmm_k1z_zmm_zmmm512b32, Width::Z, &two))
            }
            Expr::NarrowSat(to, x) => Both::One(self.narrow(*to, *x)?),
            Expr::Widen(_, x) => {
                let code = match self.select.dtype(*x)? {
                    DType::U8 => Code::EVEX_Vpmovzxbw_zmm_k1z_ymmm256,
                    _ => Code::EVEX_Vpmovsxbw_zmm_k1z_ymmm256,
                };
                let x = self.one(*x)?;
                Both::One(self.select.def(code, Width::Z, &[y(x)]))
            }
            Expr::Random { key, block } => Both::One(self.select.random_numbers(*key, &block.0, block.1)?),
            _ => return Err("an expression that two blocks do not have".into()),
        })
    }

    // Operands.

    fn one(&mut self, value: Value) -> Result<Reg> {
        match self.values.get(&value) {
            Some(Both::One(reg)) => Ok(*reg),
            Some(_) => Err("32-bit numbers where 16-bit ones belong".into()),
            None => {
                let reg = self.select.lanes(value)?;
                Ok(if self.select.is_uniform(value) { reg } else { self.select.doubled(reg) })
            }
        }
    }

    fn two(&mut self, value: Value) -> Result<[Reg; 2]> {
        match self.values.get(&value) {
            Some(Both::Two(two)) => Ok(*two),
            Some(&Both::Products(a, b)) => Ok(self.sum(None, a, b)),
            Some(Both::One(_)) => Err("16-bit numbers where 32-bit ones belong".into()),
            None => {
                let reg = self.select.lanes(value)?;
                Ok(if self.select.is_uniform(value) { [reg; 2] } else { self.select.spread(reg) })
            }
        }
    }

    fn sum(&mut self, start: Option<[Reg; 2]>, a: [Reg; 2], b: [Reg; 2]) -> [Reg; 2] {
        [0, 1].map(|i| self.select.sum_products(start.map(|s| s[i]), &[(a[i], b[i])]))
    }

    // Operations.

    fn binary(&mut self, op: Binary, a: Value, b: Value, dtype: DType) -> Result<Both> {
        let code = binary(op, dtype).ok_or("an operation that does not exist")?;
        let of = |s: &mut Self, a, b| s.select.def(code, Width::Z, &[z(a), z(b)]);
        if dtype == DType::I16 {
            let (a, b) = (self.one(a)?, self.one(b)?);
            return Ok(Both::One(of(self, a, b)));
        }
        if op == Binary::Add {
            for (x, start) in [(a, b), (b, a)] {
                if let Some(&Both::Products(p, q)) = self.values.get(&x) {
                    let start = self.two(start)?;
                    return Ok(Both::Two(self.sum(Some(start), p, q)));
                }
            }
        }
        let (a, b) = (self.two(a)?, self.two(b)?);
        Ok(Both::Two([0, 1].map(|i| of(self, a[i], b[i]))))
    }

    fn shift(&mut self, shift: Shift, x: Value, by: Amount, dtype: DType) -> Result<Both> {
        match by {
            Amount::Imm(k) if dtype == DType::I16 => {
                let x = self.one(x)?;
                Ok(Both::One(self.select.def_imm(codes::shift_words(shift), Width::Z, &[z(x)], k)))
            }
            Amount::Imm(k) => {
                let code = codes::shift_by_constant(shift, dtype);
                Ok(Both::Two(self.two(x)?.map(|x| self.select.def_imm(code, Width::Z, &[z(x)], k))))
            }
            Amount::Value(k) => {
                let count = self.select.derive(k, Derived::Splat(DType::I32));
                let code = codes::shift_by_lanes(shift, DType::I32);
                Ok(Both::Two(self.two(x)?.map(|x| self.select.def(code, Width::Z, &[z(x), z(count)]))))
            }
        }
    }

    fn narrow(&mut self, to: DType, x: Value) -> Result<Reg> {
        let mut reg = self.one(x)?;
        if to == DType::I8 {
            return Ok(self.select.def(Code::EVEX_Vpmovswb_ymmm256_k1z_zmm, Width::Y, &[z(reg)]));
        }
        if self.select.around.ranges[x.0 as usize].lo < 0 {
            let zero = self.select.constant(DType::I16, &[0; LANES]);
            reg = self.select.def(Code::EVEX_Vpmaxsw_zmm_k1z_zmm_zmmm512, Width::Z, &[z(reg), z(zero)]);
        }
        Ok(self.select.def(Code::EVEX_Vpmovuswb_ymmm256_k1z_zmm, Width::Y, &[z(reg)]))
    }

    fn fold(&mut self, stmt: &Stmt) -> Result {
        let (address, fold, value) = folding(stmt).ok_or("not a folding")?;
        let op = if fold == Fold::Max { Binary::Max } else { Binary::Min };
        let one = self.select.held_extreme(address, fold).ok_or("an extreme that is not held")?;
        let x = self.one(value)?;
        let both = match self.extremes.iter().find(|e| e.one == one) {
            Some(extreme) => extreme.both,
            None => {
                // In front of the loop; the lower half alone would do.
                let depth = self.select.here() - 1;
                let both = self.select.new_reg(Class::Vector, depth);
                let copy = Code::EVEX_Vshufi32x4_zmm_k1z_zmm_zmmm512b32_imm8;
                let copy = Inst { immediate: Some(LOWER), ..Inst::new(copy, [z(both), z(one), z(one)]) };
                self.select.push_at(depth, Node::Inst(copy));
                self.extremes.push(Extreme { both, one, op });
                both
            }
        };
        let code = binary(op, DType::I16).ok_or("an operation that does not exist")?;
        self.select.inst(Inst::new(code, [z(both), z(both), z(x)]));
        Ok(())
    }

    // Memory.

    /// The places of both blocks, and whether the second follows the first.
    fn places(&mut self, address: &Address) -> Result<([Operand; 2], bool)> {
        let mut place = |copy| {
            if let Some(level) = self.select.levels.last_mut() {
                level.copy = copy;
            }
            let place = self.select.address(address)?;
            self.select.prefetch(address, place);
            Ok::<_, String>(place)
        };
        let places = [1, 0].map(&mut place);
        let [second, first] = places;
        let (first, second) = (first?, second?);
        let block = self.select.around.kernel.params[address.param.0 as usize].dtype.bytes() * LANES;
        let follows = match (first, second) {
            (Operand::Memory(a, from), Operand::Memory(b, to)) => a == b && to - from == block as i64,
            _ => false,
        };
        Ok(([first, second], follows))
    }

    fn load(&mut self, address: &Address, dtype: DType) -> Result<Both> {
        let ([first, second], follows) = self.places(address)?;
        let (block, both, insert) = shapes(dtype, false);
        Ok(Both::One(if follows {
            self.select.def(codes::load(both), both, &[first])
        } else {
            let low = self.select.def(codes::load(block), block, &[first]);
            self.select.def_imm(insert, both, &[Operand::Reg(low, both), second], 1)
        }))
    }

    fn store(&mut self, address: &Address, value: Value) -> Result {
        let dtype = self.select.dtype(value)?;
        let reg = self.one(value)?;
        let ([first, second], follows) = self.places(address)?;
        let (block, both, extract) = shapes(dtype, true);
        if follows {
            self.select.inst(Inst::new(codes::store(both), [first, Operand::Reg(reg, both)]));
            return Ok(());
        }
        self.select.inst(Inst::new(codes::store(block), [first, Operand::Reg(reg, block)]));
        let upper = Inst::new(extract, [second, Operand::Reg(reg, both)]);
        self.select.inst(Inst { immediate: Some(1), ..upper });
        Ok(())
    }
}

/// The widths of one block and of both, and how the second comes from memory, or goes there.
fn shapes(dtype: DType, store: bool) -> (Width, Width, Code) {
    match (dtype, store) {
        (DType::I16, false) => (Width::Y, Width::Z, Code::EVEX_Vinserti64x4_zmm_k1z_zmm_ymmm256_imm8),
        (DType::I16, true) => (Width::Y, Width::Z, Code::EVEX_Vextracti64x4_ymmm256_k1z_zmm_imm8),
        (_, false) => (Width::X, Width::Y, Code::EVEX_Vinserti32x4_ymm_k1z_ymm_xmmm128_imm8),
        (_, true) => (Width::X, Width::Y, Code::EVEX_Vextracti32x4_xmmm128_k1z_ymm_imm8),
    }
}

/// Operations on whole vectors of 16-bit and of 32-bit numbers.
fn binary(op: Binary, dtype: DType) -> Option<Code> {
    match (dtype, op) {
        (DType::I32, _) | (DType::I16, Binary::And | Binary::Or | Binary::Xor) => {
            codes::binary(op, DType::I32)
        }
        (DType::I16, _) => codes::binary_words(op),
        _ => None,
    }
}
