//! Code for vectors of 512 bits becomes code for 256 bits and no masks: AVX2 with dot products.
//!
//! Instructions are selected once, for the widest vectors. Here a register of 512 bits becomes two, its halves, and an
//! instruction the same one on each half; halves that are alike are one register. What AVX2 lacks takes a few
//! instructions: a change of the lanes' width crosses halves, and a mask becomes lanes of 0 and −1 (`flags`). Code with
//! anything else is refused. The loops, their pointers and the order of reads and writes in memory stay as they are.

use super::asm::Result;
use super::flags::Flags;
use super::select::{y, z};
use super::vcode::{Class, Inst, Node, Operand, Reg, Vcode, Width};
use super::vex::{self, Form};
use iced_x86::Code;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a half.
const HALF: i64 = 32;
/// The table of `vpternlogd` for `a ^ b ^ c`.
const XOR: u8 = 0x96;

/// The same code on halves. An error says what there is no narrow form of.
pub(super) fn narrow(wide: &Vcode) -> Result<Vcode> {
    let mut facts = Facts { definitions: vec![0; wide.classes.len()], ..Facts::default() };
    facts.walk(&wide.nodes);
    let code = Vcode { nodes: vec![], classes: vec![], pointers: wide.pointers.clone() };
    let halves = vec![[None; 2]; wide.classes.len()];
    let mut narrow = Narrow {
        facts,
        code,
        halves,
        changing: BTreeSet::new(),
        uniform: BTreeSet::new(),
        counts: BTreeMap::new(),
        masks: Flags::default(),
    };
    narrow.nodes(&wide.nodes)?;
    Ok(narrow.code)
}

/// What has to be known of the registers of wide code beforehand.
#[derive(Default)]
struct Facts {
    /// How many instructions write each.
    definitions: Vec<usize>,
    /// Whose upper halves are read.
    upper: BTreeSet<Reg>,
    /// By what words are shifted.
    counts: BTreeSet<Reg>,
}

impl Facts {
    fn walk(&mut self, nodes: &[Node]) {
        for node in nodes {
            match node {
                Node::Inst(inst) => self.inst(inst),
                Node::Constant(reg, _) => self.definitions[reg.0] += 1,
                Node::Scalar(_) => {}
                Node::Loop { body, .. } => self.walk(body),
            }
        }
    }

    fn inst(&mut self, inst: &Inst) {
        let defines = inst.defines();
        if let Some(reg) = defines {
            self.definitions[reg.0] += 1;
        }
        let reads = inst.operands.iter().skip(defines.is_some() as usize);
        let whole = |operand: &Operand| match operand {
            Operand::Reg(reg, Width::Z) => Some(*reg),
            _ => None,
        };
        self.upper.extend(reads.filter_map(whole));
        self.upper.extend(inst.tied);
        let form = vex::form(inst.code);
        if let (Some(Form::Count(_)), Some(Operand::Reg(count, _))) = (form, inst.operands.last()) {
            self.counts.insert(*count);
        }
    }
}

/// Code that is being made narrow.
pub(super) struct Narrow {
    facts: Facts,
    pub(super) code: Vcode,
    /// The registers of the halves of a wide register.
    halves: Vec<[Option<Reg>; 2]>,
    /// Registers that are written more than once.
    changing: BTreeSet<Reg>,
    /// Registers of which all four bytes are alike.
    pub(super) uniform: BTreeSet<Reg>,
    /// Counts of shifts as shifts by one count read them.
    counts: BTreeMap<Reg, Reg>,
    pub(super) masks: Flags,
}

pub(super) fn x(reg: Reg) -> Operand {
    Operand::Reg(reg, Width::X)
}

impl Narrow {
    fn nodes(&mut self, nodes: &[Node]) -> Result {
        for node in nodes {
            match node {
                Node::Inst(inst) => {
                    self.inst(inst)?;
                    inst.defines().map_or(Ok(()), |reg| self.count(reg))?;
                }
                Node::Constant(reg, bytes) => {
                    self.constant(*reg, bytes);
                    self.count(*reg)?;
                }
                Node::Scalar(op) => self.code.nodes.push(Node::Scalar(*op)),
                Node::Loop { count, pointers, body } => {
                    let outer = std::mem::take(&mut self.code.nodes);
                    self.nodes(body)?;
                    let body = std::mem::replace(&mut self.code.nodes, outer);
                    let (count, pointers) = (*count, pointers.clone());
                    self.code.nodes.push(Node::Loop { count, pointers, body });
                }
            }
        }
        Ok(())
    }

    // Registers.

    /// The register of a half.
    pub(super) fn half(&self, reg: Reg, half: usize) -> Result<Reg> {
        self.halves[reg.0][half].ok_or_else(|| "half of a vector that is shorter".into())
    }

    pub(super) fn changes(&self, reg: Reg) -> bool {
        self.facts.definitions[reg.0] > 1
    }

    /// Whether anybody reads a half.
    pub(super) fn is_read(&self, reg: Reg, half: usize) -> bool {
        half == 0 || self.facts.upper.contains(&reg)
    }

