//! Scales of rows: each row of a channel of an image has a small multiple of the tensor's finest step as its own; where an
//! image is one pixel, its channels share one.
//!
//! With few bits the noise of a code follows the largest value of its granule, and gradients of images that are learned
//! already are far below those of the worst. A row takes the smallest multiplier m whose codes reach its values (times the
//! scheme's fraction). Codes are all of two's complement's, −2^(bits−1) to 2^(bits−1) − 1; so that the longer side serves
//! the larger values, m is negative where those are positive. What is stored is the code times m: a byte holds it, sums
//! over rows stay those of one scale, and no contraction needs to know. The row's values are kept as fixed point while its
//! extremes are found, so that nothing is computed twice; times 1/m, they are what every rounding rule expects.

use super::cx::{At, Cx, Kx, Shape};
use super::encode::gradient_levels;
use crate::kernel::{Address, BufferId, DType, Range, Value};
use crate::quant::{self, STORED_BITS, row_point};
use crate::types::Attrs;

/// Bits below a stored code of the values that are kept.
const FRACTION: u32 = 16 - STORED_BITS;

/// Where the values and the scale of the current row are kept; every buffer has a part for each item.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowScales {
    bits: u32,
    /// Part of a row's extremes that its codes cover.
    covered: f64,
    /// The row in fixed point, `[items][pixels or blocks][16]` I16.
    values: BufferId,
    length: u32,
    /// Largest value, and largest negated one, or zero: `[items][16]` I16.
    above: BufferId,
    below: BufferId,
    /// Of the channels together, where they share a scale: `[items]` I64.
    common: Option<BufferId>,
    /// The multipliers, `[items][16]` I16.
    multiplier: BufferId,
    /// Their [`quant::row_reciprocal`]s, `[items][16]` I16.
    reciprocal: BufferId,
}

/// A row's scale in a loop over its pixels, by lanes.
#[derive(Clone, Copy)]
pub(super) struct RowScale {
    bits: u32,
    multiplier: Value,
    /// Pairs of the reciprocal and of what rounds its product.
    reciprocal: Value,
    /// Largest |stored code|.
    largest_code: i32,
}

impl RowScales {
    /// For the gradient at `path` of `shape`, if its rows have scales.
    pub(super) fn new(cx: &mut Cx, path: &str, params: &Attrs, shape: Shape) -> Option<RowScales> {
        let extents = [shape.n, shape.h, shape.w, shape.c].map(u64::from);
        let (_, scales) = quant::row_of(&extents).filter(|_| quant::per_row(params))?;
        let shared = scales == 1 && shape.h * shape.w == 1;
        let (bits, length) = (quant::bits(params), if shared { shape.blocks() } else { shape.w });
        let limit = Self::limit_of(bits) as i64;
        let within = |limit: i64| Range::new(-limit, limit);
        let items = shape.items();
        let mut buffer = |name: &str, dtype, extents: &[u32], range| {
            cx.temp(format!("{path}.row_{name}"), dtype, extents, range)
        };
        Some(RowScales {
            bits,
            covered: quant::covered(params),
            values: buffer("values", DType::I16, &[items, length, 16], within(limit)),
            length,
            above: buffer("above", DType::I16, &[items, 16], within(limit)),
            below: buffer("below", DType::I16, &[items, 16], within(limit)),
            common: shared.then(|| buffer("common", DType::I64, &[items], within(limit))),
            multiplier: buffer("multiplier", DType::I16, &[items, 16], within(1 << (STORED_BITS - bits))),
            reciprocal: buffer("reciprocal", DType::I16, &[items, 16], within(1 << 14)),
        })
    }

    /// Whether the channels of an image, which is one pixel, share a scale.
    pub(super) fn is_shared(&self) -> bool {
        self.common.is_some()
    }

    /// Finest steps that the range of the tensor has.
    pub(super) fn steps(&self) -> i32 {
        Self::limit_of(self.bits) >> FRACTION
    }

    /// Largest |stored code|: with the largest multiplier codes stop short of −2^(bits−1), as no value is beyond the range.
    pub(super) fn largest_code(&self) -> i32 {
        let levels = gradient_levels(self.bits);
        let most = 1 << (STORED_BITS - self.bits);
        let stored = |m: u32| if m == most { levels } else { levels + 1 } * m as i32;
        quant::row_multipliers(self.bits).into_iter().map(stored).max().expect("there are multipliers")
    }

    /// Largest fixed-point value.
    pub(super) fn limit(&self) -> i32 {
        Self::limit_of(self.bits)
    }

    fn limit_of(bits: u32) -> i32 {
        gradient_levels(bits) << (16 - bits)
    }

    fn lanes(kx: &mut Kx, buffer: BufferId) -> Address {
        let (p, item) = (kx.update(buffer), kx.item());
        p.at(0).plus(item, 16)
    }

    fn value_at(&self, kx: &mut Kx, at: &At) -> Address {
        let (p, item) = (kx.update(self.values), kx.item());
        let index = if self.is_shared() { &at.block } else { &at.x };
        index.address(p.at(0).plus(item, self.length as i64 * 16), 16)
    }

