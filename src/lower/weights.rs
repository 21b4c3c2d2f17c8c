//! Weights: quantized and packed at the start of a step, updated at its end.
//!
//! Masters are i32 in Q28, `[in channels][taps][out channels]`, momentum i32 in Q24. Codes are `round(master·inverse)`
//! with one inverse per output channel or tensor; the scale is the exact reciprocal of that inverse, so that code and
//! scale agree to the last bit. Two packings: for the forward contraction and, transposed, for the data gradient.

use super::affine::Levels;
use super::contract::Conv;
use super::cx::{Cx, Kx, SUM, Shape};
use super::initial::Start;
use super::layout::{groups4, transpose16};
use crate::kernel::{BufferId, DType, Index, Range, Value};

/// Fraction bits of masters.
pub(super) const MASTER_BITS: i64 = 28;
/// Masters and momentum saturate symmetrically.
pub(super) const STATE: Range = Range::new(-(i32::MAX as i64), i32::MAX as i64);
/// A channel whose weights are all below 2^-20 is scaled as if its largest were that.
const QUIET: i64 = 1 << (MASTER_BITS - 20);

/// A parameter: master and momentum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Master {
    pub(super) value: BufferId,
    pub(super) momentum: Option<BufferId>,
}

/// Quantized weights of one layer.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub(super) levels: i32,
    /// The largest code in force, where it is not always `levels`.
    pub(super) in_force: Option<BufferId>,
    /// `[out block][tap][in/4][16 out][4 in]`, i8; of a depthwise convolution `[tap][channel]`.
    pub(super) forward: BufferId,
    /// `[in block][tap][out/4][16 in][4 out]`, i8; absent where no data gradient is taken, and in a depthwise convolution.
    pub(super) transposed: Option<BufferId>,
    /// s_w per output channel, dyadic (equal for all if the scheme is per tensor).
    pub(super) scale: BufferId,
    /// Σ|code| per output channel, i64.
    pub(super) norms: BufferId,
}

/// What shares a scale, and the part of its largest magnitude that its codes cover.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granule {
    pub(super) per_channel: bool,
    pub(super) fraction: f64,
}

/// Padded input channels of the code array.
fn rows(conv: &Conv) -> u32 {
    if conv.depthwise { 1 } else { conv.input.cp() }
}

/// Codes of so many bits.
pub(super) fn levels(bits: u32) -> Levels {
    let hi = (1 << (bits - 1)) - 1;
    Levels::all(-hi, hi)
}

/// Appends quantization and packing.
pub(super) fn quantize(
    cx: &mut Cx,
    path: &str,
    conv: Conv,
    master: Master,
    levels: Levels,
    granule: Granule,
    transposed: bool,
) -> Weights {
    let (cop, taps) = (conv.output.cp(), conv.taps());
    let code_range = Range::new(levels.lo.into(), levels.hi.into());
    let norm = Range::new(0, SUM.hi);
    let inverse = cx.temp(format!("{path}.weight_inverse"), DType::I32, &[cop], Range::new(0, 1 << 30));
    let shift = cx.temp(format!("{path}.weight_shift"), DType::I64, &[1], Range::new(31, 62));
    let scale = cx.dyadics(format!("{path}.weight_scale"), cop);
    let codes = cx.temp(format!("{path}.weight_codes"), DType::I8, &[taps, rows(&conv), cop], code_range);
    let norms = cx.temp(format!("{path}.weight_norms"), DType::I64, &[cop], norm);
    scales(cx, path, &conv, master, levels, granule, (inverse, shift, scale));
    code(cx, &conv, master, levels, (inverse, shift), codes);
    reduce(cx, &conv, codes, norms);
    if conv.depthwise {
        return Weights {
            levels: levels.hi,
            in_force: levels.in_force,
            forward: codes,
            transposed: None,
            scale,
            norms,
        };
    }
    let forward = pack_forward(cx, path, &conv, codes, code_range);
    let transposed = transposed.then(|| pack_transposed(cx, path, &conv, codes, code_range));
    Weights { levels: levels.hi, in_force: levels.in_force, forward, transposed, scale, norms }
}

