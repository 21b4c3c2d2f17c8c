//! Reads emitted x86-64 code back and counts its instructions: the proof that a step computes without floats.
//!
//! The reader follows the control flow from a function's first byte. Every byte must turn out to be part of one
//! instruction, of a constant that an instruction reads, or zero padding in front of constants; anything else is an
//! error, so nothing can hide. An instruction on vector registers counts as float unless it is known to be an integer
//! operation or to only move or combine bits: a new instruction is float until somebody has looked at it.

use super::emit_clif::Emitted;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

/// What a function is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Instructions.
    pub instructions: usize,
    /// Instructions that compute with, convert or compare floating-point numbers, by mnemonic.
    pub float: Vec<String>,
    /// Bytes of constants, with their padding.
    pub constant_bytes: usize,
}

impl Count {
    /// Adds another function's counts.
    pub fn add(&mut self, other: Count) {
        self.instructions += other.instructions;
        self.float.extend(other.float);
        self.constant_bytes += other.constant_bytes;
    }
}

/// What a byte has turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Byte {
    Unknown,
    First,
    Inside,
    Constant,
}

/// Counts a function's instructions, or says which byte is not accounted for.
pub fn audit(function: &Emitted) -> Result<Count, String> {
    let mut reader =
        Reader { function, bytes: vec![Byte::Unknown; function.bytes.len()], count: Count::default() };
    let mut pending = vec![0];
    while let Some(at) = pending.pop() {
        reader.follow(at, &mut pending)?;
    }
    reader.finish()
}

struct Reader<'a> {
    function: &'a Emitted,
    bytes: Vec<Byte>,
    count: Count,
}

impl Reader<'_> {
    fn error<T>(&self, at: usize, what: &str) -> Result<T, String> {
        Err(format!("{} at byte {at}: {what}", self.function.name))
    }

    /// Reads straight on from `at` until the flow ends or meets known code; branch targets go to `pending`.
    fn follow(&mut self, mut at: usize, pending: &mut Vec<usize>) -> Result<(), String> {
        loop {
            match self.bytes.get(at) {
                None => return self.error(at, "the flow leaves the function"),
                Some(Byte::First) => return Ok(()),
                Some(Byte::Inside | Byte::Constant) => {
                    return self.error(at, "a jump into an instruction or constant");
                }
                Some(Byte::Unknown) => {}
            }
            let instruction = self.decode(at)?;
            let end = at + instruction.len();
            self.mark(at, 1, Byte::First)?;
            self.mark(at + 1, end - at - 1, Byte::Inside)?;
            self.read_constant(&instruction, at)?;
            self.count.instructions += 1;
            if is_float(&instruction) {
                self.count.float.push(format!("{:?}", instruction.mnemonic()).to_lowercase());
            }
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {}
                FlowControl::ConditionalBranch => pending.push(instruction.near_branch_target() as usize),
                FlowControl::UnconditionalBranch => {
                    pending.push(instruction.near_branch_target() as usize);
                    return Ok(());
                }
                FlowControl::Return | FlowControl::Exception => return Ok(()),
                _ => return self.error(at, "a jump whose target is not in the code"),
            }
            at = end;
        }
    }

    fn decode(&self, at: usize) -> Result<Instruction, String> {
        let code = &self.function.bytes[at..];
        let instruction = Decoder::with_ip(64, code, at as u64, DecoderOptions::NONE).decode();
        if instruction.is_invalid() { self.error(at, "not an instruction") } else { Ok(instruction) }
    }

    fn mark(&mut self, at: usize, len: usize, what: Byte) -> Result<(), String> {
        for i in at..at + len {
            match self.bytes.get_mut(i) {
                Some(byte) if *byte == Byte::Unknown || (*byte == what && what == Byte::Constant) => {
                    *byte = what
                }
                _ => {
                    return self
                        .error(i, "instructions and constants overlap or end outside of the function");
                }
            }
        }
        Ok(())
    }

    /// Marks what the instruction reads from behind the code. A relocated operand lies elsewhere.
    fn read_constant(&mut self, instruction: &Instruction, at: usize) -> Result<(), String> {
        let relocated = |&r: &u32| (at..at + instruction.len()).contains(&(r as usize));
        if !instruction.is_ip_rel_memory_operand() || self.function.relocations.iter().any(relocated) {
            return Ok(());
        }
        let target = instruction.ip_rel_memory_address() as usize;
        self.mark(target, instruction.memory_size().size(), Byte::Constant)
    }

    fn finish(mut self) -> Result<Count, String> {
        for (at, (byte, value)) in self.bytes.iter().zip(&self.function.bytes).enumerate() {
            match byte {
                Byte::Unknown if *value != 0 => return self.error(at, "a byte that nothing runs or reads"),
                Byte::Unknown | Byte::Constant => self.count.constant_bytes += 1,
                Byte::First | Byte::Inside => {}
            }
        }
        Ok(self.count)
    }
}

