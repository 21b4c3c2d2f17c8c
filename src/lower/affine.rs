//! Values that are not stored: per-channel affine combinations of 16-bit tensors, and masks computed from them.
//!
//! Batch norm, its gradient, residual adds and biases are all `scale·(Σ coef_i[c]·(source_i − mean_i[c]) + offset[c])`.
//! They stay in this form until a quantizer (or an edge between groups) gives them a grid; then one scalar pass turns
//! the real coefficients into integers ([`super::grid`]) and one map applies them. A cheap chain is thus computed again
//! where it is read, and never stored.

use super::cx::{At, Kx, Shape};
use crate::kernel::{BufferId, DType, Value};

/// Where 16-lane integers of a tensor are read: I16, or U8 codes above a zero code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) buffer: BufferId,
    /// Element of (0, 0, 0, 0).
    pub(super) offset: i64,
    /// Strides of image, row, column; channels are contiguous.
    pub(super) strides: [i64; 3],
    /// The code of zero.
    pub(super) zero: i32,
    /// How far lanes are shifted left. All coefficients of a sum share a shift, and beside codes of few bits those of 16-bit
    /// integers would have no bits left: codes are raised to the size of 8 bits, and at edges and before norms to that of 16.
    pub(super) raised: u8,
}

impl Source {
    /// A dense tensor.
    pub(super) fn dense(buffer: BufferId, shape: Shape) -> Source {
        let cp = shape.cp() as i64;
        let row = shape.w as i64 * cp;
        Source { buffer, offset: 0, strides: [shape.h as i64 * row, row, cp], zero: 0, raised: 0 }
    }

    pub(super) fn address(&self, kx: &mut Kx, at: &At) -> crate::kernel::Address {
        let p = kx.read(self.buffer);
        self.of(p, at)
    }

    /// The address in a parameter that is bound to the buffer.
    pub(super) fn of(&self, p: crate::kernel::Param, at: &At) -> crate::kernel::Address {
        let a = at.n.address(p.at(self.offset), self.strides[0]);
        let a = at.x.address(at.y.address(a, self.strides[1]), self.strides[2]);
        at.block.address(a, 16)
    }

    /// The I16 lanes at a place: above the zero code, and raised.
    pub(super) fn load(&self, kx: &mut Kx, at: &At) -> Value {
        let address = self.address(kx, at);
        let lanes = kx.load(address);
        let wide = kx.widen(DType::I16, lanes);
        let centred = match self.zero {
            0 => wide,
            zero => {
                let zero = kx.splat_const(DType::I16, zero);
                kx.sub(wide, zero)
            }
        };
        if self.raised == 0 { centred } else { kx.shift_left(centred, self.raised) }
    }
}

/// A real coefficient.
#[derive(Clone, Copy, Debug)]
pub(super) enum Coef {
    /// A dyadic buffer: one for all channels or one each.
    Given(BufferId),
    /// The step of codes, before they are raised.
    Step(BufferId),
    /// Minus that multiple of the first term's coefficient *after rounding*, so that what the two terms cancel, they
    /// cancel exactly.
    MinusFirstTimes(BufferId),
}

/// Per-channel facts of a source: totals over all positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    /// Σ, i64 per channel.
    pub(super) sum: BufferId,
    /// Smallest and largest, i64 per channel.
    pub(super) min: BufferId,
    /// Largest.
    pub(super) max: BufferId,
    /// What `sum` is divided by to give the mean.
    pub(super) count: i64,
}

/// One term: `coef·(source − mean)`, or without mean.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) source: Source,
    pub(super) coef: Coef,
    /// Totals of the source, where known; they bound it.
    pub(super) totals: Option<Totals>,
    /// Whether the mean is subtracted.
    pub(super) centred: bool,
    /// Variance per channel in squared steps of the source: channels that are too quiet have no say in common scales.
    pub(super) variance: Option<BufferId>,
}

/// A value that is not stored.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub(super) shape: Shape,
    pub(super) terms: Vec<Term>,
    /// Per-channel dyadic added, in the unit of the terms.
    pub(super) offset: Option<BufferId>,
    /// A common dyadic factor (one element).
    pub(super) scale: Option<BufferId>,
    /// Negative values are zero.
    pub(super) relu: bool,
    /// What multiplies the first source, position by position.
    pub(super) masks: Vec<Mask>,
}

impl Affine {
    /// One dense source times a coefficient.
    pub(super) fn of(shape: Shape, source: Source, coef: Coef, totals: Option<Totals>) -> Affine {
        let term = Term { source, coef, totals, centred: false, variance: None };
        Affine { shape, terms: vec![term], offset: None, scale: None, relu: false, masks: vec![] }
    }
}

/// Integer coefficients of an affine value on a grid: `u = Σ a'_i·source_i + b'`, then `>> k`.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    /// Pairs of I16 coefficients, one buffer `[channels][2]` for every two terms.
    pub(super) pairs: Vec<BufferId>,
    /// I32 per channel.
    pub(super) offset: BufferId,
    /// The shift k, one i64.
    pub(super) shift: BufferId,
}