/// Largest master per channel, then inverse, shift and scale.
fn scales(
    cx: &mut Cx,
    path: &str,
    conv: &Conv,
    master: Master,
    levels: Levels,
    granule: Granule,
    (inverse, shift, scale): (BufferId, BufferId, BufferId),
) {
    let (cop, n) = (conv.output.cp(), conv.depth() * conv.taps());
    let largest =
        cx.temp(format!("{path}.weight_largest"), DType::I32, &[cop], Range::new(0, i32::MAX as i64));
    let inverses = cx.dyadics(format!("{path}.weight_inverses"), cop);
    let top = cx.temp(format!("{path}.weight_top"), DType::I64, &[1], Range::new(0, i32::MAX as i64));
    cx.call("weight_scales", 1, |kx| {
        largest_masters(kx, (cop, n), master, largest);
        let (l, t) = (kx.read(largest), kx.update(top));
        kx.fill(t.at(0), 1, QUIET);
        if !granule.per_channel {
            kx.for_(cop, |kx, c| {
                let v = kx.load_scalar(l.at(0).plus(c, 1));
                kx.max_into(t.at(0), v);
            });
        }
        let largest_inverse = exact_inverses(kx, cop, (largest, top), levels, granule, (inverses, scale));
        let e = kx.exponent(largest_inverse);
        // Inverses lie below 127/QUIET < 1/2, so that k ≥ 31 and the product of two 31-bit numbers fits after the shift. Of
        // a channel as quiet as that which is clipped too, the inverse is cut to 1/2.
        let e = kx.clamp(e, -32, -1);
        let limit = kx.int(30);
        let k = kx.sub(limit, e);
        let sh = kx.write(shift);
        kx.store(sh.at(0), k);
        fixed_inverses(kx, cop, inverses, k, (inverse, scale));
    });
}

/// The largest |master| of each channel.
fn largest_masters(kx: &mut Kx, (cop, n): (u32, u32), master: Master, largest: BufferId) {
    let (w, l) = (kx.read(master.value), kx.update(largest));
    let zero = kx.splat_const(DType::I32, 0);
    kx.for_(cop / 16, |kx, b| {
        kx.store(l.at(0).plus(b, 16), zero);
        kx.for_(n, |kx, r| {
            let lanes = kx.load(w.at(0).plus(r, cop as i64).plus(b, 16));
            let size = kx.abs(lanes);
            kx.max_into(l.at(0).plus(b, 16), size);
        });
    });
}

/// Codes per unit of each channel's masters; gives the largest.
fn exact_inverses(
    kx: &mut Kx,
    cop: u32,
    (largest, top): (BufferId, BufferId),
    levels: Levels,
    Granule { per_channel, fraction }: Granule,
    (inverses, scale): (BufferId, BufferId),
) -> Value {
    let (l, t, inv) = (kx.update(largest), kx.update(top), kx.update(inverses));
    let none = kx.real(0.0);
    let s = kx.update(scale);
    // The largest so far is kept in scale[0] until the scales are known.
    kx.store(s.at(0), none);
    kx.for_(cop, |kx, c| {
        let own = kx.load_scalar(l.at(0).plus(c, 1));
        let common = kx.load_scalar(t.at(0));
        let range = if per_channel { kx.max(own, common) } else { common };
        let range = kx.to_dyadic(range);
        let range = if fraction < 1.0 {
            let part = kx.real(fraction);
            kx.mul(range, part)
        } else {
            range
        };
        let levels = levels.steps(kx);
        let inverse = kx.div(levels, range);
        kx.store(inv.at(0).plus(c, 1), inverse);
        let known = kx.load_scalar(s.at(0));
        let v = kx.max(known, inverse);
        kx.store(s.at(0), v);
    });
    kx.load_scalar(s.at(0))
}

