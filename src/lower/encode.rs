//! The map pass: an affine value becomes codes, in every layout that its consumers read.
//!
//! One pass over the sources serves all encodings of a tensor; each row of codes is copied into the other layouts
//! while it is in cache. Random bits belong to logical blocks, so they do not depend on the order of anything.

use super::affine::{Affine, Fixed, Levels, Source};
use super::cx::{At, Coord, Cx, Kx, Shape};
use super::gather::narrow_wide;
use super::layout::{Bordered, copy_blocked};
use super::row_scales::{RowScale, RowScales};
use crate::kernel::{BufferId, DType, Value};
use crate::quant::STORED_BITS;

/// How a code is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Up with the probability of the fraction, by the bits of this key (i64).
    Stochastic(BufferId),
    /// To nearest.
    Nearest,
    /// By the lower half of the fraction's own bits (NITI).
    PseudoStochastic,
    /// To a power of two, up with the probability of what is above the lower one (LUQ), by the bits of this key (i64).
    Logarithmic(BufferId),
}

/// Where the codes of an encoding go.
pub(super) enum Output {
    /// Activations: U8 codes in NHWC with their border.
    Activation {
        levels: Levels,
        zero: i32,
        nhwc: Bordered,
        /// Largest value, for ranges; in whole codes, unless there are fewer than two.
        largest: Option<Largest>,
    },
    /// Gradients.
    Gradient(Gradient),
    /// 16-bit integers, ties up.
    Wide { store: Source, relu: bool },
}

/// Codes of gradients: U8 above `2^(bits−1)` in NHWC with a border, and I8 blocks.
#[derive(Clone, Copy)]
pub(super) struct Gradient {
    /// Of stored codes.
    pub(super) bits: u32,
    /// Steps of the grid from zero to the end of the range: the largest code, where rows have no scales.
    pub(super) steps: i32,
    /// A scale for each row of a channel.
    pub(super) rows: Option<RowScales>,
    pub(super) rounding: Rounding,
    pub(super) nhwc: Option<Bordered>,
    pub(super) blocked: Option<Blocked>,
    /// Largest value, for ranges.
    pub(super) largest: Option<Largest>,
    /// Σ codes, `[items][channels]` i64.
    pub(super) sums: Option<BufferId>,
}

/// Largest |v| before clipping, `[items][channels]` I16.
#[derive(Clone, Copy)]
pub(super) struct Largest {
    pub(super) buffer: BufferId,
    /// Bits below the code: with fewer than a gradient's code is rounded from, values beyond the levels can be seen.
    pub(super) fraction: u32,
}

/// I8 codes for a weight gradient.
#[derive(Clone, Copy)]
pub(super) struct Blocked {
    pub(super) buffer: BufferId,
    pub(super) image: i64,
    /// Dense `[image][channel]` for linear layers, else blocks of four pixels made from `row`.
    pub(super) dense: bool,
    /// One row of codes an item: `[items][w][16]`.
    pub(super) row: BufferId,
}

/// One grid and where its codes go.
pub(super) struct Encoding<'a> {
    pub(super) fixed: &'a Fixed,
    pub(super) output: Output,
}

/// Appends the pass.
pub(super) fn encode(cx: &mut Cx, name: &str, value: &Affine, encodings: &[Encoding]) {
    assert!(value.masks.is_empty(), "masked gradients are gathered before they are encoded");
    let shape = value.shape;
    let items = shape.items();
    let group = (shape.n / items) as i64;
    cx.call(name, items, |kx| {
        let item = kx.item();
        encodings.iter().for_each(|e| e.clear(kx, shape));
        kx.for_(group as u32, |kx, image| {
            let n = Coord::default().plus(item, group).plus(image, 1);
            let shared = shared_scales(kx, value, encodings, &n);
            kx.for_(shape.blocks(), |kx, block| {
                let block = Coord::index(block);
                encodings.iter().for_each(|e| e.border(kx, &n, &block, shape));
                kx.for_(shape.h, |kx, row| {
                    let at =
                        At { n: n.clone(), y: Coord::index(row), x: Coord::default(), block: block.clone() };
                    emit_row(kx, value, encodings, &shared, &at);
                    encodings.iter().for_each(|e| e.copies(kx, &at, shape));
                });
            });
        });
    });
}

