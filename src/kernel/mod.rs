//! The kernel program: the narrow waist between lowering and every way to execute.
//!
//! A program is a list of calls of kernels over flat buffers. Kernels compute on 16-lane blocks,
//! 64-bit integers and dyadics; the only compound statement is the integer contraction. **There is no float type**,
//! so there can be none in the code.
//!
//! Invariants (checked by [`verify`]): every access lies inside its buffer; interval analysis proves from the ranges
//! of the buffers that no lane or integer operation overflows, and takes no fact on trust; a value is defined once, before use,
//! in scope.
//! This module knows nothing of layers, quantizers or targets.

pub mod build;
pub mod cost;
pub mod interp;
pub mod print;
mod ranges;
pub mod reach;
mod touches;
mod typing;
pub mod verify;

use std::fmt;

/// Lanes in a block: always 16, whatever the vector width of the target.
pub const LANES: usize = 16;

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Signed 8 bits.
    I8,
    /// Unsigned 8 bits.
    U8,
    /// Signed 16 bits.
    I16,
    /// Signed 32 bits.
    I32,
    /// Signed 64 bits.
    I64,
    /// A dyadic number `m * 2^e`, packed in 8 bytes (`fqt_runtime::fixed::Dyadic`).
    Dyadic,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::I8 | DType::U8 => 1,
            DType::I16 => 2,
            DType::I32 => 4,
            DType::I64 | DType::Dyadic => 8,
        }
    }

    /// All values that the type can hold (dyadics: meaningless, the full i64 interval).
    pub fn range(self) -> Range {
        match self {
            DType::I8 => Range::new(-128, 127),
            DType::U8 => Range::new(0, 255),
            DType::I16 => Range::new(-32768, 32767),
            DType::I32 => Range::new(i32::MIN as i64, i32::MAX as i64),
            DType::I64 | DType::Dyadic => Range::new(i64::MIN, i64::MAX),
        }
    }
}

/// A closed interval of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// Smallest value.
    pub lo: i64,
    /// Largest value.
    pub hi: i64,
}

impl Range {
    /// The interval `lo..=hi`.
    pub const fn new(lo: i64, hi: i64) -> Range {
        Range { lo, hi }
    }

    /// Whether `value` lies inside.
    pub const fn contains(self, value: i64) -> bool {
        self.lo <= value && value <= self.hi
    }

    /// Whether all of `other` lies inside.
    pub const fn includes(self, other: Range) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }
}

/// The type of a value in a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// 16 lanes of I8, U8, I16 or I32.
    Lanes(DType),
    /// 16 pairs of i16 (32 numbers in memory order): the operands of `dot2`.
    Pairs,
    /// A 64-bit integer.
    Int,
    /// A dyadic.
    Dyadic,
}

/// A value: defined by one `Let`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

/// A loop index; index 0 is the item of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index(pub u32);

/// A parameter of a kernel: which buffer it is, the call says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Param(pub u32);

/// A buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// An element of a parameter: `offset + Σ index·stride`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The parameter.
    pub param: Param,
    /// Loop indices with their strides in elements; each index at most once, ascending; no zero strides.
    pub terms: Vec<(Index, i64)>,
    /// Constant part, in elements.
    pub offset: i64,
}

/// A shift amount, or another small scalar operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Amount {
    /// A constant.
    Imm(u8),
    /// An `Int` value; its proven range says how far it shifts.
    Value(Value),
}

/// Two-operand operations on equal types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// Sum. Lanes I16, I32; Int; Dyadic.
    Add,
    /// Difference. Lanes I16, I32; Int; Dyadic.
    Sub,
    /// Product. Lanes I16, I32 (low half, proven not to overflow); Int; Dyadic.
    Mul,
    /// Quotient. Int: rounded to nearest, ties away from zero, divisor > 0. Dyadic: see `fixed`; division by zero gives zero.
    Div,
    /// Smaller. All lanes; Int; Dyadic.
    Min,
    /// Larger. All lanes; Int; Dyadic.
    Max,
    /// Bitwise and. All lanes; Int.
    And,
    /// Bitwise or. All lanes; Int.
    Or,
    /// Bitwise exclusive or. All lanes; Int.
    Xor,
}

