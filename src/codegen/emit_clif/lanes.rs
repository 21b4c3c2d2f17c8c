//! Expressions on 16 lanes.

use super::body::{Body, Parts, flags};
use super::memory::RANDOM_STRIDE;
use super::plan::Derived;
use crate::kernel::{Address, Amount, Binary, Cond, DType, Expr, LANES, Shift, Type, Unary, Value};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, ConstantData, Endianness, InstBuilder, MemFlagsData, types};
use cranelift_frontend::FunctionBuilder;

/// The vector type of lanes, and how many vectors make a block.
pub(super) fn vectors(dtype: DType) -> (ir::Type, i32) {
    match dtype {
        DType::I8 | DType::U8 => (types::I8X16, 1),
        DType::I16 => (types::I16X8, 2),
        DType::I32 => (types::I32X4, 4),
        DType::I64 | DType::Dyadic => unreachable!("there are no lanes of 64 bits"),
    }
}

/// The same bits as another vector type.
pub(super) fn cast(b: &mut FunctionBuilder, ty: ir::Type, x: ir::Value) -> ir::Value {
    b.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), x)
}

/// A constant vector from its bytes in memory order.
pub(super) fn constant(b: &mut FunctionBuilder, ty: ir::Type, bytes: &[u8]) -> ir::Value {
    let handle = b.func.dfg.constants.insert(ConstantData::from(bytes));
    b.ins().vconst(ty, handle)
}

/// Sums of the two products of each pair of i16 lanes.
pub(super) fn dot_pairs(b: &mut FunctionBuilder, x: ir::Value, y: ir::Value) -> ir::Value {
    let (x_low, y_low) = (b.ins().swiden_low(x), b.ins().swiden_low(y));
    let low = b.ins().imul(x_low, y_low);
    let (x_high, y_high) = (b.ins().swiden_high(x), b.ins().swiden_high(y));
    let high = b.ins().imul(x_high, y_high);
    b.ins().iadd_pairwise(low, high)
}

