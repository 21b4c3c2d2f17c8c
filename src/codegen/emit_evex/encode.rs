//! Vector code with registers chosen becomes bytes.
//!
//! Scalars: the context in `rdi`, `rax` as scratch, `rbp` the old stack pointer. Pointers and the counter of an
//! innermost loop have registers while there are any; all others, and vectors that wait, lie in a frame that is
//! aligned to 64 bytes. An instruction reads a vector that waits from there where it can.

use super::allocate::{Home, SCRATCH};
use super::asm::{Codes, Result, failed};
use super::vcode::{Base, Inst, Node, Operand, Pointer, Reg, ScalarOp, Vcode, Width};
use crate::targets::Wide;
use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister64, CodeAssembler, CodeLabel, dword_ptr, gpr16, gpr32, gpr64, ptr,
    qword_ptr,
    registers::{get_ymm, get_zmm},
    word_ptr,
};
use iced_x86::{IcedError, Instruction, MemoryOperand, OpCodeOperandKind, OpKind, Register};

/// Registers for pointers and counters; those from `SAVED` on belong to the caller.
const SCALARS: [AsmRegister64; 12] = [
    gpr64::rcx,
    gpr64::rdx,
    gpr64::rsi,
    gpr64::r8,
    gpr64::r9,
    gpr64::r10,
    gpr64::r11,
    gpr64::rbx,
    gpr64::r12,
    gpr64::r13,
    gpr64::r14,
    gpr64::r15,
];
const SAVED: usize = 7;

/// Where a pointer or counter lives.
#[derive(Clone, Copy, Debug)]
enum Scalar {
    Register(AsmRegister64),
    Memory(AsmMemoryOperand),
}

struct Encoder<'a> {
    code: CodeAssembler,
    codes: &'static Codes,
    /// Bytes of a vector in the frame.
    bytes: usize,
    vcode: &'a Vcode,
    homes: Vec<Home>,
    /// The first register for values that wait in the frame.
    scratch: usize,
    /// Places of vectors in the frame; scalars lie behind them.
    vectors: usize,
    /// Scalars in the frame, now and at most.
    slots: (usize, usize),
    pointers: Vec<Option<Scalar>>,
    constants: Vec<(CodeLabel, &'a [u8])>,
}

/// The bytes of a leaf `(context)`, its values at their homes with so many places in the frame, on a machine with such
/// vectors. An error is internal.
pub(super) fn encode(vcode: &Vcode, (homes, vectors): (Vec<Home>, usize), wide: &Wide) -> Result<Vec<u8>> {
    let mut encoder = Encoder {
        code: CodeAssembler::new(64).map_err(failed)?,
        codes: Codes::of(wide),
        bytes: wide.bytes,
        vcode,
        homes,
        scratch: wide.registers.saturating_sub(SCRATCH),
        vectors,
        slots: (0, 0),
        pointers: vec![None; vcode.pointers.len()],
        constants: vec![],
    };
    encoder.nodes(&vcode.nodes)?;
    let body = std::mem::replace(&mut encoder.code, CodeAssembler::new(64).map_err(failed)?);
    encoder.frame(body)
}

impl<'a> Encoder<'a> {
    /// The body between what makes and what leaves its frame, and the constants.
    fn frame(mut self, body: CodeAssembler) -> Result<Vec<u8>> {
        // Which registers are the caller's is only known after the body, and so is the size of the frame.
        let mut body = body;
        let a = &mut self.code;
        let saved = &SCALARS[SAVED..];
        let build = |a: &mut CodeAssembler, size: i32| {
            a.push(gpr64::rbp)?;
            a.mov(gpr64::rbp, gpr64::rsp)?;
            saved.iter().try_for_each(|&r| a.push(r))?;
            a.sub(gpr64::rsp, size)?;
            a.and(gpr64::rsp, -64)
        };
        let size = self.bytes * self.vectors + 8 * self.slots.1;
        build(a, size.next_multiple_of(64) as i32).map_err(failed)?;
        let end = |a: &mut CodeAssembler| {
            a.lea(gpr64::rsp, ptr(gpr64::rbp - 8 * saved.len() as i32))?;
            saved.iter().rev().try_for_each(|&r| a.pop(r))?;
            a.pop(gpr64::rbp)?;
            a.vzeroupper()?;
            a.ret()
        };
        end(&mut body).map_err(failed)?;
        for (label, bytes) in &mut self.constants {
            body.set_label(label).map_err(failed)?;
            body.db(bytes).map_err(failed)?;
        }
        let mut head = a.assemble(0).map_err(failed)?;
        let tail = body.assemble(head.len() as u64).map_err(failed)?;
        head.extend(tail);
        Ok(head)
    }