fn emit_row(kx: &mut Kx, value: &Affine, encodings: &[Encoding], shared: &[Option<RowScale>], at: &At) {
    let keys: Vec<_> = encodings.iter().map(|e| e.key(kx)).collect();
    let own = row_scales(kx, value, encodings, at);
    let scales: Vec<_> = shared.iter().zip(own).map(|(shared, own)| shared.or(own)).collect();
    // What rows have scales of is fixed point already.
    let grids: Vec<_> = encodings
        .iter()
        .map(|e| e.rows().is_none().then(|| (e.fixed.prepare(kx, &at.block), kx.scalar(e.fixed.shift))))
        .collect();
    let ends: Vec<_> = encodings.iter().map(|e| e.ends(kx)).collect();
    let computed = grids.iter().any(Option::is_some);
    kx.for_(value.shape.w, |kx, x| {
        let at = At { x: Coord::index(x), ..at.clone() };
        let terms = if computed { &value.terms[..] } else { &[] };
        let sources: Vec<Value> = terms.iter().map(|t| t.source.load(kx, &at)).collect();
        for (i, e) in encodings.iter().enumerate() {
            if let Some((prepared, shift)) = &grids[i] {
                let u = e.fixed.apply(kx, prepared, &sources);
                e.store(kx, u, *shift, (keys[i], ends[i]), &at, value.shape);
            } else if let Output::Gradient(gradient @ Gradient { rows: Some(rows), .. }) = &e.output {
                let v = rows.value(kx, &at);
                gradient.store(kx, v, (keys[i], scales[i]), &at, value.shape);
            }
        }
    });
}

/// The scales that the channels of an image share.
fn shared_scales(kx: &mut Kx, value: &Affine, encodings: &[Encoding], n: &Coord) -> Vec<Option<RowScale>> {
    let shares = |e: &Encoding| e.rows().filter(RowScales::is_shared);
    encodings.iter().filter_map(shares).for_each(|rows| rows.clear(kx));
    if encodings.iter().any(|e| shares(e).is_some()) {
        kx.for_(value.shape.blocks(), |kx, block| {
            let at = At { n: n.clone(), block: Coord::index(block), ..At::default() };
            keep_row(kx, value, encodings, shares, &at);
        });
    }
    encodings.iter().map(|e| shares(e).map(|rows| rows.choose(kx))).collect()
}

/// The scales that each channel of a row has for itself.
fn row_scales(kx: &mut Kx, value: &Affine, encodings: &[Encoding], at: &At) -> Vec<Option<RowScale>> {
    let own = |e: &Encoding| e.rows().filter(|rows| !rows.is_shared());
    encodings.iter().filter_map(own).for_each(|rows| rows.clear(kx));
    if encodings.iter().any(|e| own(e).is_some()) {
        keep_row(kx, value, encodings, own, at);
    }
    encodings.iter().map(|e| own(e).map(|rows| rows.choose(kx))).collect()
}

/// Keeps the values of a row in fixed point, for the encodings that want them.
fn keep_row(
    kx: &mut Kx,
    value: &Affine,
    encodings: &[Encoding],
    rows: impl Fn(&Encoding) -> Option<RowScales>,
    at: &At,
) {
    let wanted: Vec<_> = encodings.iter().filter_map(|e| Some((e, rows(e)?))).collect();
    let prepared: Vec<_> = wanted.iter().map(|(e, _)| e.fixed.prepare(kx, &at.block)).collect();
    let shifts: Vec<_> = wanted.iter().map(|(e, _)| kx.scalar(e.fixed.shift)).collect();
    kx.for_(value.shape.w, |kx, x| {
        let at = At { x: Coord::index(x), ..at.clone() };
        let sources: Vec<Value> = value.terms.iter().map(|t| t.source.load(kx, &at)).collect();
        for (i, (e, rows)) in wanted.iter().enumerate() {
            let u = e.fixed.apply(kx, &prepared[i], &sources);
            e.see(kx, u, shifts[i], &at, value.shape);
            let v = fixed_point(kx, u, shifts[i], fraction_bits(STORED_BITS), rows.limit());
            rows.keep(kx, &at, v);
        }
    });
}