    /// Starts a row.
    pub(super) fn clear(&self, kx: &mut Kx) {
        let zero = kx.splat_const(DType::I16, 0);
        for extreme in [self.above, self.below] {
            let to = Self::lanes(kx, extreme);
            kx.store(to, zero);
        }
    }

    /// Keeps a pixel's values, fixed point within `limit`.
    pub(super) fn keep(&self, kx: &mut Kx, at: &At, v: Value) {
        let (to, zero) = (self.value_at(kx, at), kx.splat_const(DType::I16, 0));
        let negated = kx.sub(zero, v);
        kx.store(to, v);
        for (extreme, v) in [(self.above, v), (self.below, negated)] {
            let to = Self::lanes(kx, extreme);
            kx.max_into(to, v);
        }
    }

    /// A pixel's values again.
    pub(super) fn value(&self, kx: &mut Kx, at: &At) -> Value {
        let from = self.value_at(kx, at);
        kx.load(from)
    }

    /// An extreme of the row, in every lane.
    fn seen(&self, kx: &mut Kx, extreme: BufferId) -> Value {
        let lanes = Self::lanes(kx, extreme);
        let Some(common) = self.common else { return kx.load(lanes) };
        let (p, item) = (kx.update(common), kx.item());
        let common = p.at(0).plus(item, 1);
        let zero = kx.int(0);
        kx.store(common.clone(), zero);
        kx.for_(16, |kx, c| {
            let v = kx.load_scalar(lanes.plus(c, 1));
            kx.max_into(common.clone(), v);
        });
        let largest = kx.load_scalar(common);
        kx.splat(DType::I16, largest)
    }

    /// The smallest multiplier that covers what the row has.
    pub(super) fn choose(&self, kx: &mut Kx) -> RowScale {
        let splat = |kx: &mut Kx, v: i32| kx.splat_const(DType::I16, v);
        let reciprocal_of = |m: u32| quant::row_reciprocal(m) as i32;
        let (above, below) = (self.seen(kx, self.above), self.seen(kx, self.below));
        let needed = self.needed(kx, above, below);
        let multipliers = quant::row_multipliers(self.bits);
        let (mut multiplier, mut reciprocal) = (splat(kx, 1), splat(kx, reciprocal_of(1)));
        for pair in multipliers.windows(2) {
            let covered = f64::from((gradient_levels(self.bits) * pair[0] as i32) << FRACTION) / self.covered;
            if covered >= f64::from(self.limit()) {
                break;
            }
            let covered = splat(kx, covered as i32);
            let beyond = kx.lt(covered, needed);
            let (m, r) = (splat(kx, pair[1] as i32), splat(kx, reciprocal_of(pair[1])));
            multiplier = kx.select(beyond, m, multiplier);
            reciprocal = kx.select(beyond, r, reciprocal);
        }
        let (mirrored, zero) = (kx.lt(below, above), splat(kx, 0));
        // Through memory, where their ranges are known.
        let mut through = |buffer: BufferId, v: Value| {
            let (at, negated) = (Self::lanes(kx, buffer), kx.sub(zero, v));
            let v = kx.select(mirrored, negated, v);
            kx.store(at.clone(), v);
            kx.load(at)
        };
        let (multiplier, reciprocal) =
            (through(self.multiplier, multiplier), through(self.reciprocal, reciprocal));
        let half = splat(kx, 1 << (row_point(self.bits) - 1));
        let reciprocal = kx.pair(reciprocal, half);
        RowScale { bits: self.bits, multiplier, reciprocal, largest_code: self.largest_code() }
    }

    /// What 2^(bits−1) − 1 steps must reach: the lesser extreme, and of the larger, which has one step more, its part.
    fn needed(&self, kx: &mut Kx, above: Value, below: Value) -> Value {
        let (larger, lesser) = (kx.max(above, below), kx.min(above, below));
        let last = kx.shift_right(larger, (self.bits - 1) as u8);
        let part = kx.sub(larger, last);
        kx.max(part, lesser)
    }
}

impl RowScale {
    /// Bits of a code before it is multiplied.
    pub(super) fn bits(self) -> u32 {
        self.bits
    }

    /// A value that was kept, in steps of the row: fixed point with 16 − bits fraction bits, no more than the largest code.
    pub(super) fn scaled(self, kx: &mut Kx, v: Value) -> Value {
        let one = kx.splat_const(DType::I16, 1);
        let v = kx.pair(v, one);
        let v = kx.dot2(v, self.reciprocal);
        let v = kx.shift_right(v, row_point(self.bits) as u8);
        // Saturated at the smallest code.
        let v = kx.narrow(DType::I16, v);
        let most = kx.splat_const(DType::I16, gradient_levels(self.bits) << (16 - self.bits));
        kx.min(v, most)
    }

    /// The stored code.
    pub(super) fn stored(self, kx: &mut Kx, code: Value) -> Value {
        let v = kx.mul(code, self.multiplier);
        kx.clamp(v, -self.largest_code, self.largest_code)
    }
}