/// One-operand operations that keep the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// Absolute value. Lanes I8, I16, I32 (proven not the minimum); Int; Dyadic.
    Abs,
    /// Square root of a dyadic that is not negative (negative: zero).
    Sqrt,
    /// 1/√x of a positive dyadic (otherwise zero).
    Rsqrt,
    /// log₂ of a positive dyadic (otherwise zero).
    Log2,
    /// 2^x of a dyadic.
    Exp2,
}

/// Comparisons. On lanes the result has the operands' type with lanes 0 or −1 (I8 for U8); on Int and Dyadic an Int 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// Equal.
    Eq,
    /// Less than.
    Lt,
    /// Less than or equal.
    Le,
}

/// Shifts of lanes (I16, I32) or Int.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shift {
    /// `x << k`, proven not to overflow.
    Left,
    /// `x >> k`, towards minus infinity.
    Right,
    /// `x >> k`, to nearest with ties away from zero; `k = 0` gives `x`. Proven: x + 2^(k−1) fits the type.
    RightRound,
    /// Logical right shift of the bits. Lanes only.
    RightLogical,
}

/// The right-hand side of a `Let`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// 16 consecutive elements (I8, U8, I16, I32 buffers).
    Load(Address),
    /// 16 consecutive pairs: 32 elements of an I16 buffer.
    LoadPairs(Address),
    /// One element as Int (integer buffers) or Dyadic (dyadic buffers).
    LoadScalar(Address),
    /// One element at a computed position, clamped into the parameter: `param[clamp(index)]`, as Int or Dyadic.
    LoadAt {
        /// The table.
        param: Param,
        /// The position, an Int.
        index: Value,
    },
    /// Lanes that are constants.
    ConstLanes(DType, [i32; LANES]),
    /// A constant Int.
    ConstInt(i64),
    /// The constant dyadic `m * 2^e`.
    ConstDyadic(i32, i32),
    /// A loop index as Int.
    IndexValue(Index),
    /// All lanes equal to an Int whose range fits the lane type.
    Splat(DType, Value),
    /// Pairs `(a, b)` in every pair, of two Ints that fit i16.
    SplatPair(Value, Value),
    /// I8, U8 → I16, I32; I16 → I32. Sign- or zero-extends by the operand's type.
    Widen(DType, Value),
    /// I32 → I16; I16 → I8, U8; I32 → I8, U8. Saturates.
    NarrowSat(DType, Value),
    /// The same bits seen as another lane type of equal width (I8 ↔ U8).
    Cast(DType, Value),
    /// Two I16 lanes as Pairs: pair j is (a_j, b_j).
    Pair(Value, Value),
    /// `Σ` of the two products of each pair: Pairs × Pairs → I32 lanes.
    Dot2(Value, Value),
    /// Binary operation.
    Binary(Binary, Value, Value),
    /// Unary operation.
    Unary(Unary, Value),
    /// Shift by a constant or an Int.
    Shift(Shift, Value, Amount),
    /// `(a·b) >> k` of I32 lanes with a 64-bit product, rounded to nearest with ties away; k ≤ 62, and the result is
    /// proven to fit.
    MulShift(Value, Value, Amount),
    /// Comparison.
    Compare(Cond, Value, Value),
    /// `mask ? a : b`; lanes by a mask of equal width whose lanes are proven 0 or −1, Int and Dyadic by an Int (zero is false).
    Select(Value, Value, Value),
    /// The even (`false`) or odd half of the byte interleave of two I8 or U8 blocks:
    /// low: a0 b0 a1 b1 … a7 b7; high: a8 b8 … a15 b15.
    Interleave {
        /// First operand: bytes at even positions.
        a: Value,
        /// Second operand: bytes at odd positions.
        b: Value,
        /// The upper halves of the operands.
        high: bool,
    },
    /// 16 random 16-bit patterns (I16 lanes): `fqt_runtime::random` of key and logical block.
    Random {
        /// The key, an Int (`HashKey`).
        key: Value,
        /// Logical block: `Σ index·stride + offset`, less than 2^29.
        block: (Vec<(Index, i64)>, i64),
    },
    /// `mix64(mix64(mix64(seed) ^ step) ^ tensor)`: a random key.
    HashKey {
        /// The run's seed, an Int.
        seed: Value,
        /// The step, an Int.
        step: Value,
        /// The stable id of the tensor, an Int.
        tensor: Value,
    },
    /// `a·b − c·d` of four Ints, exact in 128 bits, then rounded to a dyadic.
    DiffOfProducts(Value, Value, Value, Value),
    /// An Int as dyadic (rounded to 31 bits).
    ToDyadic(Value),
    /// `round(x·2^k)` of a dyadic, ties away, as Int saturated to ±2^62.
    ToFixed(Value, Amount),
    /// `x·2^k` of a dyadic by an Int k.
    Scale(Value, Value),
    /// The smallest r with |x| < 2^r of a dyadic, as Int; zero gives −1024.
    Exponent(Value),
    /// Bits of |x| of an Int: the smallest r with |x| < 2^r.
    BitLength(Value),
}