/// Inverses times 2^k as integers, and the scales that these stand for exactly.
fn fixed_inverses(
    kx: &mut Kx,
    cop: u32,
    inverses: BufferId,
    k: Value,
    (inverse, scale): (BufferId, BufferId),
) {
    let (inv, i, s) = (kx.update(inverses), kx.write(inverse), kx.update(scale));
    kx.for_(cop, |kx, c| {
        let v = kx.load_scalar(inv.at(0).plus(c, 1));
        let v = kx.to_fixed(v, k);
        let v = kx.clamp(v, 1, 1 << 30);
        kx.store(i.at(0).plus(c, 1), v);
        let q28 = kx.int(MASTER_BITS);
        let up = kx.sub(k, q28);
        let v = kx.to_dyadic(v);
        let one = kx.real(1.0);
        let v = kx.div(one, v);
        let v = kx.scale(v, up);
        kx.store(s.at(0).plus(c, 1), v);
    });
}

/// Codes of every master, and zero rows for padded input channels.
fn code(
    cx: &mut Cx,
    conv: &Conv,
    master: Master,
    levels: Levels,
    (inverse, shift): (BufferId, BufferId),
    codes: BufferId,
) {
    let (cop, ci, taps, rows) = (conv.output.cp() as i64, conv.depth(), conv.taps(), rows(conv));
    cx.call("weight_codes", taps, |kx| {
        let tap = kx.item();
        let (w, i, o) = (kx.read(master.value), kx.read(inverse), kx.write(codes));
        let k = kx.scalar(shift);
        let ends = levels.prepare(kx, DType::I32);
        kx.for_(cop as u32 / 16, |kx, b| {
            let inverse = kx.load(i.at(0).plus(b, 16));
            kx.for_(ci, |kx, r| {
                let w = kx.load(w.at(0).plus(r, taps as i64 * cop).plus(tap, cop).plus(b, 16));
                let q = mul_shift_clamped(kx, w, inverse, k, (levels, ends));
                kx.store(o.at(0).plus(tap, rows as i64 * cop).plus(r, cop).plus(b, 16), q);
            });
            if rows > ci {
                let zero = kx.splat_const(DType::I8, 0);
                kx.for_(rows - ci, |kx, r| {
                    let at = o.at(ci as i64 * cop).plus(tap, rows as i64 * cop).plus(r, cop).plus(b, 16);
                    kx.store(at, zero);
                });
            }
        });
    });
}

/// `(w·inverse) >> k` as I8 codes.
fn mul_shift_clamped(
    kx: &mut Kx,
    w: Value,
    inverse: Value,
    k: Value,
    (levels, ends): (Levels, Option<(Value, Value)>),
) -> Value {
    let q = kx.mul_shift(w, inverse, k);
    let q = levels.clamp(kx, q, ends);
    kx.narrow(DType::I8, q)
}

/// Σ|code| per output channel.
fn reduce(cx: &mut Cx, conv: &Conv, codes: BufferId, norms: BufferId) {
    let (cop, n) = (conv.output.cp() as i64, conv.taps() * rows(conv));
    cx.call("weight_norms", conv.output.blocks(), |kx| {
        let b = kx.item();
        let (q, out) = (kx.read(codes), kx.update(norms));
        kx.fill(out.at(0).plus(b, 16), 16, 0);
        kx.for_(n, |kx, r| {
            let v = kx.load(q.at(0).plus(r, cop).plus(b, 16));
            let v = kx.widen(DType::I16, v);
            let size = kx.abs(v);
            kx.acc64(out.at(0).plus(b, 16), size);
        });
    });
}