    /// The register that a half is written to.
    fn written(&mut self, reg: Reg, half: usize) -> Reg {
        if let Some(known) = self.halves[reg.0][half] {
            return known;
        }
        let new = self.code.reg(Class::Vector);
        if self.changes(reg) {
            self.changing.insert(new);
        }
        self.halves[reg.0][half] = Some(new);
        new
    }

    /// A half that is what a register holds: another name for it, or a copy if one of them changes.
    pub(super) fn same(&mut self, reg: Reg, half: usize, as_is: Reg) {
        if self.changes(reg) || self.changing.contains(&as_is) {
            self.write(Code::VEX_Vmovdqa_ymm_ymmm256, (reg, half), &[y(as_is)], None);
        } else {
            self.halves[reg.0][half] = Some(as_is);
        }
    }

    /// A half in a register that does not change.
    pub(super) fn lasting(&mut self, reg: Reg, half: usize) -> Result<Reg> {
        let half = self.half(reg, half)?;
        let changes = self.changing.contains(&half);
        Ok(if changes { self.new_y(Code::VEX_Vmovdqa_ymm_ymmm256, &[y(half)], None) } else { half })
    }

    // Instructions.

    /// An instruction that writes a half, of 256 bits.
    pub(super) fn write(&mut self, code: Code, to: (Reg, usize), reads: &[Operand], immediate: Option<u8>) {
        let to = self.written(to.0, to.1);
        self.inst_to(code, y(to), reads, immediate);
    }

    pub(super) fn inst_to(&mut self, code: Code, to: Operand, reads: &[Operand], immediate: Option<u8>) {
        let inst = Inst { immediate, ..Inst::new(code, [&[to], reads].concat()) };
        self.code.nodes.push(Node::Inst(inst));
    }

    /// An instruction that writes a new register, of 256 bits.
    pub(super) fn new_y(&mut self, code: Code, reads: &[Operand], immediate: Option<u8>) -> Reg {
        let to = self.code.reg(Class::Vector);
        self.inst_to(code, y(to), reads, immediate);
        to
    }

    pub(super) fn new_x(&mut self, code: Code, reads: &[Operand], immediate: Option<u8>) -> Reg {
        let to = self.code.reg(Class::Vector);
        self.inst_to(code, x(to), reads, immediate);
        to
    }

    /// A number of 32 bits in all lanes of a new register.
    pub(super) fn constant_y(&mut self, number: i32) -> Reg {
        let to = self.code.reg(Class::Vector);
        self.code.nodes.push(Node::Constant(to, number.to_le_bytes().to_vec()));
        to
    }

    fn constant(&mut self, reg: Reg, bytes: &[u8]) {
        for half in 0..2 {
            if half == 1 && bytes.len() == 4 && !self.changes(reg) {
                self.halves[reg.0][1] = self.halves[reg.0][0];
            } else if self.is_read(reg, half) {
                let to = self.written(reg, half);
                let at = HALF as usize * half;
                let bytes = bytes.get(at..at + HALF as usize).unwrap_or(bytes).to_vec();
                if bytes.len() == 4 && !self.changes(reg) {
                    self.uniform.insert(to);
                }
                self.code.nodes.push(Node::Constant(to, bytes));
            }
        }
    }

    /// What words are shifted by, in front of the loops that shift: a shift by one count reads 64 bits.
    fn count(&mut self, reg: Reg) -> Result {
        if !self.facts.counts.contains(&reg) {
            return Ok(());
        }
        if self.changes(reg) {
            return Err("a count that changes".into());
        }
        let lanes = self.half(reg, 0)?;
        let count = self.new_x(Code::VEX_Vpmovzxwq_xmm_xmmm32, &[x(lanes)], None);
        self.counts.insert(reg, count);
        Ok(())
    }

    fn inst(&mut self, inst: &Inst) -> Result {
        match vex::form(inst.code) {
            Some(Form::Halves(code)) => self.by_halves(inst, code),
            Some(Form::Widening(code)) => self.widen(inst, code),
            Some(Form::Packing(code)) => self.pack(inst, code),
            Some(Form::Count(code)) => self.shift(inst, code),
            Some(Form::Broadcast(code)) => self.broadcast(inst, code),
            None => self.sequence(inst),
        }
    }

    /// An instruction that takes others than one, or other operands.
    fn sequence(&mut self, inst: &Inst) -> Result {
        match inst.code {
            Code::Prefetcht1_m8 => {
                self.code.nodes.push(Node::Inst(inst.clone()));
                Ok(())
            }
            Code::EVEX_Vprold_zmm_k1z_zmmm512b32_imm8 => self.exchange(inst),
            Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8 => self.exclusive_or(inst),
            Code::EVEX_Vpmovswb_xmmm128_k1z_ymm
            | Code::EVEX_Vpmovuswb_xmmm128_k1z_ymm
            | Code::EVEX_Vpmovsdb_xmmm128_k1z_zmm => self.pack_bytes(inst),
            Code::EVEX_Vextracti64x4_ymmm256_k1z_zmm_imm8 => self.extract(inst),
            Code::EVEX_Vinserti64x4_zmm_k1z_zmm_ymmm256_imm8 => self.insert(inst),
            Code::EVEX_Vshufi32x4_zmm_k1z_zmm_zmmm512b32_imm8 => self.shuffle(inst),
            _ => self.masked(inst),
        }
    }

