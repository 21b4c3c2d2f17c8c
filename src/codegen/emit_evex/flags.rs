//! Masks without mask registers: lanes of 0 or −1, as wide as those that were compared.
//!
//! A mask that is applied to lanes of another width is widened or narrowed where this first happens. All is done in 256
//! bits: of masks of bytes the upper half is nobody's.

use super::asm::Result;
use super::narrow::{Narrow, x};
use super::select::y;
use super::vcode::{Inst, Operand, Reg, Width};
use iced_x86::Code;
use std::collections::BTreeMap;

/// Which lanes a mask is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lanes {
    Bytes,
    Words,
    Doubles,
}

/// The vectors of every mask, in the widths that there are so far: two for 32-bit lanes.
pub(super) type Flags = BTreeMap<(Reg, Lanes), Vec<Reg>>;

/// The instructions on lanes of one width.
struct Codes {
    equal: Code,
    greater: Code,
    least: Code,
}

const BYTES: Codes = Codes {
    equal: Code::VEX_Vpcmpeqb_ymm_ymm_ymmm256,
    greater: Code::VEX_Vpcmpgtb_ymm_ymm_ymmm256,
    least: Code::VEX_Vpminsb_ymm_ymm_ymmm256,
};

const WORDS: Codes = Codes {
    equal: Code::VEX_Vpcmpeqw_ymm_ymm_ymmm256,
    greater: Code::VEX_Vpcmpgtw_ymm_ymm_ymmm256,
    least: Code::VEX_Vpminsw_ymm_ymm_ymmm256,
};

const DOUBLES: Codes = Codes {
    equal: Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256,
    greater: Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256,
    least: Code::VEX_Vpminsd_ymm_ymm_ymmm256,
};

impl Lanes {
    fn codes(self) -> &'static Codes {
        match self {
            Lanes::Bytes => &BYTES,
            Lanes::Words => &WORDS,
            Lanes::Doubles => &DOUBLES,
        }
    }

    /// Vectors for a block.
    fn vectors(self) -> usize {
        if self == Lanes::Doubles { 2 } else { 1 }
    }
}

impl Narrow {
    /// An instruction that makes a mask or follows one.
    pub(super) fn masked(&mut self, inst: &Inst) -> Result {
        use Lanes::{Bytes, Doubles, Words};
        match inst.code {
            Code::EVEX_Vpcmpub_kr_k1_xmm_xmmm128_imm8 => self.compare(inst, Bytes, false),
            Code::EVEX_Vpcmpb_kr_k1_xmm_xmmm128_imm8 => self.compare(inst, Bytes, true),
            Code::EVEX_Vpcmpw_kr_k1_ymm_ymmm256_imm8 => self.compare(inst, Words, true),
            Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8 => self.compare(inst, Doubles, true),
            Code::VEX_Kandw_kr_kr_kr => self.combine(inst, Code::VEX_Vpand_ymm_ymm_ymmm256),
            Code::VEX_Korw_kr_kr_kr => self.combine(inst, Code::VEX_Vpor_ymm_ymm_ymmm256),
            Code::VEX_Kxorw_kr_kr_kr => self.combine(inst, Code::VEX_Vpxor_ymm_ymm_ymmm256),
            Code::EVEX_Vpmovm2b_xmm_kr => self.expand(inst, Bytes),
            Code::EVEX_Vpmovm2w_ymm_kr => self.expand(inst, Words),
            Code::EVEX_Vpmovm2d_zmm_kr => self.expand(inst, Doubles),
            Code::EVEX_Vpmovb2m_kr_xmm => self.signs(inst, Bytes),
            Code::EVEX_Vpmovw2m_kr_ymm => self.signs(inst, Words),
            Code::EVEX_Vpmovd2m_kr_zmm => self.signs(inst, Doubles),
            Code::EVEX_Vpblendmb_xmm_k1z_xmm_xmmm128 => self.blend(inst, Bytes),
            Code::EVEX_Vpblendmw_ymm_k1z_ymm_ymmm256 => self.blend(inst, Words),
            Code::EVEX_Vpblendmd_zmm_k1z_zmm_zmmm512b32 => self.blend(inst, Doubles),
            Code::EVEX_Vmovdqu8_xmm_k1z_xmmm128 => self.keep(inst, Bytes),
            Code::EVEX_Vmovdqu16_ymm_k1z_ymmm256 => self.keep(inst, Words),
            Code::EVEX_Vmovdqa32_zmm_k1z_zmmm512 => self.keep(inst, Doubles),
            code => Err(format!("{code:?} has no narrow form")),
        }
    }

    fn reg(operand: Option<&Operand>) -> Result<Reg> {
        match operand {
            Some(Operand::Reg(reg, _)) => Ok(*reg),
            _ => Err("an operand of a mask that is not a register".into()),
        }
    }

    /// The vectors of a mask for such lanes.
    fn flags(&mut self, mask: Reg, lanes: Lanes) -> Result<Vec<Reg>> {
        if let Some(known) = self.masks.get(&(mask, lanes)) {
            return Ok(known.clone());
        }
        let made = match lanes {
            Lanes::Words => {
                if let Some(&[low, high]) = self.masks.get(&(mask, Lanes::Doubles)).map(Vec::as_slice) {
                    vec![self.words([low, high])]
                } else if let Some(&[bytes]) = self.masks.get(&(mask, Lanes::Bytes)).map(Vec::as_slice) {
                    vec![self.new_y(Code::VEX_Vpmovsxbw_ymm_xmmm128, &[x(bytes)], None)]
                } else {
                    return Err("a mask without a definition".into());
                }
            }
            Lanes::Bytes => {
                let words = self.flags(mask, Lanes::Words)?[0];
                let upper = self.upper(words, Width::Y);
                vec![self.new_y(Code::VEX_Vpacksswb_ymm_ymm_ymmm256, &[y(words), y(upper)], None)]
            }
            Lanes::Doubles => {
                let words = self.flags(mask, Lanes::Words)?[0];
                let upper = self.upper(words, Width::Y);
                let widen = Code::VEX_Vpmovsxwd_ymm_xmmm128;
                [words, upper].map(|half| self.new_y(widen, &[x(half)], None)).to_vec()
            }
        };
        self.masks.insert((mask, lanes), made.clone());
        Ok(made)
    }