fn pack_forward(cx: &mut Cx, path: &str, conv: &Conv, codes: BufferId, range: Range) -> BufferId {
    let (cop, rows, taps, groups) =
        (conv.output.cp() as i64, rows(conv) as i64, conv.taps(), conv.in_groups());
    let blocks = conv.output.blocks();
    let packed = cx.temp(format!("{path}.weight_packed"), DType::I8, &[blocks, taps, groups, 64], range);
    cx.call("pack_forward", taps, |kx| {
        let tap = kx.item();
        let (q, o) = (kx.read(codes), kx.write(packed));
        kx.for_(blocks, |kx, b| {
            kx.for_(groups, |kx, g| {
                let rows4 = std::array::from_fn(|i| {
                    let at = q.at(i as i64 * cop).plus(tap, rows * cop).plus(g, 4 * cop).plus(b, 16);
                    kx.load(at)
                });
                let to =
                    o.at(0).plus(b, (taps * groups * 64) as i64).plus(tap, groups as i64 * 64).plus(g, 64);
                for (i, v) in groups4(kx, rows4).into_iter().enumerate() {
                    kx.store(to.clone().offset(16 * i as i64), v);
                }
            });
        });
    });
    packed
}

/// Taps from the last to the first, except for a linear layer's: so a data gradient moves forward through both operands.
fn pack_transposed(cx: &mut Cx, path: &str, conv: &Conv, codes: BufferId, range: Range) -> BufferId {
    let (cop, rows, taps) = (conv.output.cp() as i64, rows(conv) as i64, conv.taps());
    let (in_blocks, groups) = (conv.input.blocks(), conv.out_groups());
    // Groups beyond the channels lie in the last block of 16: they are written nowhere.
    let packed =
        cx.temp(format!("{path}.weight_transposed"), DType::I8, &[in_blocks, taps, groups, 64], range);
    cx.call("pack_transposed", taps, |kx| {
        let tap = kx.item();
        let (q, o) = (kx.read(codes), kx.write(packed));
        kx.for_(in_blocks, |kx, ib| {
            let place = groups as i64 * 64;
            let (start, step) = if conv.whole { (0, place) } else { ((taps as i64 - 1) * place, -place) };
            let to = o.at(start).plus(ib, (taps * groups * 64) as i64).plus(tap, step);
            let block = |kx: &mut Kx, ob: Option<Index>, first: u32, live: u32| {
                let lanes = (0..16)
                    .map(|i| {
                        let at = q.at(i * cop + first as i64).plus(tap, rows * cop).plus(ib, 16 * cop);
                        kx.load(ob.map_or(at.clone(), |b| at.plus(b, 16)))
                    })
                    .collect();
                let columns = transpose16(kx, lanes);
                for g in 0..live as usize {
                    let four = [columns[4 * g], columns[4 * g + 1], columns[4 * g + 2], columns[4 * g + 3]];
                    let to = to.clone().offset((first as i64 / 4 + g as i64) * 64);
                    let to = ob.map_or(to.clone(), |b| to.plus(b, 4 * 64));
                    for (i, v) in groups4(kx, four).into_iter().enumerate() {
                        kx.store(to.clone().offset(16 * i as i64), v);
                    }
                }
            };
            if groups >= 4 {
                kx.for_(groups / 4, |kx, ob| block(kx, Some(ob), 0, 4));
            }
            if groups % 4 > 0 {
                block(kx, None, groups / 4 * 16, groups % 4);
            }
        });
    });
    packed
}

/// Where an update's gradient comes from.
pub(super) enum Gradient {
    /// Sums of products of codes, i64 like the master, with a dyadic unit per output channel or one.
    Codes(BufferId, BufferId),
    /// One dyadic per channel.
    Real(BufferId),
}

/// Scalars of the optimizer that updates read: rate Q24, momentum Q16, decay Q36, random keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Optimizer {
    /// Learning rate, i64 Q24.
    pub(super) rate: BufferId,
    /// Momentum, Q16.
    pub(super) momentum: i64,
    /// Weight decay, Q36.
    pub(super) decay: i64,
}

/// Random keys of one parameter: for its momentum and for its value.
pub(super) type Keys = (BufferId, BufferId);