    fn nodes(&mut self, nodes: &'a [Node]) -> Result {
        nodes.iter().try_for_each(|node| match node {
            Node::Inst(inst) => self.inst(inst),
            Node::Scalar(op) => self.scalar(*op),
            Node::Constant(reg, bytes) => self.constant(*reg, bytes),
            Node::Loop { count, pointers, body } => self.turns(*count, pointers, body),
        })
    }

    // Vectors.

    fn push(&mut self, instruction: std::result::Result<Instruction, IcedError>) -> Result {
        self.code.add_instruction(instruction.map_err(failed)?).map_err(failed)
    }

    fn name(&self, number: usize) -> Register {
        self.codes.first + number as u32
    }

    fn slot(&self, place: usize) -> MemoryOperand {
        MemoryOperand::with_base_displ(Register::RSP, (self.bytes * place) as i64)
    }

    fn load(&mut self, to: usize, place: usize) -> Result {
        self.push(Instruction::with2(self.codes.load, self.name(to), self.slot(place)))
    }

    /// The register that a value is written to: its own, or one from which it is put into the frame.
    fn target(&self, reg: Reg) -> Result<(usize, Option<usize>)> {
        match self.homes[reg.0] {
            Home::Register(r) => Ok((r, None)),
            Home::Frame(place) => Ok((self.scratch + SCRATCH - 1, Some(place))),
            Home::Nowhere => Err("a value without a definition".into()),
        }
    }

    fn constant(&mut self, reg: Reg, bytes: &'a [u8]) -> Result {
        let (to, place) = self.target(reg)?;
        let name = self.name(to);
        if bytes.iter().all(|&b| b == 0) {
            self.push(Instruction::with3(self.codes.zero, name, name, name))?;
        } else {
            let a = &mut self.code;
            let label = a.create_label();
            let load = match (get_zmm(name), get_ymm(name), bytes.len()) {
                (Some(to), _, 4) => a.vpbroadcastd(to, dword_ptr(label)),
                (Some(to), _, _) => a.vmovdqu32(to, ptr(label)),
                (_, Some(to), 4) => a.vpbroadcastd(to, dword_ptr(label)),
                (_, Some(to), _) => a.vmovdqu(to, ptr(label)),
                _ => return Err("a vector of another width".into()),
            };
            load.map_err(failed)?;
            self.constants.push((label, bytes));
        }
        self.keep(to, place)
    }

    fn keep(&mut self, from: usize, place: Option<usize>) -> Result {
        let Some(place) = place else { return Ok(()) };
        self.push(Instruction::with2(self.codes.store, self.slot(place), self.name(from)))
    }