    /// An operand of a half: the register of it, or memory that lies so much behind.
    fn operand(&self, operand: Operand, half: usize) -> Result<Operand> {
        Ok(match operand {
            Operand::Reg(reg, Width::Z) => y(self.half(reg, half)?),
            Operand::Reg(reg, width) => Operand::Reg(self.half(reg, 0)?, width),
            Operand::Memory(base, at) => Operand::Memory(base, at + HALF * half as i64),
            Operand::Scalar => Operand::Scalar,
        })
    }

    /// Writes the halves of a register that somebody reads; once, if both have the same operands.
    pub(super) fn each_half(
        &mut self,
        to: Reg,
        reads: &[Operand],
        mut write: impl FnMut(&mut Narrow, usize, &[Operand]),
    ) -> Result {
        let mut first = None;
        for half in 0..2 {
            if !self.is_read(to, half) {
                continue;
            }
            let reads: Vec<Operand> = reads.iter().map(|&o| self.operand(o, half)).collect::<Result<_>>()?;
            if first.as_ref() == Some(&reads) && !self.changes(to) {
                self.halves[to.0][half] = self.halves[to.0][0];
                continue;
            }
            write(self, half, &reads);
            first = Some(reads);
        }
        Ok(())
    }

    /// The same instruction on every half.
    fn by_halves(&mut self, inst: &Inst, code: Code) -> Result {
        let Inst { immediate, tied, .. } = *inst;
        let whole = inst.operands.iter().any(|o| matches!(o, Operand::Reg(_, Width::Z)));
        let Some(to) = inst.defines() else {
            for half in 0..=whole as usize {
                let operands = inst.operands.iter().map(|&o| self.operand(o, half));
                let operands: Vec<Operand> = operands.collect::<Result<_>>()?;
                self.code.nodes.push(Node::Inst(Inst { immediate, ..Inst::new(code, operands) }));
            }
            return Ok(());
        };
        let mut reads = inst.operands[1..].to_vec();
        if !whole {
            reads.iter_mut().try_for_each(|o| self.operand(*o, 0).map(|half| *o = half))?;
            let width = if inst.operands[0] == x(to) { Width::X } else { Width::Y };
            let to = Operand::Reg(self.written(to, 0), width);
            self.inst_to(code, to, &reads, immediate);
            return Ok(());
        }
        reads.extend(tied.map(z));
        self.each_half(to, &reads, |narrow, half, reads| match (tied, reads) {
            (Some(_), [reads @ .., Operand::Reg(tied, _)]) => {
                let to = narrow.written(to, half);
                let made = Inst::new(code, [&[y(to)], reads].concat());
                narrow.code.nodes.push(Node::Inst(Inst { tied: Some(*tied), ..made }));
            }
            _ => narrow.write(code, (to, half), reads, immediate),
        })
    }

    fn shift(&mut self, inst: &Inst, code: Code) -> Result {
        let [Operand::Reg(to, _), Operand::Reg(from, _), Operand::Reg(count, _)] = inst.operands[..] else {
            return Err("a shift of memory".into());
        };
        let (from, count) = (self.half(from, 0)?, self.counts.get(&count).copied());
        let count = count.ok_or("a count without a definition")?;
        self.write(code, (to, 0), &[y(from), x(count)], None);
        Ok(())
    }

    /// One number in all lanes, of memory or of the scratch register.
    fn broadcast(&mut self, inst: &Inst, code: Code) -> Result {
        let [Operand::Reg(to, _), mut from] = inst.operands[..] else {
            return Err("a broadcast to memory".into());
        };
        if from == Operand::Scalar {
            from = x(self.new_x(Code::VEX_Vmovd_xmm_rm32, &[from], None));
        }
        self.write(code, (to, 0), &[from], None);
        let made = self.half(to, 0)?;
        self.uniform.insert(made);
        self.same(to, 1, made);
        Ok(())
    }

    fn exclusive_or(&mut self, inst: &Inst) -> Result {
        let (&[Operand::Reg(to, _), b, c], Some(a), Some(XOR)) =
            (&inst.operands[..], inst.tied, inst.immediate)
        else {
            return Err("another function of three vectors".into());
        };
        self.each_half(to, &[z(a), b, c], |narrow, half, reads| {
            let both = narrow.new_y(Code::VEX_Vpxor_ymm_ymm_ymmm256, &reads[..2], None);
            narrow.write(Code::VEX_Vpxor_ymm_ymm_ymmm256, (to, half), &[y(both), reads[2]], None);
        })
    }
}