impl Body<'_, '_, '_> {
    /// The lanes or pairs of an expression; `widened` is the type that a load widens to.
    pub(super) fn lanes(&mut self, expr: &Expr, widened: Option<DType>, ty: Type) -> Parts {
        match expr {
            Expr::Load(address) => match widened {
                Some(to) => self.load_widened(address, to),
                None => self.load(address, ty),
            },
            Expr::LoadPairs(address) => self.load(address, ty),
            Expr::ConstLanes(dtype, lanes) => self.constant_lanes(*dtype, lanes),
            Expr::Splat(dtype, value) => self.splat(*dtype, *value),
            Expr::SplatPair(a, b) => self.splat_pair(*a, *b),
            Expr::Widen(to, value) if self.loaded_wide(*value) => {
                debug_assert_eq!(self.parts(*value).as_slice().len() as i32, vectors(*to).1);
                self.parts(*value)
            }
            Expr::Widen(to, value) => self.widen(*to, *value),
            Expr::NarrowSat(to, value) => self.narrow(*to, *value),
            Expr::Cast(_, value) => self.parts(*value),
            Expr::Pair(a, b) => self.pair(*a, *b),
            Expr::Dot2(a, b) => self.zip(*a, *b, dot_pairs),
            Expr::Binary(op, a, b) => self.binary(*op, *a, *b, ty),
            Expr::Unary(Unary::Abs, a) => self.map(*a, |b, x| b.ins().iabs(x)),
            Expr::Shift(shift, a, amount) => self.shift(*shift, *a, *amount, ty),
            Expr::MulShift(a, b, amount) => self.mul_shift(*a, *b, *amount),
            Expr::Compare(cond, a, b) => self.compare(*cond, *a, *b),
            Expr::Select(mask, a, b) => self.select(*mask, *a, *b),
            Expr::Interleave { a, b, high } => {
                let (a, b) = (self.parts(*a).as_slice()[0], self.parts(*b).as_slice()[0]);
                Parts::new([self.interleave(a, b, 1, *high)])
            }
            Expr::Random { key, block } => self.random(*key, &block.0, block.1),
            _ => unreachable!("not an expression of lanes"),
        }
    }

    fn map(&mut self, a: Value, f: impl Fn(&mut FunctionBuilder, ir::Value) -> ir::Value) -> Parts {
        let a = self.parts(a);
        Parts::new(a.as_slice().iter().map(|&x| f(&mut self.b, x)))
    }

    fn zip(
        &mut self,
        a: Value,
        b: Value,
        f: impl Fn(&mut FunctionBuilder, ir::Value, ir::Value) -> ir::Value,
    ) -> Parts {
        let (a, b) = (self.parts(a), self.parts(b));
        Parts::new(a.as_slice().iter().zip(b.as_slice()).map(|(&x, &y)| f(&mut self.b, x, y)))
    }

    fn load(&mut self, address: &Address, ty: Type) -> Parts {
        let (ty, n) = match ty {
            Type::Lanes(dtype) => vectors(dtype),
            _ => (types::I16X8, 4),
        };
        let flags = self.load_flags(address.param);
        let (pointer, offset) = self.address(address);
        Parts::new((0..n).map(|i| self.b.ins().load(ty, flags, pointer, offset + 16 * i)))
    }

    fn load_widened(&mut self, address: &Address, to: DType) -> Parts {
        let from = self.kernel.params[address.param.0 as usize].dtype;
        let (pointer, offset) = self.address(address);
        let flags = self.load_flags(address.param);
        let (_, n) = vectors(to);
        let b = &mut self.b;
        Parts::new((0..n).map(|i| match (from, to) {
            (DType::I8, DType::I16) => b.ins().sload8x8(flags, pointer, offset + 8 * i),
            (DType::U8, DType::I16) => b.ins().uload8x8(flags, pointer, offset + 8 * i),
            (DType::I16, _) => b.ins().sload16x4(flags, pointer, offset + 8 * i),
            // Bytes to 32 bits: four bytes a vector, by way of 16 bits.
            _ => {
                let word = b.ins().load(types::I32, flags, pointer, offset + 4 * i);
                let word = b.ins().scalar_to_vector(types::I32X4, word);
                let bytes = cast(b, types::I8X16, word);
                match from {
                    DType::I8 => {
                        let half = b.ins().swiden_low(bytes);
                        b.ins().swiden_low(half)
                    }
                    _ => {
                        let half = b.ins().uwiden_low(bytes);
                        b.ins().uwiden_low(half)
                    }
                }
            }
        }))
    }

    pub(super) fn store(&mut self, address: &Address, value: Value) {
        if matches!(self.type_of(value), Type::Int | Type::Dyadic) {
            return self.store_scalar(address, value);
        }
        let (pointer, offset) = self.address(address);
        let parts = self.parts(value);
        for (i, &part) in parts.as_slice().iter().enumerate() {
            self.b.ins().store(flags(), part, pointer, offset + 16 * i as i32);
        }
    }

    fn constant_lanes(&mut self, dtype: DType, lanes: &[i32; LANES]) -> Parts {
        let size = dtype.bytes();
        let bytes: Vec<u8> = lanes.iter().flat_map(|lane| lane.to_le_bytes()[..size].to_vec()).collect();
        let (ty, _) = vectors(dtype);
        Parts::new(bytes.chunks(16).map(|chunk| constant(&mut self.b, ty, chunk)))
    }

    /// The same constant in every lane of one vector.
    fn fill(&mut self, ty: ir::Type, value: i64) -> ir::Value {
        let size = ty.lane_bits() as usize / 8;
        let bytes = value.to_le_bytes()[..size].repeat(16 / size);
        constant(&mut self.b, ty, &bytes)
    }

    pub(super) fn zero(&mut self, ty: ir::Type) -> ir::Value {
        constant(&mut self.b, ty, &[0; 16])
    }

    fn splat(&mut self, dtype: DType, value: Value) -> Parts {
        let x = self.scalar_value(value);
        let (ty, n) = vectors(dtype);
        let x = self.splat_scalar(ty, x);
        Parts::new(std::iter::repeat_n(x, n as usize))
    }

    /// The low bits of an i64 in every lane.
    fn splat_scalar(&mut self, ty: ir::Type, x: ir::Value) -> ir::Value {
        let x = if ty == types::I64X2 { x } else { self.b.ins().ireduce(ty.lane_type(), x) };
        self.b.ins().splat(ty, x)
    }

    fn splat_pair(&mut self, a: Value, b: Value) -> Parts {
        let (a, b) = (self.scalar_value(a), self.scalar_value(b));
        let low = self.b.ins().band_imm_u(a, 0xffff);
        let high = self.b.ins().ishl_imm_u(b, 16);
        let both = self.b.ins().bor(low, high);
        let both = self.splat_scalar(types::I32X4, both);
        let both = cast(&mut self.b, types::I16X8, both);
        Parts::new([both; 4])
    }

    /// Every vector as two of twice the lane width, in lane order.
    pub(super) fn widen_vectors(&mut self, parts: &[ir::Value], signed: bool) -> Vec<ir::Value> {
        let ins = |b: &mut FunctionBuilder, x| match signed {
            true => [b.ins().swiden_low(x), b.ins().swiden_high(x)],
            false => [b.ins().uwiden_low(x), b.ins().uwiden_high(x)],
        };
        parts.iter().flat_map(|&x| ins(&mut self.b, x)).collect()
    }

    fn widen(&mut self, to: DType, value: Value) -> Parts {
        let signed = self.type_of(value) != Type::Lanes(DType::U8);
        let mut parts = self.parts(value).as_slice().to_vec();
        while (parts.len() as i32) < vectors(to).1 {
            parts = self.widen_vectors(&parts, signed);
        }
        Parts::new(parts)
    }

    fn narrow(&mut self, to: DType, value: Value) -> Parts {
        let mut parts = self.parts(value).as_slice().to_vec();
        let n = vectors(to).1 as usize;
        while parts.len() > n {
            let unsigned = to == DType::U8 && parts.len() == 2;
            let halve = |pair: &[ir::Value]| match unsigned {
                true => self.b.ins().unarrow(pair[0], pair[1]),
                false => self.b.ins().snarrow(pair[0], pair[1]),
            };
            parts = parts.chunks(2).map(halve).collect();
        }
        Parts::new(parts)
    }

    /// Groups of `size` bytes of two vectors in turn, of their lower or upper halves.
    fn interleave(&mut self, x: ir::Value, y: ir::Value, size: u8, high: bool) -> ir::Value {
        let mut mask = [0u8; 16];
        for (i, byte) in (0u8..16).zip(&mut mask) {
            let group = i / size;
            *byte = 16 * (group % 2) + 8 * high as u8 + group / 2 * size + i % size;
        }
        self.shuffle(x, y, mask)
    }

    fn shuffle(&mut self, x: ir::Value, y: ir::Value, mask: [u8; 16]) -> ir::Value {
        let ty = self.b.func.dfg.value_type(x);
        let (x, y) = (cast(&mut self.b, types::I8X16, x), cast(&mut self.b, types::I8X16, y));
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&mask[..]));
        let out = self.b.ins().shuffle(x, y, mask);
        cast(&mut self.b, ty, out)
    }

    /// `x0 y0 x1 y1` or `x2 y2 x3 y3` of 32-bit lanes.
    pub(super) fn interleave_32(&mut self, x: ir::Value, y: ir::Value, high: bool) -> ir::Value {
        self.interleave(x, y, 4, high)
    }

    /// The even (`from` 0) or odd (1) lanes of i16, as i32.
    pub(super) fn every_other(&mut self, x: ir::Value, from: usize) -> ir::Value {
        let mask = [[1, 0, 0, 0], [0, 0, 1, 0]][from].repeat(4);
        let mask = constant(&mut self.b, types::I16X8, &mask);
        dot_pairs(&mut self.b, x, mask)
    }

    fn pair(&mut self, a: Value, b: Value) -> Parts {
        let (a, b) = (self.parts(a), self.parts(b));
        let mut out = vec![];
        for (&x, &y) in a.as_slice().iter().zip(b.as_slice()) {
            out.push(self.interleave(x, y, 2, false));
            out.push(self.interleave(x, y, 2, true));
        }
        Parts::new(out)
    }

    fn binary(&mut self, op: Binary, a: Value, b: Value, ty: Type) -> Parts {
        let unsigned = ty == Type::Lanes(DType::U8);
        self.zip(a, b, |b, x, y| match op {
            Binary::Add => b.ins().iadd(x, y),
            Binary::Sub => b.ins().isub(x, y),
            Binary::Mul => b.ins().imul(x, y),
            Binary::Min if unsigned => b.ins().umin(x, y),
            Binary::Min => b.ins().smin(x, y),
            Binary::Max if unsigned => b.ins().umax(x, y),
            Binary::Max => b.ins().smax(x, y),
            Binary::And => b.ins().band(x, y),
            Binary::Or => b.ins().bor(x, y),
            Binary::Xor => b.ins().bxor(x, y),
            Binary::Div => unreachable!("lanes do not divide"),
        })
    }

    fn compare(&mut self, cond: Cond, a: Value, b: Value) -> Parts {
        let unsigned = self.type_of(a) == Type::Lanes(DType::U8);
        let cc = match cond {
            Cond::Eq => IntCC::Equal,
            Cond::Lt if unsigned => IntCC::UnsignedLessThan,
            Cond::Lt => IntCC::SignedLessThan,
            Cond::Le if unsigned => IntCC::UnsignedLessThanOrEqual,
            Cond::Le => IntCC::SignedLessThanOrEqual,
        };
        self.zip(a, b, |b, x, y| b.ins().icmp(cc, x, y))
    }

    fn select(&mut self, mask: Value, a: Value, b: Value) -> Parts {
        let (mask, a, b) = (self.parts(mask), self.parts(a), self.parts(b));
        let choose =
            |(i, &mask): (usize, &ir::Value)| self.b.ins().bitselect(mask, a.as_slice()[i], b.as_slice()[i]);
        Parts::new(mask.as_slice().iter().enumerate().map(choose))
    }

    fn shift(&mut self, shift: Shift, a: Value, amount: Amount, ty: Type) -> Parts {
        let Type::Lanes(dtype) = ty else { unreachable!("only lanes and ints shift") };
        if shift == Shift::RightRound {
            return self.shift_round(a, amount, dtype);
        }
        let count = self.amount(amount);
        self.map(a, |b, x| match shift {
            Shift::Left => b.ins().ishl(x, count),
            Shift::RightLogical => b.ins().ushr(x, count),
            Shift::Right | Shift::RightRound => b.ins().sshr(x, count),
        })
    }

    /// To nearest, ties away from zero: `(x + half − (x < 0)) >> k`; nothing is taken off when k and so half is zero.
    /// The verifier has proven that `x + half` fits.
    fn shift_round(&mut self, a: Value, amount: Amount, dtype: DType) -> Parts {
        let (ty, _) = vectors(dtype);
        let (half, least) = match amount {
            Amount::Imm(0) => return self.parts(a),
            Amount::Imm(k) => (self.fill(ty, 1 << (k - 1)), k as i64),
            Amount::Value(v) => (self.derived(v, Derived::Half(dtype)), self.range(v).lo),
        };
        let count = self.amount(amount);
        let negative = self.range(a).lo < 0;
        let zero = (least == 0).then(|| self.zero(ty));
        self.map(a, |b, x| {
            let mut add = half;
            if negative {
                let sign = b.ins().sshr_imm_u(x, 8 * dtype.bytes() as i64 - 1);
                add = b.ins().iadd(half, sign);
                if let Some(zero) = zero {
                    add = b.ins().smax(add, zero);
                }
            }
            let sum = b.ins().iadd(x, add);
            b.ins().sshr(sum, count)
        })
    }

    /// `(a·b) >> k` with a 64-bit product, by magnitudes: unsigned shifts of 64 bits are single instructions.
    fn mul_shift(&mut self, a: Value, b: Value, amount: Amount) -> Parts {
        let count = self.amount(amount);
        let half = match amount {
            Amount::Imm(k) => self.fill(types::I64X2, (1 << k) >> 1),
            Amount::Value(v) => self.derived(v, Derived::Half64),
        };
        let (a, b) = (self.parts(a), self.parts(b));
        let mut out = vec![];
        for (&x, &y) in a.as_slice().iter().zip(b.as_slice()) {
            let ins = &mut self.b;
            let signs = ins.ins().bxor(x, y);
            let sign = ins.ins().sshr_imm_u(signs, 31);
            let (x, y) = (ins.ins().iabs(x), ins.ins().iabs(y));
            let (xl, yl) = (ins.ins().uwiden_low(x), ins.ins().uwiden_low(y));
            let low = ins.ins().imul(xl, yl);
            let (xh, yh) = (ins.ins().uwiden_high(x), ins.ins().uwiden_high(y));
            let high = ins.ins().imul(xh, yh);
            let [low, high] = [low, high].map(|product| {
                let sum = ins.ins().iadd(product, half);
                let shifted = ins.ins().ushr(sum, count);
                cast(ins, types::I32X4, shifted)
            });
            let even = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
            let magnitude = self.shuffle(low, high, even);
            let flipped = self.b.ins().bxor(magnitude, sign);
            out.push(self.b.ins().isub(flipped, sign));
        }
        Parts::new(out)
    }

    /// `fqt_runtime::random::block`: words 0..4 and 4..8 of the block in two vectors.
    fn random(&mut self, key: Value, terms: &[(crate::kernel::Index, i64)], offset: i64) -> Parts {
        let position = self.random_position(terms);
        let position = self.b.ins().ireduce(types::I32, position);
        let low = self.derived(key, Derived::KeyLow);
        let high = self.derived(key, Derived::KeyHigh);
        let start = self.b.ins().iadd(position, low);
        let start = self.b.ins().splat(types::I32X4, start);
        let constant_part = RANDOM_STRIDE.wrapping_mul(offset);
        let first = self.fill(types::I32X4, 0x7FEB_352D);
        let second = self.fill(types::I32X4, 0x846C_A68B);
        Parts::new((0..2).map(|half| {
            let word =
                |l: i64| (constant_part.wrapping_add((4 * half + l) * 0x9E37_79B9) as u32).to_le_bytes();
            let words: Vec<u8> = (0..4).flat_map(word).collect();
            let words = constant(&mut self.b, types::I32X4, &words);
            let b = &mut self.b;
            let mix = |b: &mut FunctionBuilder, x, shift| {
                let shifted = b.ins().ushr_imm_u(x, shift);
                b.ins().bxor(x, shifted)
            };
            let x = b.ins().iadd(start, words);
            let x = mix(b, x, 16);
            let x = b.ins().imul(x, first);
            let x = mix(b, x, 15);
            let x = b.ins().bxor(x, high);
            let x = b.ins().imul(x, second);
            let x = mix(b, x, 16);
            cast(b, types::I16X8, x)
        }))
    }

    /// A value derived from an Int, where the Int is defined.
    pub(super) fn derive_one(&mut self, scalar: ir::Value, what: Derived) -> ir::Value {
        let half = |b: &mut FunctionBuilder| {
            // (1 << k) >> 1 is zero for k = 0.
            let one = b.ins().iconst(types::I64, 1);
            let power = b.ins().ishl(one, scalar);
            b.ins().ushr_imm_u(power, 1)
        };
        match what {
            Derived::Half(dtype) => {
                let half = half(&mut self.b);
                self.splat_scalar(vectors(dtype).0, half)
            }
            Derived::Half64 => {
                let half = half(&mut self.b);
                self.splat_scalar(types::I64X2, half)
            }
            Derived::KeyLow => self.b.ins().ireduce(types::I32, scalar),
            Derived::KeyHigh => {
                let high = self.b.ins().ushr_imm_u(scalar, 32);
                self.splat_scalar(types::I32X4, high)
            }
        }
    }
}