impl Encoding<'_> {
    fn key(&self, kx: &mut Kx) -> Option<Value> {
        match &self.output {
            Output::Gradient(gradient) => match gradient.rounding {
                Rounding::Stochastic(key) | Rounding::Logarithmic(key) => Some(kx.scalar(key)),
                Rounding::Nearest | Rounding::PseudoStochastic => None,
            },
            _ => None,
        }
    }

    fn rows(&self) -> Option<RowScales> {
        match &self.output {
            Output::Gradient(gradient) => gradient.rows,
            _ => None,
        }
    }

    /// Starts the partial results of an item.
    fn clear(&self, kx: &mut Kx, shape: Shape) {
        let (item, cp) = (kx.item(), shape.cp());
        let (largest, sums) = match &self.output {
            Output::Activation { largest, .. } => (largest.map(|l| l.buffer), None),
            Output::Gradient(gradient) => (gradient.largest.map(|l| l.buffer), gradient.sums),
            Output::Wide { .. } => (None, None),
        };
        if let Some(largest) = largest {
            let p = kx.update(largest);
            let zero = kx.splat_const(DType::I16, 0);
            kx.for_(shape.blocks(), |kx, b| kx.store(p.at(0).plus(item, cp as i64).plus(b, 16), zero));
        }
        if let Some(sums) = sums {
            let p = kx.update(sums);
            kx.fill(p.at(0).plus(item, cp as i64), cp, 0);
        }
    }

    /// The ends of activation codes, where they move.
    fn ends(&self, kx: &mut Kx) -> Option<(Value, Value)> {
        match &self.output {
            Output::Activation { levels, .. } => levels.prepare(kx, DType::I16),
            _ => None,
        }
    }

    fn store(
        &self,
        kx: &mut Kx,
        u: Value,
        shift: Value,
        (key, ends): (Option<Value>, Option<(Value, Value)>),
        at: &At,
        shape: Shape,
    ) {
        match &self.output {
            Output::Activation { levels, zero, nhwc, largest } => {
                let code = kx.shift_right(u, shift);
                let code = kx.narrow(DType::I16, code);
                if let Some(largest) = largest {
                    let size = match largest.fraction {
                        0 => distance(kx, code, *zero),
                        fraction => {
                            let v = fixed_point(kx, u, shift, fraction, i16::MAX as i32);
                            // Half of a code is what rounds to nearest.
                            distance(kx, v, (*zero << fraction) + (1 << (fraction - 1)))
                        }
                    };
                    let address = partial(kx, largest.buffer, at, shape);
                    kx.max_into(address, size);
                }
                let code = levels.clamp(kx, code, ends);
                let code = kx.narrow(DType::U8, code);
                store_at(kx, nhwc.source, at, code);
            }
            Output::Gradient(gradient) => {
                let fraction = fraction_bits(gradient.bits);
                let v = fixed_point(kx, u, shift, fraction, gradient.steps << fraction);
                self.see(kx, u, shift, at, shape);
                gradient.store(kx, v, (key, None), at, shape);
            }
            Output::Wide { store, relu } => {
                let v = kx.shift_right(u, shift);
                let v = narrow_wide(kx, v);
                let v = if *relu {
                    let zero = kx.splat_const(DType::I16, 0);
                    kx.max(v, zero)
                } else {
                    v
                };
                store_at(kx, *store, at, v);
            }
        }
    }

    /// Follows the largest value, where a range needs it.
    fn see(&self, kx: &mut Kx, u: Value, shift: Value, at: &At, shape: Shape) {
        let Output::Gradient(Gradient { largest: Some(largest), .. }) = &self.output else { return };
        let v = fixed_point(kx, u, shift, largest.fraction, i16::MAX as i32);
        let size = kx.abs(v);
        let address = partial(kx, largest.buffer, at, shape);
        kx.max_into(address, size);
    }

    /// The border of NHWC.
    fn border(&self, kx: &mut Kx, n: &Coord, block: &Coord, shape: Shape) {
        let (nhwc, zero) = match &self.output {
            Output::Activation { zero, nhwc, .. } => (nhwc, *zero),
            Output::Gradient(Gradient { bits, nhwc: Some(nhwc), .. }) => (nhwc, 1 << (bits - 1)),
            _ => return,
        };
        let zero = kx.splat_const(DType::U8, zero);
        nhwc.fill(kx, n, block, shape, zero);
    }

    /// Copies of the row that was just written.
    fn copies(&self, kx: &mut Kx, at: &At, shape: Shape) {
        match &self.output {
            Output::Gradient(Gradient { blocked: Some(blocked), .. }) if !blocked.dense => {
                let out = kx.write(blocked.buffer);
                let quads = shape.w.div_ceil(4) as i64 * shape.cp() as i64 * 4;
                let to = at.y.address(at.n.address(out.at(0), blocked.image), quads);
                let to = at.block.address(to, 64);
                let zero = kx.splat_const(DType::I8, 0);
                let load = row_loader(kx, blocked.row, shape);
                copy_blocked(kx, &to, shape, zero, &load);
            }
            _ => {}
        }
    }
}