/// Appends the update of a parameter of `n` rows of `cp` channels:
/// `m = SR16(m·μ + g·2^40 + decay·w)`, `w −= SR20(rate·m)`, in i64, saturating.
pub(super) fn update(
    cx: &mut Cx,
    path: &str,
    (n, cp): (u32, u32),
    master: Master,
    gradient: Gradient,
    decay: bool,
    optimizer: Optimizer,
    keys: Keys,
) {
    let momentum = master.momentum.expect("trained parameters have momentum");
    let items = (1..=64.min(n)).rev().find(|i| n.is_multiple_of(*i)).unwrap_or(1);
    let scratch = cx.temp(format!("{path}.random"), DType::I32, &[items, 32], Range::new(0, 65535));
    let unit = match gradient {
        Gradient::Codes(_, unit) => Some(factors(cx, path, unit, cp)),
        Gradient::Real(_) => None,
    };
    let rows = n / items;
    cx.call("update", items, |kx| {
        let item = kx.item();
        let (w, m, r) = (kx.update(master.value), kx.update(momentum), kx.update(scratch));
        let (k0, k1) = (kx.scalar(keys.0), kx.scalar(keys.1));
        let rate = kx.scalar(optimizer.rate);
        let blocks = cp as i64 / 16;
        kx.for_(rows, |kx, row| {
            kx.for_(cp / 16, |kx, b| {
                for (i, key) in [k0, k1].into_iter().enumerate() {
                    let terms = [(item, rows as i64 * blocks), (row, blocks), (b, 1)];
                    let bits = kx.random(key, &terms, 0);
                    let bits = kx.widen(DType::I32, bits);
                    let mask = kx.splat_const(DType::I32, 0xffff);
                    let bits = kx.and(bits, mask);
                    kx.store(r.at(16 * i as i64).plus(item, 32), bits);
                }
                kx.for_(16, |kx, lane| {
                    let place = |p: crate::kernel::Param| {
                        p.at(0)
                            .plus(item, rows as i64 * cp as i64)
                            .plus(row, cp as i64)
                            .plus(b, 16)
                            .plus(lane, 1)
                    };
                    let g = match (&gradient, unit) {
                        (Gradient::Codes(sums, _), Some(unit)) => {
                            let sums = kx.read(*sums);
                            let g = kx.load_scalar(place(sums));
                            unit.apply(kx, g, b, lane)
                        }
                        (Gradient::Real(values), _) | (Gradient::Codes(values, _), None) => {
                            let v = kx.read(*values);
                            let v = kx.load_scalar(place(v));
                            kx.to_fixed(v, 40)
                        }
                    };
                    let g = clamp(kx, g, 1 << 55);
                    let w0 = kx.load_scalar(place(w));
                    let m0 = kx.load_scalar(place(m));
                    let mu = kx.int(optimizer.momentum);
                    let kept = kx.mul(m0, mu);
                    let mut sum = kx.add(kept, g);
                    if decay && optimizer.decay > 0 {
                        let d = kx.int(optimizer.decay);
                        let v = kx.mul(w0, d);
                        let v = kx.shift_right(v, 24);
                        sum = kx.add(sum, v);
                    }
                    let r0 = kx.load_scalar(r.at(0).plus(item, 32).plus(lane, 1));
                    let sum = kx.add(sum, r0);
                    let m1 = kx.shift_right(sum, 16);
                    let m1 = clamp(kx, m1, i32::MAX as i64);
                    kx.store(place(m), m1);
                    let step = kx.mul(m1, rate);
                    let r1 = kx.load_scalar(r.at(16).plus(item, 32).plus(lane, 1));
                    let r1 = kx.shift_left(r1, 4);
                    let step = kx.add(step, r1);
                    let step = kx.shift_right(step, 20);
                    let w1 = kx.sub(w0, step);
                    let w1 = clamp(kx, w1, i32::MAX as i64);
                    kx.store(place(w), w1);
                });
            });
        });
    });
}

/// Left shifts come in two of at most so many bits: by both, the smallest gradient saturates any momentum.
const RAISE: i64 = 13;

/// A dyadic unit as mantissa and shift to Q40.
#[derive(Clone, Copy)]
struct Factor {
    mantissa: BufferId,
    shift: BufferId,
}