impl Stmt {
    /// The addresses of the statement itself, not of its body.
    pub fn addresses(&self) -> Vec<&Address> {
        match self {
            Stmt::Let(_, Expr::Load(address) | Expr::LoadPairs(address) | Expr::LoadScalar(address)) => {
                vec![address]
            }
            Stmt::Store(address, _)
            | Stmt::Acc64(address, _)
            | Stmt::MaxInto(address, _)
            | Stmt::MinInto(address, _) => vec![address],
            Stmt::Contract(c) => match &c.init {
                Init::PerVector(init, _) | Init::PerPoint(init, _) => vec![&c.out, &c.a, &c.b, init],
                Init::Zero | Init::Accumulate => vec![&c.out, &c.a, &c.b],
            },
            Stmt::For { .. } | Stmt::Let(..) => vec![],
        }
    }
}

impl Expr {
    /// The values it uses, in order.
    pub fn operands(&self) -> Vec<Value> {
        let amount = |amount: &Amount| match amount {
            Amount::Imm(_) => None,
            Amount::Value(value) => Some(*value),
        };
        match self {
            Expr::Load(_) | Expr::LoadPairs(_) | Expr::LoadScalar(_) => vec![],
            Expr::ConstLanes(..) | Expr::ConstInt(_) | Expr::ConstDyadic(..) | Expr::IndexValue(_) => vec![],
            Expr::LoadAt { index: a, .. } | Expr::Random { key: a, .. } => vec![*a],
            Expr::Splat(_, a) | Expr::Widen(_, a) | Expr::NarrowSat(_, a) | Expr::Cast(_, a) => vec![*a],
            Expr::Unary(_, a) | Expr::ToDyadic(a) | Expr::Exponent(a) | Expr::BitLength(a) => vec![*a],
            Expr::Shift(_, a, by) | Expr::ToFixed(a, by) => {
                [Some(*a), amount(by)].into_iter().flatten().collect()
            }
            Expr::MulShift(a, b, by) => [Some(*a), Some(*b), amount(by)].into_iter().flatten().collect(),
            Expr::SplatPair(a, b) | Expr::Pair(a, b) | Expr::Dot2(a, b) | Expr::Scale(a, b) => vec![*a, *b],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) | Expr::Interleave { a, b, .. } => vec![*a, *b],
            Expr::Select(a, b, c) | Expr::HashKey { seed: a, step: b, tensor: c } => vec![*a, *b, *c],
            Expr::DiffOfProducts(a, b, c, d) => vec![*a, *b, *c, *d],
        }
    }
}

/// Operand types of a contraction: (points, vectors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dot {
    /// Points u8, vectors i8; four products a step.
    U8I8,
    /// Points i8, vectors u8; four products a step.
    I8U8,
    /// Points and vectors i16; two products a step.
    I16I16,
}

/// What a contraction starts from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Init {
    /// Zero.
    Zero,
    /// What the output holds (`+=`).
    Accumulate,
    /// One i32 a lane, the same for every point: 16 elements a vector, `stride` of `vectors` dimensions given beside.
    PerVector(Address, Vec<i64>),
    /// One i32 a point, the same for every lane; strides of the `points` dimensions beside.
    PerPoint(Address, Vec<i64>),
}

