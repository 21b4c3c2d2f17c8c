//! Random bits, 32 numbers at a time where a loop is written twice.

use super::super::emit_clif::RANDOM_STRIDE;
use super::asm::Result;
use super::region::Capture;
use super::select::{Derived, Select, z};
use super::vcode::{Class, Inst, Node, Operand, Reg, ScalarOp, Width};
use crate::kernel::{DType, Index, LANES, Value};
use iced_x86::Code;

impl Select<'_> {
    /// `fqt_runtime::random::block`; in a loop that is written twice, both blocks at once.
    pub(super) fn random(
        &mut self,
        value: Value,
        key: Value,
        terms: &[(Index, i64)],
        offset: i64,
    ) -> Result<Reg> {
        if let Some(second) = self.second_random.remove(&value) {
            return Ok(second);
        }
        let x = self.random_numbers(key, terms, offset)?;
        if self.levels.last().is_some_and(|l| l.copies == 2) {
            let code = Code::EVEX_Vextracti64x4_ymmm256_k1z_zmm_imm8;
            let second = self.def_imm(code, Width::Y, &[z(x)], 1);
            self.second_random.insert(value, second);
        }
        Ok(x)
    }

    /// The numbers of this block, and in a loop that is written twice of the next one behind them.
    pub(super) fn random_numbers(&mut self, key: Value, terms: &[(Index, i64)], offset: i64) -> Result<Reg> {
        let (outer, inner) = self.split(terms);
        let of_block = |blocks: i64| blocks.wrapping_mul(RANDOM_STRIDE) as i32 as i64;
        let start = self.context_pointer(Capture::Position(outer));
        let (pointer, _) = self.run_along(start, &inner, of_block)?;
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
        let position = self.position(pointer);
        let x = self.def(add, Width::Z, &[z(position), z(keyed)]);
        let x = self.mix(x, 16, None);
        let x = self.times(x, 0x7FEB_352D);
        let high = self.derive(key, Derived::High);
        let x = self.mix(x, 15, Some(high));
        let x = self.times(x, 0x846C_A68Bu32 as i32);
        Ok(self.mix(x, 16, None))
    }

    /// A position in all lanes: random numbers of several streams share it.
    fn position(&mut self, pointer: usize) -> Reg {
        if let Some(&position) = self.positions.get(&pointer) {
            return position;
        }
        self.push_at(self.here(), Node::Scalar(ScalarOp::Position(pointer)));
        let broadcast = Code::EVEX_Vpbroadcastd_zmm_k1z_r32;
        let position = self.def(broadcast, Width::Z, &[Operand::Scalar]);
        self.positions.insert(pointer, position);
        position
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