/// What a map needs per block of channels, loaded outside of its position loops.
pub(super) struct FixedLanes {
    offset: Value,
    pairs: Vec<crate::kernel::Address>,
}

impl Fixed {
    pub(super) fn prepare(&self, kx: &mut Kx, block: &super::cx::Coord) -> FixedLanes {
        let p = kx.read(self.offset);
        let offset = kx.load(block.address(p.at(0), 16));
        let pairs = self
            .pairs
            .iter()
            .map(|&b| {
                let p = kx.read(b);
                block.address(p.at(0), 32)
            })
            .collect();
        FixedLanes { offset, pairs }
    }

    /// `u` at a place, I32 lanes, from the lanes of the sources.
    pub(super) fn apply(&self, kx: &mut Kx, lanes: &FixedLanes, sources: &[Value]) -> Value {
        let mut sum = lanes.offset;
        for (two, pairs) in sources.chunks(2).zip(&lanes.pairs) {
            let second = two.get(1).copied().unwrap_or_else(|| kx.splat_const(DType::I16, 0));
            let values = kx.pair(two[0], second);
            let coefs = kx.load_pairs(pairs.clone());
            let product = kx.dot2(values, coefs);
            sum = kx.add(sum, product);
        }
        sum
    }
}

/// Where a gradient passes: recomputed from the sources of the forward value, before rounding.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) sources: Vec<Source>,
    pub(super) fixed: Fixed,
    /// Below zero stops (ReLU).
    pub(super) low: bool,
    /// Outside of these codes stops (clipping).
    pub(super) levels: Option<Levels>,
    /// The clip is learned: its edges are the outer levels themselves, where its own gradient begins. Else they lie half
    /// a step beyond, and what rounds to the outer code still passes.
    pub(super) learned: bool,
    /// Which part passes.
    pub(super) part: Part,
}

/// The part of a value's range that a mask lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Inside of the bounds.
    Inside,
    /// Above the upper bound: what a learned clip cuts off.
    Above,
    /// Below the lower bound.
    Below,
}

/// The codes of a grid, as they come out of the shift: `lo..=hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    pub(super) lo: i32,
    pub(super) hi: i32,
    /// The largest code in force, above that of zero (`[1]` I64), where it is not always `hi`.
    pub(super) in_force: Option<BufferId>,
}

/// A mask prepared for a block of channels.
pub(super) struct MaskLanes {
    fixed: FixedLanes,
    above: Option<Value>,
    below: Option<Value>,
}

impl Mask {
    pub(super) fn prepare(&self, kx: &mut Kx, block: &super::cx::Coord) -> MaskLanes {
        let fixed = self.fixed.prepare(kx, block);
        let p = kx.read(self.fixed.shift);
        let k = kx.load_scalar(p.at(0));
        let one = kx.int(1);
        // u carries the rounding constant 2^(k−1): the value is positive where u exceeds it.
        let twice = kx.shift_left(one, k);
        let half = kx.shift_right(twice, 1);
        let above = match (self.low, self.levels) {
            (true, _) => Some(half),
            (false, Some(levels)) => {
                let lo = levels.lowest(kx);
                let lo = kx.shift_left(lo, k);
                // Without negative values there is no lower clip, and zero passes.
                Some(if self.learned && levels.lo > 0 { kx.add(lo, half) } else { kx.sub(lo, one) })
            }
            (false, None) => None,
        };
        let below = self.levels.map(|levels| {
            let hi = levels.above_highest(kx, if self.learned { 0 } else { 1 });
            let hi = kx.shift_left(hi, k);
            if self.learned { kx.add(hi, half) } else { hi }
        });
        let above = above.map(|v| splat_clamped(kx, v));
        let below = below.map(|v| splat_clamped(kx, v));
        MaskLanes { fixed, above, below }
    }

    /// I16 lanes: −1 where the gradient passes, else 0. None if it passes everywhere.
    pub(super) fn lanes(&self, kx: &mut Kx, prepared: &MaskLanes, at: &At) -> Option<Value> {
        if prepared.above.is_none() && prepared.below.is_none() {
            return None;
        }
        let sources: Vec<Value> = self.sources.iter().map(|s| s.load(kx, at)).collect();
        let u = self.fixed.apply(kx, &prepared.fixed, &sources);
        let above = match self.part {
            Part::Inside => prepared.above.map(|edge| kx.lt(edge, u)),
            Part::Above => prepared.below.map(|edge| kx.le(edge, u)),
            Part::Below => prepared.above.map(|edge| kx.le(u, edge)),
        };
        let below = prepared.below.filter(|_| self.part == Part::Inside).map(|edge| kx.lt(u, edge));
        let both = match (above, below) {
            (Some(a), Some(b)) => kx.and(a, b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return None,
        };
        Some(kx.narrow(DType::I16, both))
    }
}

/// Lanes of an Int that may exceed 32 bits: every u lies below 2^31 − 1 in size, so clamping there changes nothing.
fn splat_clamped(kx: &mut Kx, v: Value) -> Value {
    let v = kx.clamp(v, -i32::MAX, i32::MAX);
    kx.splat(DType::I32, v)
}
