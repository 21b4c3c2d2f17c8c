//! Scales of rows: each row of a channel of an image has a small multiple of the tensor's finest step as its own; where an
//! image is one pixel, its channels share one.
//!
//! With few bits the noise of a code follows the largest value of its granule, and gradients of images that are learned
//! already are far below those of the worst. A row takes the smallest multiplier m whose largest code reaches its largest
//! value (times the scheme's fraction). What is stored is the code times m: a byte holds it, sums over rows stay those of
//! one scale, and no contraction needs to know. The row's values are kept as fixed point while its largest is found, so
//! that nothing is computed twice; times 1/m, they are what every rounding rule expects.

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
    /// Part of a row's largest value that its codes cover.
    covered: f64,
    /// The row in fixed point, `[items][pixels or blocks][16]` I16.
    values: BufferId,
    length: u32,
    /// Largest |value|, `[items][16]` I16.
    largest: BufferId,
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
}

impl RowScales {
    /// For the gradient at `path` of `shape`, if its rows have scales.
    pub(super) fn new(cx: &mut Cx, path: &str, params: &Attrs, shape: Shape) -> Option<RowScales> {
        let extents = [shape.n, shape.h, shape.w, shape.c].map(u64::from);
        let (_, scales) = quant::row_of(&extents).filter(|_| quant::per_row(params))?;
        let shared = scales == 1 && shape.h * shape.w == 1;
        let (bits, length) = (quant::bits(params), if shared { shape.blocks() } else { shape.w });
        let limit = Self::limit_of(bits) as i64;
        let items = shape.items();
        let mut buffer = |name: &str, dtype, extents: &[u32], range| {
            cx.temp(format!("{path}.row_{name}"), dtype, extents, range)
        };
        Some(RowScales {
            bits,
            covered: quant::covered(params),
            values: buffer("values", DType::I16, &[items, length, 16], Range::new(-limit, limit)),
            length,
            largest: buffer("largest", DType::I16, &[items, 16], Range::new(0, limit)),
            common: shared.then(|| buffer("common", DType::I64, &[items], Range::new(0, limit))),
            multiplier: buffer(
                "multiplier",
                DType::I16,
                &[items, 16],
                Range::new(1, 1 << (STORED_BITS - bits)),
            ),
            reciprocal: buffer("reciprocal", DType::I16, &[items, 16], Range::new(1, 1 << 14)),
        })
    }

    /// Whether the channels of an image, which is one pixel, share a scale.
    pub(super) fn is_shared(&self) -> bool {
        self.common.is_some()
    }

    /// Largest stored code.
    pub(super) fn largest_code(&self) -> i32 {
        Self::limit_of(self.bits) >> FRACTION
    }

    /// Largest fixed-point value: the largest code with the largest shift.
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
        let (to, zero) = (Self::lanes(kx, self.largest), kx.splat_const(DType::I16, 0));
        kx.store(to, zero);
    }

    /// Keeps a pixel's values, fixed point within `limit`.
    pub(super) fn keep(&self, kx: &mut Kx, at: &At, v: Value) {
        let (to, size) = (self.value_at(kx, at), kx.abs(v));
        kx.store(to, v);
        let largest = Self::lanes(kx, self.largest);
        kx.max_into(largest, size);
    }

    /// A pixel's values again.
    pub(super) fn value(&self, kx: &mut Kx, at: &At) -> Value {
        let from = self.value_at(kx, at);
        kx.load(from)
    }

    /// Largest |value| of the row, in every lane.
    fn seen(&self, kx: &mut Kx) -> Value {
        let lanes = Self::lanes(kx, self.largest);
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
        let largest = self.seen(kx);
        let splat = |kx: &mut Kx, v: i32| kx.splat_const(DType::I16, v);
        let reciprocal_of = |m: u32| quant::row_reciprocal(m) as i32;
        let multipliers = quant::row_multipliers(self.bits);
        let (mut multiplier, mut reciprocal) = (splat(kx, 1), splat(kx, reciprocal_of(1)));
        for pair in multipliers.windows(2) {
            let covered = f64::from((gradient_levels(self.bits) * pair[0] as i32) << FRACTION) / self.covered;
            if covered >= f64::from(self.limit()) {
                break;
            }
            let covered = splat(kx, covered as i32);
            let beyond = kx.lt(covered, largest);
            let (m, r) = (splat(kx, pair[1] as i32), splat(kx, reciprocal_of(pair[1])));
            multiplier = kx.select(beyond, m, multiplier);
            reciprocal = kx.select(beyond, r, reciprocal);
        }
        // Through memory, where their ranges are known.
        let through = |kx: &mut Kx, buffer: BufferId, v: Value| {
            let at = Self::lanes(kx, buffer);
            kx.store(at.clone(), v);
            kx.load(at)
        };
        let multiplier = through(kx, self.multiplier, multiplier);
        let reciprocal = through(kx, self.reciprocal, reciprocal);
        let half = splat(kx, 1 << (row_point(self.bits) - 1));
        let reciprocal = kx.pair(reciprocal, half);
        RowScale { bits: self.bits, multiplier, reciprocal }
    }
}

impl RowScale {
    /// Bits of a code before it is multiplied.
    pub(super) fn bits(self) -> u32 {
        self.bits
    }

    /// A value that was kept, in units of the row's codes: fixed point with 16 − bits fraction bits, within the levels.
    pub(super) fn scaled(self, kx: &mut Kx, v: Value) -> Value {
        let one = kx.splat_const(DType::I16, 1);
        let v = kx.pair(v, one);
        let v = kx.dot2(v, self.reciprocal);
        let v = kx.shift_right(v, row_point(self.bits) as u8);
        let v = kx.narrow(DType::I16, v);
        let limit = RowScales::limit_of(self.bits);
        kx.clamp(v, -limit, limit)
    }

    /// The stored code.
    pub(super) fn stored(self, kx: &mut Kx, code: Value) -> Value {
        kx.mul(code, self.multiplier)
    }
}