/// One dimension of a contraction: how often, and how far each of the two buffers moves (in elements).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    /// Extent.
    pub n: u32,
    /// First stride: `a` for points and k, `b` for vectors.
    pub first: i64,
    /// Second stride: `out` for points and vectors, `b` for k.
    pub second: i64,
}

/// `out[p, v, lane] = init + Σ_k Σ_j a[p, k, j] · b[v, k, lane, j]`, j over one group: four bytes, or two i16.
///
/// A step of k reads one group of `a` (4 bytes, contiguous) and 16 groups of `b` (64 bytes, contiguous) for each
/// point and vector. The result is i32 and proven not to overflow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// Types of the operands.
    pub dot: Dot,
    /// First output (I32): 16 elements for each point and vector.
    pub out: Address,
    /// First group of the points side.
    pub a: Address,
    /// First block of the vectors side.
    pub b: Address,
    /// Start.
    pub init: Init,
    /// Points, outermost first: (n, stride in a, stride in out).
    pub points: Vec<Dim>,
    /// Vectors, outermost first: (n, stride in b, stride in out).
    pub vectors: Vec<Dim>,
    /// Reduction, outermost first: (n, stride in a, stride in b).
    pub k: Vec<Dim>,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// `for index in 0..count`.
    For {
        /// The index.
        index: Index,
        /// Number of turns, at least 1.
        count: u32,
        /// What is repeated.
        body: Vec<Stmt>,
    },
    /// Defines a value.
    Let(Value, Expr),
    /// Writes 16 lanes, 16 pairs, or one scalar, by the value's type. The range is proven to fit the parameter's.
    Store(Address, Value),
    /// `buf += value`: 16 i64 elements += I32 or I16 lanes; or one i64 += Int.
    Acc64(Address, Value),
    /// Elementwise maximum into memory: 16 lanes (equal type) or one Int (I64).
    MaxInto(Address, Value),
    /// Elementwise minimum into memory.
    MinInto(Address, Value),
    /// An integer contraction.
    Contract(Box<Contract>),
}

/// How a kernel uses a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only reads.
    Read,
    /// Only writes: the contents before the call do not matter.
    Write,
    /// Reads and writes.
    ReadWrite,
}

/// A parameter's declaration; a buffer passed for it has the same dtype and length, and a range that is inside of its own for
/// what is read, around it for what is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParamDecl {
    /// Element type.
    pub dtype: DType,
    /// Elements.
    pub len: u64,
    /// What the elements may be.
    pub range: Range,
    /// Use.
    pub access: Access,
}

/// A kernel: `extern "C" fn(arena, args, first, last)` running `body` for every item in `first..last`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// What it does; not part of its identity when equal kernels are shared.
    pub name: String,
    /// Parameters.
    pub params: Vec<ParamDecl>,
    /// Items: the extent of `Index(0)`.
    pub items: u32,
    /// Types of the values, by number.
    pub values: Vec<Type>,
    /// Body.
    pub body: Vec<Stmt>,
}

/// Lifetime of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Survives steps; part of the checkpoint; initial bytes beside.
    State,
    /// Survives steps, but is no part of the checkpoint: counters.
    Persistent,
    /// Constant table.
    Const(Vec<i64>),
    /// Written by the runtime before the step.
    Input,
    /// Read by the runtime after the step.
    Output,
    /// Lives within one step; the planner may share its memory.
    Temp,
}

/// A buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// Unique name: a layer path and a slot.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; their product is the length.
    pub extents: Vec<u32>,
    /// What the elements may be.
    pub range: Range,
    /// Lifetime.
    pub kind: Kind,
}

impl Buffer {
    /// Elements.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|&n| n as u64).product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.len() * self.dtype.bytes() as u64
    }
}

/// A call: every item of a kernel, on these buffers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Which kernel.
    pub kernel: usize,
    /// A buffer for each parameter.
    pub args: Vec<BufferId>,
}

/// A kernel program: what one step does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// All kernels; equal ones only once.
    pub kernels: Vec<Kernel>,
    /// Calls in order: a step computes what they do one after the other.
    pub calls: Vec<Call>,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print::program(self, f)
    }
}
