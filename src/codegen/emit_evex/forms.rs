//! The forms that a value takes until somebody reads it, and their change into others.

use super::asm::Result;
use super::codes;
use super::select::{Comparison, Select, Val, y, z};
use super::vcode::{Class, Inst, Operand, Reg, Width};
use crate::kernel::{DType, Expr, LANES, Type, Value};
use iced_x86::Code;

impl Select<'_> {
    pub(super) fn dtype(&self, value: Value) -> Result<DType> {
        match self.around.kernel.values[value.0 as usize] {
            Type::Lanes(dtype) => Ok(dtype),
            Type::Pairs => Ok(DType::I32),
            Type::Int | Type::Dyadic => Err("a scalar".into()),
        }
    }

    pub(super) fn val(&mut self, value: Value) -> Result<Val> {
        match self.values.get(&value) {
            Some(&Val::Comparison(comparison)) => {
                let val = Val::Mask(self.compare(comparison, None));
                self.values.insert(value, val.clone());
                Ok(val)
            }
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
            Val::Comparison(_) => return Err("a comparison that has been asked for is a mask".into()),
            Val::Words(_) => return Err("a load that was widened for pairs only".into()),
            Val::Pair(halves) => match halves {
                [Some(low), Some(high)] => {
                    let high = self.rotated(high);
                    let depth = self.depth_of(low).max(self.depth_of(high));
                    let or = Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32;
                    self.def_at(depth, or, Width::Z, &[z(low), z(high)], None)
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
    pub(super) fn sum_products(&mut self, start: Option<Reg>, products: &[(Reg, Reg)]) -> Reg {
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
    pub(super) fn extended(&mut self, value: Value) -> Result<Option<Reg>> {
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
        let words = self.def_at(self.depth_of(reg), code, Width::Z, &[y(reg)], None);
        self.words.insert(reg, words);
        Ok(Some(words))
    }

    /// Pairs with their halves exchanged.
    pub(super) fn rotated(&mut self, reg: Reg) -> Reg {
        if let Some(&rotated) = self.rotated.get(&reg) {
            return rotated;
        }
        let code = Code::EVEX_Vprold_zmm_k1z_zmmm512b32_imm8;
        let rotated = self.def_at(self.depth_of(reg), code, Width::Z, &[z(reg)], Some(16));
        self.rotated.insert(reg, rotated);
        rotated
    }

    /// A comparison, among the lanes of a mask if there is one.
    pub(super) fn compare(&mut self, comparison: Comparison, mask: Option<Reg>) -> Reg {
        let Comparison { code, operands: [a, b], condition } = comparison;
        let to = self.new_reg(Class::Mask, self.here());
        let compare = Inst::new(code, [Operand::Reg(to, Width::Mask), a, b]);
        self.inst(Inst { immediate: Some(condition), mask, ..compare });
        to
    }

    pub(super) fn mask(&mut self, value: Value) -> Result<Reg> {
        if let Val::Mask(mask) = self.val(value)? {
            return Ok(mask);
        }
        let dtype = self.dtype(value)?;
        let lanes = Operand::Reg(self.lanes(value)?, codes::width(dtype));
        Ok(self.def(codes::lanes_to_mask(dtype), Width::Mask, &[lanes]))
    }
}
