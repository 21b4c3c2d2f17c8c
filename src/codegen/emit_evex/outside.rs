//! What a region takes from around it, and its addresses.
//!
//! Vectors that are the same in every turn are made once, in front of everything. Addresses run along with the loops: each
//! loop has a pointer for every start and step, and constant parts go into the instruction.

use super::asm::Result;
use super::codes;
use super::region::Capture;
use super::select::{Derived, Select, Val};
use super::vcode::{Base, Inst, Node, Operand, Pointer, Reg, ScalarOp, Width};
use crate::kernel::{Address, Binary, DType, Expr, Index, LANES, Shift, Value};
use iced_x86::Code;

/// Bytes of a cache line.
const LINE: i64 = 64;
/// How many bytes ahead a line is asked for, and how many turns ahead where turns are farther apart.
const AHEAD: i64 = 2048;
const TURNS: i64 = 8;
/// Bytes from which on a buffer is taken to have left the near caches between two kernels that touch it.
const FAR: u64 = 1 << 18;

/// Elements that a pointer moves with each of several loops.
type Strides<L> = Vec<(L, i64)>;

/// How far from the place of a block its parts, and lines that are asked for ahead, may lie.
const FARTHEST: i64 = 1 << 24;

/// Displacements and steps have 32 bits.
fn fits(bytes: i64) -> Result {
    i32::try_from(bytes).map(|_| ()).map_err(|_| format!("a distance of {bytes} bytes"))
}