/// Moves and bit operations whose names speak of floats but that look at no number, without the `v` of AVX.
const BITS_ONLY: &[&str] = &[
    "movups",
    "movaps",
    "movupd",
    "movapd",
    "movdqu",
    "movdqa",
    "movss",
    "movsd",
    "movd",
    "movq",
    "movhps",
    "movlps",
    "movhpd",
    "movlpd",
    "movhlps",
    "movlhps",
    "movddup",
    "movshdup",
    "movsldup",
    "movmskps",
    "movmskpd",
    "lddqu",
    "xorps",
    "xorpd",
    "andps",
    "andpd",
    "andnps",
    "andnpd",
    "orps",
    "orpd",
    "shufps",
    "shufpd",
    "unpcklps",
    "unpckhps",
    "unpcklpd",
    "unpckhpd",
    "insertps",
    "extractps",
    "blendps",
    "blendpd",
    "blendvps",
    "blendvpd",
    "broadcastss",
    "broadcastsd",
    "extracti128",
    "extracti32x4",
    "extracti64x4",
    "inserti128",
    "inserti32x4",
    "inserti64x4",
    "shufi32x4",
    "zeroupper",
    "movdqu8",
    "movdqu16",
    "movdqu32",
    "movdqu64",
    "movdqa32",
    "movdqa64",
    "tileloadd",
    "tilestored",
    "tilezero",
];

/// Products of tiles of bytes.
const TILES_OF_BYTES: &[&str] = &["tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud"];

fn is_float(instruction: &Instruction) -> bool {
    let x87 = |f: &CpuidFeature| matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387);
    if instruction.cpuid_features().iter().any(x87) {
        return true;
    }
    let vector = (0..instruction.op_count()).any(|op| {
        let register = instruction.op_register(op);
        instruction.op_kind(op) == OpKind::Register
            && (register.is_vector_register() || register.is_tmm() || register.is_mm() || register.is_st())
    });
    // Comparisons and conversions with general registers or masks as their results have a vector operand too.
    vector && !is_integer_vector(instruction.mnemonic())
}

/// Packed-integer instructions begin with `p`; of those that do, `pf…` and `pi2f…` are 3DNow! and compute floats.
fn is_integer_vector(mnemonic: Mnemonic) -> bool {
    let name = format!("{mnemonic:?}").to_lowercase();
    let plain = name.strip_prefix('v').unwrap_or(&name);
    let three_d_now = plain.starts_with("pf") || plain.starts_with("pi2f");
    let permutes_floats = plain.starts_with("perm") && (plain.ends_with("ps") || plain.ends_with("pd"));
    let bits = BITS_ONLY.contains(&plain) || TILES_OF_BYTES.contains(&plain);
    bits || (plain.starts_with('p') && !three_d_now) || permutes_floats
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use iced_x86::IcedError;
    use iced_x86::code_asm::*;

    fn assembled(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Emitted {
        let mut asm = CodeAssembler::new(64).unwrap();
        write(&mut asm).unwrap();
        Emitted { name: "f".into(), bytes: asm.assemble(0).unwrap(), relocations: vec![], listing: None }
    }
    #[test]
    fn arithmetic_conversion_and_comparison_of_floats_are_found() {
        let f = assembled(|a| {
            a.addps(xmm0, xmm1)?;
            a.vfmadd231ps(zmm0, zmm1, zmm2)?;
            a.cvtsi2sd(xmm0, rax)?;
            a.cvttss2si(eax, xmm3)?;
            a.ucomisd(xmm0, xmm1)?;
            a.vcmpps(k1, zmm0, zmm1, 0)?;
            a.roundss(xmm0, xmm1, 0)?;
            a.fadd_2(st0, st1)?;
            a.fld1()?;
            a.pfadd(mm0, mm1)?;
            a.tdpbf16ps(tmm0, tmm1, tmm2)?;
            a.tdpbusd(tmm0, tmm1, tmm2)?;
            a.tdpbsud(tmm0, tmm1, tmm2)?;
            a.tileloadd(tmm0, ptr(rdi + rsi))?;
            a.tilezero(tmm0)?;
            a.vpaddd(xmm0, xmm1, xmm2)?;
            a.vpdpbusd(xmm0, xmm1, xmm2)?;
            a.movups(xmm0, xmm1)?;
            a.xorps(xmm0, xmm1)?;
            a.vbroadcastss(xmm0, dword_ptr(rdi))?;
            a.imul_2(rax, rdi)?;
            a.ret()
        });
        let count = audit(&f).unwrap();
        assert_eq!(count.instructions, 22);
        assert_eq!(
            count.float,
            [
                "addps",
                "vfmadd231ps",
                "cvtsi2sd",
                "cvttss2si",
                "ucomisd",
                "vcmpps",
                "roundss",
                "fadd",
                "fld1",
                "pfadd",
                "tdpbf16ps"
            ]
        );
    }

    #[test]
    fn bytes_that_nothing_runs_are_an_error() {
        // movdqu xmm0, [rip + 8]; ret; padding; the constant that the load reads.
        let code = [0xf3, 0x0f, 0x6f, 0x05, 8, 0, 0, 0, 0xc3];
        let bytes = [&code[..], &[0; 7], &[7; 16]].concat();
        let mut f = Emitted { name: "f".into(), bytes, relocations: vec![], listing: None };
        assert_eq!(audit(&f).map(|c| (c.instructions, c.constant_bytes)), Ok((2, 7 + 16)));
        f.bytes.push(0xc3);
        assert!(audit(&f).is_err_and(|e| e.contains("nothing runs")));
        f.bytes.truncate(31);
        assert!(audit(&f).is_err_and(|e| e.contains("outside")));
    }
}