    fn inst(&mut self, inst: &Inst) -> Result {
        let mut scratch = self.scratch..self.scratch + SCRATCH - inst.tied.is_some() as usize;
        let mut read: Vec<(Reg, usize)> = vec![];
        let waits = self.waiting(inst);
        for reg in inst.reads() {
            if read.iter().any(|r| r.0 == reg) || waits == Some(reg) {
                continue;
            }
            let number = match self.homes[reg.0] {
                Home::Register(r) => r,
                Home::Frame(place) => {
                    let to = scratch.next().ok_or("an instruction that reads too much")?;
                    self.load(to, place)?;
                    to
                }
                Home::Nowhere => return Err("a value without a definition".into()),
            };
            read.push((reg, number));
        }
        let target = inst.defines().map(|reg| self.target(reg)).transpose()?;
        if let (Some((to, _)), Some(tied)) = (target, inst.tied) {
            match self.homes[tied.0] {
                Home::Register(from) if from == to => {}
                Home::Register(from) => {
                    self.push(Instruction::with2(self.codes.copy, self.name(to), self.name(from)))?;
                }
                Home::Frame(place) => self.load(to, place)?,
                Home::Nowhere => return Err("a value without a definition".into()),
            }
        }
        let number = |reg: Reg| read.iter().find(|r| r.0 == reg).map(|r| r.1);
        self.emit(inst, target.map(|t| t.0), &number)?;
        match target {
            Some((to, place)) => self.keep(to, place),
            None => Ok(()),
        }
    }

    /// What an instruction can read from the frame where it waits: an operand that may be in memory and is read once.
    fn waiting(&self, inst: &Inst) -> Option<Reg> {
        (0..).zip(&inst.operands).skip(1).find_map(|(i, operand)| {
            let Operand::Reg(reg, _) = *operand else { return None };
            let in_memory = matches!(
                inst.code.op_code().op_kind(i),
                OpCodeOperandKind::xmm_or_mem | OpCodeOperandKind::ymm_or_mem | OpCodeOperandKind::zmm_or_mem
            );
            let once = inst.reads().filter(|&r| r == reg).count() == 1;
            (in_memory && once && matches!(self.homes[reg.0], Home::Frame(_))).then_some(reg)
        })
    }

    fn emit(&mut self, inst: &Inst, target: Option<usize>, number: &dyn Fn(Reg) -> Option<usize>) -> Result {
        let mut out = Instruction::new();
        out.set_code(inst.code);
        for (i, operand) in (0..).zip(&inst.operands) {
            match (operand, target) {
                (Operand::Reg(_, width), Some(to)) if i == 0 => set_register(&mut out, i, width.register(to)),
                (Operand::Reg(reg, width), _) => match (number(*reg), self.homes[reg.0]) {
                    (Some(n), _) => set_register(&mut out, i, width.register(n)),
                    (None, Home::Frame(place)) => set_memory(&mut out, i, self.slot(place)),
                    _ => return Err("an operand that is not read".into()),
                },
                (Operand::Scalar, _) => set_register(&mut out, i, Register::EAX),
                (Operand::Memory(base, at), _) => set_memory(&mut out, i, self.memory(*base, *at)?),
            }
        }
        if let Some(immediate) = inst.immediate {
            out.set_op_kind(inst.operands.len() as u32, OpKind::Immediate8);
            out.set_immediate8(immediate);
        }
        if let Some(mask) = inst.mask {
            out.set_op_mask(Width::Mask.register(number(mask).ok_or("a mask that is not read")?));
            out.set_zeroing_masking(inst.zeroing);
        }
        self.push(Ok(out))
    }

    fn memory(&mut self, base: Base, at: i64) -> Result<MemoryOperand> {
        i32::try_from(at).map_err(|_| format!("a displacement of {at} bytes"))?;
        let base = match base {
            Base::Context => gpr64::rdi,
            Base::Pointer(p) => match self.pointer(p)? {
                Scalar::Register(r) => r,
                Scalar::Memory(m) => {
                    self.code.mov(gpr64::rax, m).map_err(failed)?;
                    gpr64::rax
                }
            },
        };
        Ok(MemoryOperand::with_base_displ(base.into(), at))
    }

    // Scalars.

    fn pointer(&self, p: usize) -> Result<Scalar> {
        match self.vcode.pointers[p] {
            Pointer::Context(at) => Ok(Scalar::Memory(qword_ptr(gpr64::rdi + at as i32))),
            Pointer::Running { .. } => self.pointers[p].ok_or_else(|| "a pointer outside of its loop".into()),
        }
    }