    fn compare(&mut self, inst: &Inst, lanes: Lanes, signed: bool) -> Result {
        let [to, a, b] = [0, 1, 2].map(|i| Narrow::reg(inst.operands.get(i)));
        let (to, a, b) = (to?, a?, b?);
        let within = inst.mask.map(|mask| self.flags(mask, lanes)).transpose()?;
        let mut made = vec![];
        for half in 0..lanes.vectors() {
            let (a, b) = (self.half(a, half)?, self.half(b, half)?);
            let flags = self.compared(a, b, lanes, signed, inst.immediate)?;
            made.push(match &within {
                Some(within) => {
                    self.new_y(Code::VEX_Vpand_ymm_ymm_ymmm256, &[y(flags), y(within[half])], None)
                }
                None => flags,
            });
        }
        self.masks.insert((to, lanes), made);
        Ok(())
    }

    /// By the condition of a comparison: 0 equal, 1 less, 2 less or equal.
    fn compared(&mut self, a: Reg, b: Reg, lanes: Lanes, signed: bool, condition: Option<u8>) -> Result<Reg> {
        let codes = lanes.codes();
        let least = if signed { codes.least } else { Code::VEX_Vpminub_ymm_ymm_ymmm256 };
        let at_most = |narrow: &mut Narrow, a, b| {
            let least = narrow.new_y(least, &[y(a), y(b)], None);
            narrow.new_y(codes.equal, &[y(a), y(least)], None)
        };
        Ok(match condition {
            Some(0) => self.new_y(codes.equal, &[y(a), y(b)], None),
            Some(1) if signed => self.new_y(codes.greater, &[y(b), y(a)], None),
            Some(1) => {
                let not = at_most(self, b, a);
                let all = self.constant_y(-1);
                self.new_y(Code::VEX_Vpxor_ymm_ymm_ymmm256, &[y(not), y(all)], None)
            }
            Some(2) => at_most(self, a, b),
            _ => return Err("another comparison".into()),
        })
    }

    fn combine(&mut self, inst: &Inst, code: Code) -> Result {
        let [to, a, b] = [0, 1, 2].map(|i| Narrow::reg(inst.operands.get(i)));
        let (to, a, b) = (to?, a?, b?);
        let all = [Lanes::Bytes, Lanes::Words, Lanes::Doubles];
        let has = |mask| all.into_iter().find(|&lanes| self.masks.contains_key(&(mask, lanes)));
        let lanes = has(a).ok_or("a mask without a definition")?;
        let (a, b) = (self.flags(a, lanes)?, self.flags(b, lanes)?);
        let made = a.into_iter().zip(b).map(|(a, b)| self.new_y(code, &[y(a), y(b)], None)).collect();
        self.masks.insert((to, lanes), made);
        Ok(())
    }

    fn expand(&mut self, inst: &Inst, lanes: Lanes) -> Result {
        let (to, mask) = (Narrow::reg(inst.operands.first())?, Narrow::reg(inst.operands.get(1))?);
        for (half, flags) in self.flags(mask, lanes)?.into_iter().enumerate() {
            self.same(to, half, flags);
        }
        Ok(())
    }

    /// Lanes that are 0 or −1 are a mask as they are.
    fn signs(&mut self, inst: &Inst, lanes: Lanes) -> Result {
        let (mask, from) = (Narrow::reg(inst.operands.first())?, Narrow::reg(inst.operands.get(1))?);
        let made = (0..lanes.vectors()).map(|half| self.lasting(from, half)).collect::<Result<_>>()?;
        self.masks.insert((mask, lanes), made);
        Ok(())
    }

    fn blend(&mut self, inst: &Inst, lanes: Lanes) -> Result {
        let [to, b, a] = [0, 1, 2].map(|i| Narrow::reg(inst.operands.get(i)));
        let (to, b, a) = (to?, b?, a?);
        let mask = self.flags(inst.mask.ok_or("a blend without a mask")?, lanes)?;
        for (half, flags) in mask.into_iter().enumerate() {
            if self.is_read(to, half) {
                let reads = [y(self.half(b, half)?), y(self.half(a, half)?), y(flags)];
                self.write(Code::VEX_Vpblendvb_ymm_ymm_ymmm256_ymm, (to, half), &reads, None);
            }
        }
        Ok(())
    }

    /// The lanes of a mask, else zeros.
    fn keep(&mut self, inst: &Inst, lanes: Lanes) -> Result {
        let (to, from) = (Narrow::reg(inst.operands.first())?, Narrow::reg(inst.operands.get(1))?);
        let mask = inst.mask.filter(|_| inst.zeroing).ok_or("a copy that keeps what was there")?;
        for (half, flags) in self.flags(mask, lanes)?.into_iter().enumerate() {
            if self.is_read(to, half) {
                let reads = [y(self.half(from, half)?), y(flags)];
                self.write(Code::VEX_Vpand_ymm_ymm_ymmm256, (to, half), &reads, None);
            }
        }
        Ok(())
    }
}