impl Gradient {
    /// Rounds a gradient in fixed point and stores its codes.
    fn store(
        &self,
        kx: &mut Kx,
        v: Value,
        (key, row): (Option<Value>, Option<RowScale>),
        at: &At,
        shape: Shape,
    ) {
        let Gradient { bits, steps, rounding, .. } = *self;
        let code = match row {
            None => round(kx, v, (bits, steps), rounding, key, at, shape),
            Some(row) => {
                let v = row.scaled(kx, v);
                let bits = (row.bits(), gradient_levels(row.bits()));
                let code = round(kx, v, bits, rounding, key, at, shape);
                row.stored(kx, code)
            }
        };
        if let Some(sums) = self.sums {
            let address = partial(kx, sums, at, shape);
            kx.acc64(address, code);
        }
        if let Some(nhwc) = self.nhwc {
            let bias = kx.splat_const(DType::I16, 1 << (bits - 1));
            let biased = kx.add(code, bias);
            let biased = kx.narrow(DType::U8, biased);
            store_at(kx, nhwc.source, at, biased);
        }
        if let Some(blocked) = self.blocked {
            let code = kx.narrow(DType::I8, code);
            blocked.store(kx, at, shape, code);
        }
    }
}

impl Blocked {
    fn store(&self, kx: &mut Kx, at: &At, shape: Shape, code: Value) {
        if !self.dense {
            return store_in_row(kx, self.row, at, shape, code);
        }
        let p = kx.write(self.buffer);
        let address = at.block.address(at.n.address(p.at(0), self.image), 16);
        kx.store(address, code);
    }
}

/// Puts the codes of a pixel into the item's row.
fn store_in_row(kx: &mut Kx, row: BufferId, at: &At, shape: Shape, code: Value) {
    let p = kx.update(row);
    let address = at.x.address(p.at(0).plus(kx.item(), shape.w as i64 * 16), 16);
    kx.store(address, code);
}

/// Loads codes of the item's row by column.
fn row_loader(kx: &mut Kx, row: BufferId, shape: Shape) -> impl Fn(&mut Kx, Coord) -> Value + use<> {
    let p = kx.update(row);
    let from = p.at(0).plus(kx.item(), shape.w as i64 * 16);
    move |kx, x| kx.load(x.address(from.clone(), 16))
}

fn partial(kx: &mut Kx, buffer: BufferId, at: &At, shape: Shape) -> crate::kernel::Address {
    let p = kx.update(buffer);
    at.block.address(p.at(0).plus(kx.item(), shape.cp() as i64), 16)
}

fn store_at(kx: &mut Kx, to: Source, at: &At, v: Value) {
    let p = kx.update(to.buffer);
    let address = to.of(p, at);
    kx.store(address, v);
}

/// Bits below a code while it is rounded.
pub(super) const fn fraction_bits(bits: u32) -> u32 {
    16 - bits
}

/// `u >> (k − F)` within `±limit`, I16. With the limit at the last level, adding F random bits cannot overflow.
fn fixed_point(kx: &mut Kx, u: Value, shift: Value, fraction: u32, limit: i32) -> Value {
    let f = kx.int(fraction as i64);
    let by = kx.sub(shift, f);
    let by = kx.clamp(by, 0, 31);
    let v = kx.shift_right(u, by);
    let v = kx.narrow(DType::I16, v);
    kx.clamp(v, -limit, limit)
}