    /// A fresh place in the frame.
    fn place(&mut self) -> Scalar {
        let at = self.bytes * self.vectors + 8 * self.slots.0;
        self.slots.0 += 1;
        self.slots.1 = self.slots.1.max(self.slots.0);
        Scalar::Memory(qword_ptr(gpr64::rsp + at as i32))
    }

    fn scalar(&mut self, op: ScalarOp) -> Result {
        let a = &mut self.code;
        match op {
            ScalarOp::Position(p) => match self.pointer(p)? {
                Scalar::Register(r) => self.code.mov(gpr64::rax, r),
                Scalar::Memory(m) => self.code.mov(gpr64::rax, m),
            },
            ScalarOp::Pair(low, high) => a
                .mov(gpr32::eax, dword_ptr(gpr64::rdi + high as i32))
                .and_then(|()| a.shl(gpr32::eax, 16))
                .and_then(|()| a.mov(gpr16::ax, word_ptr(gpr64::rdi + low as i32))),
        }
        .map_err(failed)
    }

    fn turns(&mut self, count: u32, pointers: &[usize], body: &'a [Node]) -> Result {
        let innermost = !body.iter().any(|n| matches!(n, Node::Loop { .. }));
        let slots = self.slots.0;
        let mut registers = if innermost { &SCALARS[..] } else { &[] }.iter();
        let counter = match registers.next() {
            Some(&r) => Scalar::Register(r),
            None => self.place(),
        };
        for &p in pointers {
            let Pointer::Running { from, .. } = self.vcode.pointers[p] else { continue };
            let from = self.pointer(from)?;
            let home = match registers.next() {
                Some(&r) => Scalar::Register(r),
                None => self.place(),
            };
            self.copy(home, from)?;
            self.pointers[p] = Some(home);
        }
        match counter {
            Scalar::Register(r) => self.code.mov(r, count as u64),
            Scalar::Memory(m) => self.code.mov(m, count as i32),
        }
        .map_err(failed)?;
        let mut head = self.code.create_label();
        self.code.set_label(&mut head).map_err(failed)?;
        self.nodes(body)?;
        for &p in pointers {
            let Pointer::Running { step, .. } = self.vcode.pointers[p] else { continue };
            let step = i32::try_from(step).map_err(|_| format!("a step of {step} bytes"))?;
            match self.pointer(p)? {
                Scalar::Register(r) => self.code.add(r, step),
                Scalar::Memory(m) => self.code.add(m, step),
            }
            .map_err(failed)?;
            self.pointers[p] = None;
        }
        match counter {
            Scalar::Register(r) => self.code.dec(r),
            Scalar::Memory(m) => self.code.dec(m),
        }
        .map_err(failed)?;
        self.code.jne(head).map_err(failed)?;
        self.slots.0 = slots;
        Ok(())
    }

    fn copy(&mut self, to: Scalar, from: Scalar) -> Result {
        let a = &mut self.code;
        match (to, from) {
            (Scalar::Register(to), Scalar::Register(from)) => a.mov(to, from),
            (Scalar::Register(to), Scalar::Memory(from)) => a.mov(to, from),
            (Scalar::Memory(to), Scalar::Register(from)) => a.mov(to, from),
            (Scalar::Memory(to), Scalar::Memory(from)) => {
                a.mov(gpr64::rax, from).and_then(|()| a.mov(to, gpr64::rax))
            }
        }
        .map_err(failed)
    }
}

fn set_register(out: &mut Instruction, operand: u32, register: Register) {
    out.set_op_kind(operand, OpKind::Register);
    out.set_op_register(operand, register);
}

fn set_memory(out: &mut Instruction, operand: u32, memory: MemoryOperand) {
    out.set_op_kind(operand, OpKind::Memory);
    out.set_memory_base(memory.base);
    out.set_memory_displacement64(memory.displacement as u64);
    out.set_memory_displ_size(if memory.displacement == 0 { 0 } else { 8 });
}
