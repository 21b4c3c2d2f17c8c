//! Instructions of one vector width, loops, and the bytes that they become.
//!
//! Vector registers are numbers here; the width decides which instruction and which name of the register is meant.
//! Tiles are one more width: what is at a place is then as many rows as the register has, a stride apart.

use super::super::shape::Signs;
use crate::targets::Wide;
use iced_x86::code_asm::{AsmMemoryOperand, AsmRegister64, CodeAssembler, CodeLabel, gpr64, qword_ptr};
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};

/// A vector register by its number.
pub(super) type Vector = usize;

/// Something in memory: a base register and a displacement in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) base: AsmRegister64,
    pub(super) at: i64,
}

/// What `emit` functions return: an error is internal, such as a displacement that does not fit.
pub(super) type Result<T = ()> = std::result::Result<T, String>;

/// Bytes below the stack pointer that a leaf may use without moving it.
const RED_ZONE: usize = 128;

/// The instructions of one width.
pub(super) struct Codes {
    pub(super) first: Register,
    pub(super) load: Code,
    pub(super) store: Code,
    pub(super) copy: Code,
    pub(super) broadcast: Code,
    pub(super) zero: Code,
    dot_bytes: Code,
    dot_words: Code,
}

/// 256 bits, in the encoding that knows 16 registers.
const YMM: Codes = Codes {
    first: Register::YMM0,
    load: Code::VEX_Vmovdqu_ymm_ymmm256,
    store: Code::VEX_Vmovdqu_ymmm256_ymm,
    copy: Code::VEX_Vmovdqa_ymm_ymmm256,
    broadcast: Code::VEX_Vpbroadcastd_ymm_xmmm32,
    zero: Code::VEX_Vpxor_ymm_ymm_ymmm256,
    dot_bytes: Code::VEX_Vpdpbusd_ymm_ymm_ymmm256,
    dot_words: Code::VEX_Vpdpwssd_ymm_ymm_ymmm256,
};

/// 512 bits.
const ZMM: Codes = Codes {
    first: Register::ZMM0,
    load: Code::EVEX_Vmovdqu32_zmm_k1z_zmmm512,
    store: Code::EVEX_Vmovdqu32_zmmm512_k1z_zmm,
    copy: Code::EVEX_Vmovdqa32_zmm_k1z_zmmm512,
    broadcast: Code::EVEX_Vpbroadcastd_zmm_k1z_xmmm32,
    zero: Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
    dot_bytes: Code::EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32,
    dot_words: Code::EVEX_Vpdpwssd_zmm_k1z_zmm_zmmm512b32,
};

/// Matrices of bytes. They are not copied, and their products are told apart by signs.
const TILES: Codes = Codes {
    first: Register::TMM0,
    load: Code::VEX_Tileloadd_tmm_sibmem,
    store: Code::VEX_Tilestored_sibmem_tmm,
    copy: Code::INVALID,
    broadcast: Code::VEX_Tileloadd_tmm_sibmem,
    zero: Code::VEX_Tilezero_tmm,
    dot_bytes: Code::INVALID,
    dot_words: Code::INVALID,
};

/// Bytes between the rows of a tile at a base register, and the register that holds this number.
pub(super) type Stride = (AsmRegister64, AsmRegister64, i64);

/// A leaf function that is being written.
pub(super) struct Asm {
    code: CodeAssembler,
    codes: &'static Codes,
    /// Of tiles.
    strides: Vec<Stride>,
    /// Counters in use below the stack pointer.
    slots: usize,
}

pub(super) fn failed(error: IcedError) -> String {
    error.to_string()
}

impl Codes {
    pub(super) fn of(wide: &Wide) -> &'static Codes {
        if wide.bytes == 64 { &ZMM } else { &YMM }
    }
}

impl Asm {
    pub(super) fn new(wide: &Wide) -> Result<Asm> {
        let codes = Codes::of(wide);
        let code = CodeAssembler::new(64).map_err(failed)?;
        Ok(Asm { code, codes, strides: vec![], slots: 0 })
    }

    /// A function that computes in tiles, whose shapes its caller has set.
    pub(super) fn tiles(strides: Vec<Stride>) -> Result<Asm> {
        let mut code = CodeAssembler::new(64).map_err(failed)?;
        for &(_, register, stride) in &strides {
            code.mov(register, stride).map_err(failed)?;
        }
        Ok(Asm { code, codes: &TILES, strides, slots: 0 })
    }

    /// Whether the registers are tiles.
    pub(super) fn has_tiles(&self) -> bool {
        !self.strides.is_empty()
    }