/// |v − zero|, I16; far from zero, less than that.
fn distance(kx: &mut Kx, v: Value, zero: i32) -> Value {
    if zero == 0 {
        return v;
    }
    let z = kx.splat_const(DType::I16, zero);
    let low = kx.splat_const(DType::I16, -16384);
    let high = kx.splat_const(DType::I16, 16383);
    let limited = kx.min(v, high);
    let limited = kx.max(limited, low);
    let d = kx.sub(limited, z);
    kx.abs(d)
}

fn round(
    kx: &mut Kx,
    v: Value,
    (bits, levels): (u32, i32),
    rounding: Rounding,
    key: Option<Value>,
    at: &At,
    shape: Shape,
) -> Value {
    let f = fraction_bits(bits) as u8;
    let random = match (rounding, key) {
        (Rounding::Stochastic(_) | Rounding::Logarithmic(_), Some(key)) => {
            let blocks = shape.blocks() as i64;
            let (line, image) = (shape.w as i64 * blocks, shape.h as i64 * shape.w as i64 * blocks);
            let mut terms = vec![];
            let mut offset = 0;
            for (coord, stride) in [(&at.n, image), (&at.y, line), (&at.x, blocks), (&at.block, 1)] {
                terms.extend(coord.terms.iter().map(|&(i, m)| (i, m * stride)));
                offset += coord.offset * stride;
            }
            let r = kx.random(key, &terms, offset);
            if let Rounding::Logarithmic(_) = rounding {
                return logarithmic(kx, (v, r), f, levels);
            }
            let mask = kx.splat_const(DType::I16, (1 << f) - 1);
            kx.and(r, mask)
        }
        (Rounding::PseudoStochastic, _) => return pseudo_stochastic(kx, v, bits, levels),
        _ => kx.splat_const(DType::I16, 1 << (f - 1)),
    };
    let v = kx.add(v, random);
    kx.shift_right(v, f)
}

/// On magnitudes, up iff the upper half of the fraction exceeds the lower half. Added to the two's complement instead,
/// the lower half would carry less than half of the time on both sides of zero: a bias downwards, which sums show.
fn pseudo_stochastic(kx: &mut Kx, v: Value, bits: u32, levels: i32) -> Value {
    let f = fraction_bits(bits) as u8;
    let half = f / 2;
    let size = kx.abs(v);
    let low_bits = |kx: &mut Kx, n: u8| {
        let mask = kx.splat_const(DType::I16, (1 << n) - 1);
        kx.and(size, mask)
    };
    let (high, low) = (low_bits(kx, f), low_bits(kx, half));
    let high = kx.shift_right(high, half);
    let low = kx.shift_left(low, f % 2);
    let up = kx.lt(low, high); // −1 where it is true
    let whole = kx.shift_right(size, f);
    let size = kx.sub(whole, up);
    signed_like(kx, size, v, levels)
}

/// The magnitude to a multiple of the power of two below it, which leaves that power or the next; below 1, to 0 or 1.
fn logarithmic(kx: &mut Kx, (v, random): (Value, Value), f: u8, levels: i32) -> Value {
    let size = kx.abs(v);
    // All bits below the highest, and those of the fraction.
    let mut below = size;
    for by in [1u8, 2, 4, 8] {
        let part = kx.shift_right(below, by);
        below = kx.or(below, part);
    }
    let below = kx.shift_right(below, 1);
    let fraction = kx.splat_const(DType::I16, (1 << f) - 1);
    let below = kx.or(below, fraction);
    let part = kx.and(random, below);
    let size = kx.add(size, part);
    let part = kx.and(size, below);
    let size = kx.sub(size, part);
    let size = kx.shift_right(size, f);
    signed_like(kx, size, v, levels)
}

/// A magnitude with the sign of `v`, within ±`levels`.
fn signed_like(kx: &mut Kx, size: Value, v: Value, levels: i32) -> Value {
    let zero = kx.splat_const(DType::I16, 0);
    let negative = kx.lt(v, zero);
    let flipped = kx.xor(size, negative);
    let code = kx.sub(flipped, negative);
    kx.clamp(code, -levels, levels)
}

/// Largest absolute code of `bits`.
pub(super) const fn gradient_levels(bits: u32) -> i32 {
    (1 << (bits - 1)) - 1
}
