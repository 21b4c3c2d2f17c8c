//! Instructions that cross the halves of vectors of 512 bits, where there are only the halves: lanes of other widths, parts
//! of vectors, and lanes in another order.

use super::asm::Result;
use super::narrow::{Narrow, x};
use super::select::{y, z};
use super::vcode::{Inst, Operand, Reg, Width};
use super::vex;
use iced_x86::Code;

/// How `vpermq` puts the quarters of a vector into order that a packing of two vectors leaves as 0, 2, 1, 3.
const UNPACKED: u8 = 0b11_01_10_00;
/// How `vpshuflw` and `vpshufhw` exchange neighbours.
const EXCHANGED: u8 = 0b10_11_00_01;

impl Narrow {
    // Lanes of other widths.

    pub(super) fn widen(&mut self, inst: &Inst, code: Code) -> Result {
        let [Operand::Reg(to, width), from] = inst.operands[..] else {
            return Err("a widening to memory".into());
        };
        for half in 0..=(width == Width::Z) as usize {
            if !self.is_read(to, half) {
                continue;
            }
            let from = match from {
                Operand::Reg(reg, _) if half == 1 && self.uniform.contains(&self.half(reg, 0)?) => {
                    let first = self.half(to, 0)?;
                    self.same(to, 1, first);
                    continue;
                }
                Operand::Reg(reg, of) => {
                    let low = self.half(reg, 0)?;
                    x(if half == 0 { low } else { self.upper(low, of) })
                }
                Operand::Memory(base, at) => Operand::Memory(base, at + half as i64 * vex::source(code)),
                Operand::Scalar => return Err("a widening of a scalar".into()),
            };
            self.write(code, (to, half), &[from], None);
        }
        Ok(())
    }

    /// The upper half of a register that is so wide.
    pub(super) fn upper(&mut self, reg: Reg, width: Width) -> Reg {
        match width {
            Width::X => self.new_x(Code::VEX_Vpunpckhqdq_xmm_xmm_xmmm128, &[x(reg), x(reg)], None),
            _ => self.new_x(Code::VEX_Vextracti128_xmmm128_ymm_imm8, &[y(reg)], Some(1)),
        }
    }

    /// Both halves packed into one vector.
    pub(super) fn pack(&mut self, inst: &Inst, code: Code) -> Result {
        let (to, from) = two(inst)?;
        let halves = [y(self.half(from, 0)?), y(self.half(from, 1)?)];
        let packed = self.new_y(code, &halves, None);
        self.write(Code::VEX_Vpermq_ymm_ymmm256_imm8, (to, 0), &[y(packed)], Some(UNPACKED));
        Ok(())
    }

    /// 32-bit numbers of two vectors as 16-bit numbers, saturated.
    pub(super) fn words(&mut self, halves: [Reg; 2]) -> Reg {
        let packed = self.new_y(Code::VEX_Vpackssdw_ymm_ymm_ymmm256, &halves.map(y), None);
        self.new_y(Code::VEX_Vpermq_ymm_ymmm256_imm8, &[y(packed)], Some(UNPACKED))
    }

    /// A block as bytes.
    pub(super) fn pack_bytes(&mut self, inst: &Inst) -> Result {
        let (to, from) = two(inst)?;
        let words = match inst.code {
            Code::EVEX_Vpmovsdb_xmmm128_k1z_zmm => {
                let halves = [self.half(from, 0)?, self.half(from, 1)?];
                self.words(halves)
            }
            _ => self.half(from, 0)?,
        };
        let code = match inst.code {
            Code::EVEX_Vpmovuswb_xmmm128_k1z_ymm => Code::VEX_Vpackuswb_ymm_ymm_ymmm256,
            _ => Code::VEX_Vpacksswb_ymm_ymm_ymmm256,
        };
        let upper = self.upper(words, Width::Y);
        self.write(code, (to, 0), &[y(words), y(upper)], None);
        Ok(())
    }

    // Parts of vectors.

    pub(super) fn extract(&mut self, inst: &Inst) -> Result {
        let (Operand::Reg(from, _), Some(1)) = (inst.operands[1], inst.immediate) else {
            return Err("an extraction of a lower half".into());
        };
        let upper = self.half(from, 1)?;
        match inst.operands[0] {
            Operand::Reg(to, _) => self.same(to, 0, upper),
            to => self.inst_to(Code::VEX_Vmovdqu_ymmm256_ymm, to, &[y(upper)], None),
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, inst: &Inst) -> Result {
        let ([Operand::Reg(to, _), Operand::Reg(low, _), upper], Some(1)) =
            (&inst.operands[..], inst.immediate)
        else {
            return Err("an insertion of a lower half".into());
        };
        let low = self.half(*low, 0)?;
        self.same(*to, 0, low);
        match *upper {
            Operand::Reg(upper, _) => {
                let upper = self.half(upper, 0)?;
                self.same(*to, 1, upper);
            }
            from => self.write(Code::VEX_Vmovdqu_ymm_ymmm256, (*to, 1), &[from], None),
        }
        Ok(())
    }

    /// Quarters in another order: the first two of the first operand, the others of the second.
    pub(super) fn shuffle(&mut self, inst: &Inst) -> Result {
        let ([Operand::Reg(to, _), Operand::Reg(a, _), Operand::Reg(b, _)], Some(order)) =
            (&inst.operands[..], inst.immediate)
        else {
            return Err("a shuffle of memory".into());
        };
        let mut first = None;
        for (half, from) in [*a, *b].into_iter().enumerate() {
            let quarters = [0, 1].map(|i| order >> (4 * half + 2 * i) & 3);
            match quarters {
                _ if !self.is_read(*to, half) => {}
                [0, 1] | [2, 3] => {
                    let from = self.half(from, quarters[0] as usize / 2)?;
                    self.same(*to, half, from);
                }
                _ if first == Some((quarters, from)) => {
                    let first = self.half(*to, 0)?;
                    self.same(*to, 1, first);
                }
                [low, high] => {
                    let halves = [y(self.half(from, 0)?), y(self.half(from, 1)?)];
                    let code = Code::VEX_Vperm2i128_ymm_ymm_ymmm256_imm8;
                    self.write(code, (*to, half), &halves, Some(low | high << 4));
                    first = Some((quarters, from));
                }
            }
        }
        Ok(())
    }

    /// Pairs with their halves exchanged.
    pub(super) fn exchange(&mut self, inst: &Inst) -> Result {
        let ((to, from), Some(16)) = (two(inst)?, inst.immediate) else {
            return Err("a rotation by other than half".into());
        };
        self.each_half(to, &[z(from)], |narrow, half, reads| {
            let low = narrow.new_y(Code::VEX_Vpshuflw_ymm_ymmm256_imm8, reads, Some(EXCHANGED));
            narrow.write(Code::VEX_Vpshufhw_ymm_ymmm256_imm8, (to, half), &[y(low)], Some(EXCHANGED));
        })
    }
}

/// The registers of an instruction that makes one of another.
fn two(inst: &Inst) -> Result<(Reg, Reg)> {
    match inst.operands[..] {
        [Operand::Reg(to, _), Operand::Reg(from, _)] => Ok((to, from)),
        _ => Err("operands that are not registers".into()),
    }
}
