//! Expressions on 16 lanes: one instruction, or a few.

use super::asm::Result;
use super::codes;
use super::select::{Comparison, Derived, Select, Val};
use super::vcode::{Class, Inst, Operand, Reg, Width};
use crate::kernel::{Address, Amount, Binary, Cond, DType, Expr, LANES, Shift, Unary, Value};
use iced_x86::Code;

impl Select<'_> {
    pub(super) fn expr(&mut self, value: Value, expr: &Expr) -> Result<Val> {
        let dtype = self.dtype(value)?;
        let width = codes::width(dtype);
        let operand = |reg| Operand::Reg(reg, width);
        Ok(Val::Lanes(match expr {
            Expr::Load(address) => return self.load(value, address, dtype),
            Expr::LoadPairs(address) => {
                let from = self.address(address)?;
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
                let code = codes::compare(of);
                return Ok(Val::Comparison(Comparison { code, operands: [a, b], condition }));
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

    /// Loads lanes in the form that all who read them want.
    fn load(&mut self, value: Value, address: &Address, dtype: DType) -> Result<Val> {
        let from = self.address(address)?;
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

    pub(super) fn widen(&mut self, to: DType, x: Value) -> Result<Val> {
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
        // Lanes of −1 stay that in all types with a sign, and saturate to 0 without.
        if let (val @ Val::Mask(_), true) = (self.val(x)?, to != DType::U8) {
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
        if op == Binary::And {
            for (mask, x) in [(a, b), (b, a)] {
                let masks = matches!(self.values.get(&mask), Some(Val::Mask(_) | Val::Comparison(_)));
                if let (true, Some(Val::Comparison(comparison))) = (masks, self.values.get(&x)) {
                    let comparison = *comparison;
                    let mask = self.mask(mask)?;
                    return Ok(Val::Mask(self.compare(comparison, Some(mask))));
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
        let half = match by {
            Amount::Imm(k) => self.constant(dtype, &[1 << (k - 1); LANES]),
            Amount::Value(v) => self.derive(v, Derived::Half(dtype)),
        };
        let sum = self.def(op(Binary::Add)?, width, &[operand(reg), operand(half)]);
        if self.around.ranges[x.0 as usize].lo >= 0 {
            return Ok(sum);
        }
        let sign = match by {
            Amount::Value(v) if self.around.ranges[v.0 as usize].lo == 0 => {
                let count = self.derive(v, Derived::Sign(dtype));
                let right = codes::shift_by_lanes(Shift::RightLogical, dtype);
                self.def(right, width, &[operand(reg), operand(count)])
            }
            _ => {
                let right = codes::shift_by_constant(Shift::RightLogical, dtype);
                self.def_imm(right, width, &[operand(reg)], 8 * dtype.bytes() as u8 - 1)
            }
        };
        Ok(self.def(op(Binary::Sub)?, width, &[operand(sum), operand(sign)]))
    }
}