    /// Returns, and gives the bytes of the function.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        if !self.has_tiles() {
            self.code.vzeroupper().map_err(failed)?;
        }
        self.code.ret().map_err(failed)?;
        self.code.assemble(0).map_err(failed)
    }

    fn push(&mut self, instruction: std::result::Result<Instruction, IcedError>) -> Result {
        self.code.add_instruction(instruction.map_err(failed)?).map_err(failed)
    }

    fn name(&self, v: Vector) -> Register {
        self.codes.first + v as u32
    }

    fn memory(place: Place) -> Result<MemoryOperand> {
        match i32::try_from(place.at) {
            Ok(_) => Ok(MemoryOperand::with_base_displ(place.base.into(), place.at)),
            Err(_) => Err(format!("a displacement of {} bytes", place.at)),
        }
    }

    /// What a register holds in memory.
    fn held(&self, place: Place) -> Result<MemoryOperand> {
        let mut operand = Asm::memory(place)?;
        if let Some((_, stride, _)) = self.strides.iter().find(|s| s.0 == place.base) {
            operand.index = (*stride).into();
        }
        Ok(operand)
    }

    pub(super) fn load(&mut self, to: Vector, from: Place) -> Result {
        self.push(Instruction::with2(self.codes.load, self.name(to), self.held(from)?))
    }

    pub(super) fn store(&mut self, to: Place, from: Vector) -> Result {
        self.push(Instruction::with2(self.codes.store, self.held(to)?, self.name(from)))
    }

    pub(super) fn copy(&mut self, to: Vector, from: Vector) -> Result {
        self.push(Instruction::with2(self.codes.copy, self.name(to), self.name(from)))
    }

    pub(super) fn zero(&mut self, to: Vector) -> Result {
        let to = self.name(to);
        if self.has_tiles() {
            return self.push(Instruction::with1(self.codes.zero, to));
        }
        self.push(Instruction::with3(self.codes.zero, to, to, to))
    }

    /// Four bytes of memory in all lanes; a tile as it is.
    pub(super) fn broadcast(&mut self, to: Vector, from: Place) -> Result {
        self.push(Instruction::with2(self.codes.broadcast, self.name(to), self.held(from)?))
    }

    /// Asks for a line of memory.
    pub(super) fn prefetch(&mut self, place: Place) -> Result {
        self.push(Instruction::with1(Code::Prefetcht1_m8, Asm::memory(place)?))
    }

    /// `sum += unsigned·signed`, four bytes a lane.
    pub(super) fn dot_bytes(&mut self, sum: Vector, unsigned: Vector, signed: Vector) -> Result {
        let [sum, unsigned, signed] = [sum, unsigned, signed].map(|v| self.name(v));
        self.push(Instruction::with3(self.codes.dot_bytes, sum, unsigned, signed))
    }

    /// `sum += a·b` of tiles, one of bytes without a sign.
    pub(super) fn dot_tiles(&mut self, sum: Vector, a: Vector, b: Vector, signs: Signs) -> Result {
        let [sum, a, b] = [sum, a, b].map(|v| self.name(v));
        let code = match signs {
            Signs::Vectors => Code::VEX_Tdpbusd_tmm_tmm_tmm,
            Signs::Points => Code::VEX_Tdpbsud_tmm_tmm_tmm,
        };
        self.push(Instruction::with3(code, sum, a, b))
    }

    /// `sum += a·b`, two signed 16-bit numbers a lane.
    pub(super) fn dot_words(&mut self, sum: Vector, a: Vector, b: Vector) -> Result {
        let [sum, a, b] = [sum, a, b].map(|v| self.name(v));
        self.push(Instruction::with3(self.codes.dot_words, sum, a, b))
    }

    /// `register += by`.
    pub(super) fn advance(&mut self, register: AsmRegister64, by: i64) -> Result {
        match i32::try_from(by) {
            Ok(0) => Ok(()),
            Ok(by) => self.code.add(register, by).map_err(failed),
            Err(_) => Err(format!("a step of {by} bytes")),
        }
    }

    /// Begins a loop of `n` turns. Loops nest, and are closed in reverse order.
    pub(super) fn open(&mut self, n: usize) -> Result<Turns> {
        if n == 1 {
            return Ok(Turns(None));
        }
        self.slots += 1;
        let slot = 8 * self.slots;
        if slot > RED_ZONE {
            return Err("loops that are nested too deep".into());
        }
        let counter = qword_ptr(gpr64::rsp - slot as i32);
        self.code.mov(counter, n as i32).map_err(failed)?;
        let mut head = self.code.create_label();
        self.code.set_label(&mut head).map_err(failed)?;
        Ok(Turns(Some((head, counter))))
    }

    /// Ends a turn: the registers advance, and stay where the last turn leaves them.
    pub(super) fn close(&mut self, turns: Turns, steps: &[(AsmRegister64, i64)]) -> Result {
        steps.iter().try_for_each(|&(register, by)| self.advance(register, by))?;
        if let Turns(Some((head, counter))) = turns {
            self.code.dec(counter).map_err(failed)?;
            self.code.jne(head).map_err(failed)?;
            self.slots -= 1;
        }
        Ok(())
    }
}

/// An open loop: where it begins and what counts it; nothing for a single turn.
pub(super) struct Turns(Option<(CodeLabel, AsmMemoryOperand)>);