impl Select<'_> {
    pub(super) fn capture(&mut self, capture: Capture) -> i64 {
        if let Some((at, _)) = self.captures.iter().find(|(_, c)| *c == capture) {
            return *at;
        }
        let end = self.captures.last().map_or(0, |(at, c)| at + c.bytes());
        self.captures.push((end, capture));
        end
    }

    pub(super) fn derive(&mut self, value: Value, what: Derived) -> Reg {
        if let Some(&reg) = self.derived.get(&(value, what)) {
            return reg;
        }
        let reg = match what {
            Derived::Splat(dtype) => self.splat_memory(dtype, value, 0),
            Derived::Low => self.splat_memory(DType::I32, value, 0),
            Derived::High => self.splat_memory(DType::I32, value, 4),
            Derived::Sign(dtype) => {
                let width = codes::width(dtype);
                let op = |op| codes::binary(op, dtype).expect("words and double words subtract");
                let one = self.constant(dtype, &[1; LANES]);
                let bits = self.constant(dtype, &[8 * dtype.bytes() as i32; LANES]);
                let count = self.derive(value, Derived::Splat(dtype));
                let [one, bits, count] = [one, bits, count].map(|r| Operand::Reg(r, width));
                let least = self.def_at(0, op(Binary::Min), width, &[count, one], None);
                let least = Operand::Reg(least, width);
                self.def_at(0, op(Binary::Sub), width, &[bits, least], None)
            }
            Derived::Half(dtype) => {
                // (1 << k) >> 1 is zero for k = 0.
                let one = self.constant(dtype, &[1; LANES]);
                let count = self.derive(value, Derived::Splat(dtype));
                let width = codes::width(dtype);
                let (one, count) = (Operand::Reg(one, width), Operand::Reg(count, width));
                let left = codes::shift_by_lanes(Shift::Left, dtype);
                let power = self.def_at(0, left, width, &[one, count], None);
                let right = codes::shift_by_constant(Shift::RightLogical, dtype);
                self.def_at(0, right, width, &[Operand::Reg(power, width)], Some(1))
            }
        };
        self.derived.insert((value, what), reg);
        reg
    }

    fn splat_memory(&mut self, dtype: DType, value: Value, offset: i64) -> Reg {
        let at = self.capture(Capture::Scalar(value));
        let from = Operand::Memory(Base::Context, at + offset);
        self.def_at(0, codes::broadcast(dtype), codes::width(dtype), &[from], None)
    }

    /// A value that is defined outside: made again if that is cheap, else taken.
    pub(super) fn outside(&mut self, value: Value) -> Result<Val> {
        let reg = match self.around.definitions.get(&value) {
            Some(Expr::ConstLanes(dtype, lanes)) => self.constant(*dtype, lanes),
            Some(Expr::Splat(dtype, scalar)) => self.derive(*scalar, Derived::Splat(*dtype)),
            Some(Expr::SplatPair(a, b)) => self.splat_pair(*a, *b),
            _ => {
                let at = self.capture(Capture::Lanes(value));
                let from = Operand::Memory(Base::Context, at);
                self.def_at(0, codes::load(Width::Z), Width::Z, &[from], None)
            }
        };
        Ok(Val::Lanes(reg))
    }

    pub(super) fn splat_pair(&mut self, a: Value, b: Value) -> Reg {
        if let (Some(Expr::ConstInt(a)), Some(Expr::ConstInt(b))) =
            (self.around.definitions.get(&a), self.around.definitions.get(&b))
        {
            let pair = [(*a as i16).to_le_bytes(), (*b as i16).to_le_bytes()].concat();
            return self.constant_bytes(pair);
        }
        let (a, b) = (self.capture(Capture::Scalar(a)), self.capture(Capture::Scalar(b)));
        self.push_at(0, Node::Scalar(ScalarOp::Pair(a, b)));
        self.def_at(0, Code::EVEX_Vpbroadcastd_zmm_k1z_r32, Width::Z, &[Operand::Scalar], None)
    }

    // Addresses.

    /// The place of an element. An error says that it lies too far from where its pointer can be.
    pub(super) fn address(&mut self, address: &Address) -> Result<Operand> {
        let bytes = self.around.kernel.params[address.param.0 as usize].dtype.bytes() as i64;
        let (outer, inner) = self.split(&address.terms);
        let start = Address { param: address.param, terms: outer, offset: 0 };
        let start = self.context_pointer(Capture::Address(start));
        let (pointer, moved) = self.run_along(start, &inner, |stride| stride * bytes)?;
        let at = address.offset * bytes + moved;
        fits(at + FARTHEST)?;
        Ok(Operand::Memory(Base::Pointer(pointer), at))
    }

    /// Terms of the loops around the region, and those of its own, in the order of the loops.
    pub(super) fn split(&self, terms: &[(Index, i64)]) -> (Strides<Index>, Strides<usize>) {
        let (mut outer, mut inner) = (vec![], vec![]);
        for &(index, stride) in terms {
            match self.levels.iter().position(|l| l.index == index) {
                Some(level) => inner.push((level, stride)),
                None if self.uses.is_inner(index) => {} // A loop of one turn.
                None => outer.push((index, stride)),
            }
        }
        inner.sort();
        (outer, inner)
    }

    pub(super) fn context_pointer(&mut self, capture: Capture) -> usize {
        let at = self.capture(capture);
        let pointer = Pointer::Context(at);
        self.code.pointers.iter().position(|p| *p == pointer).unwrap_or_else(|| {
            self.code.pointers.push(pointer);
            self.code.pointers.len() - 1
        })
    }

    /// The pointer that runs with the loops of `terms`, and how far the copies that are being written lie from it.
    pub(super) fn run_along(
        &mut self,
        start: usize,
        terms: &[(usize, i64)],
        scale: impl Fn(i64) -> i64,
    ) -> Result<(usize, i64)> {
        let (mut pointer, mut moved) = (start, 0i64);
        for &(level, stride) in terms {
            let level = &mut self.levels[level];
            moved = moved.wrapping_add(scale(stride.wrapping_mul(level.copy)));
            let step = scale(stride.wrapping_mul(level.copies));
            fits(step)?;
            let pointers = &mut self.code.pointers;
            pointer = *level.pointers.entry((pointer, step)).or_insert_with(|| {
                pointers.push(Pointer::Running { from: pointer, step });
                pointers.len() - 1
            });
        }
        Ok((pointer, moved))
    }

    /// Asks for the line of a large buffer that a loop will read or write some turns later. The machine does not look
    /// ahead of stores at all, and of loads only within a page and after some misses: too late for short rows. What a
    /// contraction of the kernel has just written is near.
    pub(super) fn prefetch(&mut self, address: &Address, to: Operand) {
        let decl = &self.around.kernel.params[address.param.0 as usize];
        let bytes = decl.dtype.bytes() as i64;
        let (Some(level), Operand::Memory(base, at)) = (self.levels.last_mut(), to) else { return };
        let step = address.terms.iter().find(|t| t.0 == level.index).map_or(0, |t| t.1 * bytes);
        let first_of_line = step >= LINE || level.copy * step % LINE < step;
        let far = decl.len * bytes as u64 >= FAR && !self.contracted.contains(&address.param);
        let distance = AHEAD.max(TURNS * step).min(FARTHEST);
        // Where turns are far apart, what lies behind the last is not the next loop's.
        let (ahead, over) = (at + distance, step > AHEAD && level.count <= TURNS);
        if step > 0 && first_of_line && far && !over && level.asked.insert((base, ahead.div_euclid(LINE))) {
            self.inst(Inst::new(Code::Prefetcht1_m8, [Operand::Memory(base, ahead)]));
        }
    }
}
