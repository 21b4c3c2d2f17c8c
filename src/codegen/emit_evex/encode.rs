//! Vector code with registers chosen becomes bytes.
//!
//! Scalars: the context in `rdi`, `rax` as scratch, `rbp` the old stack pointer. Pointers and the counter of an
//! innermost loop have registers while there are any; all others, and vectors that wait, lie in a frame that is
//! aligned to 64 bytes.

use super::allocate::{Home, SCRATCH};
use super::asm::{Result, failed};
use super::vcode::{Base, Inst, Node, Operand, Pointer, Reg, ScalarOp, Vcode, Width};
use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister64, AsmRegisterZmm, CodeAssembler, CodeLabel, dword_ptr, gpr16, gpr32,
    gpr64, ptr, qword_ptr, registers, word_ptr,
};
use iced_x86::{Instruction, MemoryOperand, OpKind, Register};

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

/// The bytes of a leaf `(context)`, its values at their homes with so many places in the frame, on a machine with so many
/// vector registers. An error is internal.
pub(super) fn encode(
    vcode: &Vcode,
    (homes, vectors): (Vec<Home>, usize),
    registers: usize,
) -> Result<Vec<u8>> {
    let mut encoder = Encoder {
        code: CodeAssembler::new(64).map_err(failed)?,
        vcode,
        homes,
        scratch: registers.saturating_sub(SCRATCH),
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
        let size = 64 * self.vectors + 8 * self.slots.1;
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

    fn slot(place: usize) -> AsmMemoryOperand {
        ptr(gpr64::rsp + 64 * place as i32)
    }

    fn load(&mut self, to: usize, place: usize) -> Result {
        self.code.vmovdqa32(zmm(to), Self::slot(place)).map_err(failed)
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
        let a = &mut self.code;
        if bytes.iter().all(|&b| b == 0) {
            a.vpxord(zmm(to), zmm(to), zmm(to)).map_err(failed)?;
        } else {
            let label = a.create_label();
            let load = match bytes.len() {
                4 => a.vpbroadcastd(zmm(to), dword_ptr(label)),
                _ => a.vmovdqu32(zmm(to), ptr(label)),
            };
            load.map_err(failed)?;
            self.constants.push((label, bytes));
        }
        self.keep(to, place)
    }

    fn keep(&mut self, from: usize, place: Option<usize>) -> Result {
        match place {
            Some(place) => self.code.vmovdqa32(Self::slot(place), zmm(from)).map_err(failed),
            None => Ok(()),
        }
    }

    fn inst(&mut self, inst: &Inst) -> Result {
        let mut scratch = self.scratch..self.scratch + SCRATCH - 1;
        let mut read: Vec<(Reg, usize)> = vec![];
        for reg in inst.reads() {
            if read.iter().any(|r| r.0 == reg) {
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
                Home::Register(from) => self.code.vmovdqa64(zmm(to), zmm(from)).map_err(failed)?,
                Home::Frame(place) => self.load(to, place)?,
                Home::Nowhere => return Err("a value without a definition".into()),
            }
        }
        let number = |reg: Reg| read.iter().find(|r| r.0 == reg).map(|r| r.1);
        self.emit(inst, target.map(|t| t.0), &number)?;
        match target {
            Some((to, place)) if inst.defines().is_some() => self.keep(to, place),
            _ => Ok(()),
        }
    }

    fn emit(&mut self, inst: &Inst, target: Option<usize>, number: &dyn Fn(Reg) -> Option<usize>) -> Result {
        let mut out = Instruction::new();
        out.set_code(inst.code);
        let mut position = 0;
        for (i, operand) in inst.operands.iter().enumerate() {
            match operand {
                Operand::Reg(_, width) if i == 0 && target.is_some() => {
                    out.set_op_register(0, width.register(target.unwrap_or_default()));
                    out.set_op_kind(0, OpKind::Register);
                }
                Operand::Reg(reg, width) => {
                    let n = number(*reg).ok_or("an operand that is not read")?;
                    out.set_op_kind(i as u32, OpKind::Register);
                    out.set_op_register(i as u32, width.register(n));
                }
                Operand::Scalar => {
                    out.set_op_kind(i as u32, OpKind::Register);
                    out.set_op_register(i as u32, Register::EAX);
                }
                Operand::Memory(base, at) => {
                    let memory = self.memory(*base, *at)?;
                    out.set_op_kind(i as u32, OpKind::Memory);
                    out.set_memory_base(memory.base);
                    out.set_memory_displacement64(memory.displacement as u64);
                    out.set_memory_displ_size(if memory.displacement == 0 { 0 } else { 8 });
                }
            }
            position = i + 1;
        }
        if let Some(immediate) = inst.immediate {
            out.set_op_kind(position as u32, OpKind::Immediate8);
            out.set_immediate8(immediate);
        }
        if let Some(mask) = inst.mask {
            out.set_op_mask(Width::Mask.register(number(mask).ok_or("a mask that is not read")?));
            out.set_zeroing_masking(inst.zeroing);
        }
        self.code.add_instruction(out).map_err(failed)
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
        let at = 64 * self.vectors + 8 * self.slots.0;
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

fn zmm(number: usize) -> AsmRegisterZmm {
    registers::get_zmm(Width::Z.register(number)).expect("numbers of vector registers are below 32")
}