/// Mantissas of 24 bits and right shifts, per channel.
fn factors(cx: &mut Cx, path: &str, unit: BufferId, cp: u32) -> Factor {
    let mantissa =
        cx.temp(format!("{path}.unit_mantissa"), DType::I64, &[cp], Range::new(-(1 << 24), 1 << 24));
    let shift = cx.temp(format!("{path}.unit_shift"), DType::I64, &[cp], Range::new(-2 * RAISE, 62));
    cx.call("gradient_units", 1, |kx| {
        let (m, s) = (kx.write(mantissa), kx.write(shift));
        kx.for_(cp, |kx, c| {
            let v = kx.per_channel(unit, c);
            let e = kx.exponent(v);
            let e = kx.clamp(e, -1024, 1024);
            let bits = kx.int(24);
            let up = kx.sub(bits, e);
            let mantissa = kx.to_fixed(v, up);
            let mantissa = kx.clamp(mantissa, -(1 << 24), 1 << 24);
            kx.store(m.at(0).plus(c, 1), mantissa);
            // value·2^40 = mantissa·2^(40 − up)
            let q = kx.int(40);
            let down = kx.sub(up, q);
            let down = kx.clamp(down, -2 * RAISE as i32, 62);
            kx.store(s.at(0).plus(c, 1), down);
        });
    });
    Factor { mantissa, shift }
}

impl Factor {
    fn apply(self, kx: &mut Kx, g: Value, b: Index, lane: Index) -> Value {
        let (m, s) = (kx.read(self.mantissa), kx.read(self.shift));
        let m = kx.load_scalar(m.at(0).plus(b, 16).plus(lane, 1));
        let s = kx.load_scalar(s.at(0).plus(b, 16).plus(lane, 1));
        // Sums of products lie far below 2^36, and 2^24 times that fits. Shifts to the left come after it, each of a value
        // that was limited first.
        let g = clamp(kx, g, (1 << 36) - 1);
        let product = kx.mul(g, m);
        let zero = kx.int(0);
        let right = kx.max(s, zero);
        let down = kx.shift_right_round(product, right);
        let negated = kx.sub(zero, s);
        let left = kx.max(negated, zero);
        let whole = kx.int(RAISE);
        let first = kx.min(left, whole);
        let second = kx.sub(left, first);
        let second = kx.clamp(second, 0, RAISE as i32);
        // A quiet channel has a large unit. Momentum saturates at 2^47 in Q40, so nothing is lost beyond 2^49.
        [first, second].into_iter().fold(down, |v, by| {
            let limited = clamp(kx, v, 1 << 49);
            kx.shift_left(limited, by)
        })
    }
}

/// `−limit..=limit`.
pub(super) fn clamp(kx: &mut Kx, v: Value, limit: i64) -> Value {
    let (lo, hi) = (kx.int(-limit), kx.int(limit));
    let v = kx.min(v, hi);
    kx.max(v, lo)
}

/// A parameter of one row of channels.
pub(super) fn vector(cx: &mut Cx, name: &str, c: u32, value: f64, train: bool) -> Master {
    let cp = Shape { n: 1, h: 1, w: 1, c }.cp();
    let start = (value * (1i64 << MASTER_BITS) as f64).round() as i64;
    let fill = Start::Values((0..cp).map(|i| if i < c { start } else { 0 }).collect());
    let value = cx.state(name.to_string(), DType::I32, &[cp], STATE, fill);
    Master { value, momentum: train.then(|| momentum(cx, name, &[cp])) }
}

/// The momentum of a parameter.
pub(super) fn momentum(cx: &mut Cx, name: &str, extents: &[u32]) -> BufferId {
    cx.state(format!("{name}.momentum"), DType::I32, extents, STATE, Start::Each(0))
}

/// A vector parameter as real numbers: dyadics per channel, in its own scalar kernel section.
pub(super) fn load_real(kx: &mut Kx, master: Master, c: Index) -> Value {
    let p = kx.read(master.value);
    let v = kx.load_scalar(p.at(0).plus(c, 1));
    let v = kx.to_dyadic(v);
    let down = kx.int(-MASTER_BITS);
    kx.scale(v, down)
}
