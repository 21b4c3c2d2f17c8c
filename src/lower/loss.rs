//! Softmax cross-entropy: probabilities in Q30 by a 256-entry interpolated exp2, the gradient with exact zero sum.
//!
//! Per sample and class, z in Q16 nats: e = 2^(−(z_max − z)·log2 e), p = e/Σe in Q30; the target's gradient is minus the
//! sum of the others. Loss = ln Σe + z_max − z_target, in Q16 nats. The gradient becomes 16 bits with a common shift.

use super::affine::{Source, Totals};
use super::cx::{Cx, Kx, SUM, Shape, WIDE};
use super::gather::Reduced;
use super::weights::{MASTER_BITS, clamp};
use crate::kernel::{Address, BufferId, DType, Index, Kind, Param, Range, Value};
use crate::numbers::{self, packed};

/// Logits: i32 accumulators of the last layer with what gives them meaning.
#[derive(Clone, Debug)]
pub(super) struct Logits {
    /// `[n][channels]` i32.
    pub(super) accumulators: BufferId,
    /// Real step per class, dyadic.
    pub(super) unit: BufferId,
    /// Bias per class in Q28 (i32 master), if any.
    pub(super) bias: Option<BufferId>,
    pub(super) shape: Shape,
}

/// What the runtime reads, and the gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// p − onehot in Q30, `[n][channels]` i32.
    pub(super) gradient: BufferId,
    pub(super) shape: Shape,
}

const Q30: i64 = 1 << 30;
/// |z| in Q16 nats: beyond ±2^13 nats nothing changes.
const LOGIT: i64 = 1 << 29;

/// Appends the loss of every sample, its prediction and the gradient by the logits.
pub(super) fn softmax_cross_entropy(cx: &mut Cx, logits: &Logits) -> Loss {
    let (n, cp, classes) = (logits.shape.n, logits.shape.cp(), logits.shape.c);
    let items = logits.shape.items();
    let labels = cx.buffer("labels".into(), DType::I32, &[n], Range::new(0, classes as i64 - 1), Kind::Input);
    // 2^16 classes of at most 2^30 each.
    let most = 1 << 47;
    let loss = cx.buffer("loss".into(), DType::I64, &[n], Range::new(0, 1 << 45), Kind::Output);
    let predictions =
        cx.buffer("predictions".into(), DType::I32, &[n], Range::new(0, classes as i64 - 1), Kind::Output);
    let gradient =
        cx.temp("logits.gradient".into(), DType::I32, &[n, cp], Range::new(-Q30 * 2 + 1, Q30 * 2 - 1));
    let exp2 = (0..=256).map(|i| (Q30 as f64 * numbers::exp2(-(i as f64) / 256.0)).round() as i64).collect();
    let exp2 = cx.table("exp2".into(), DType::I32, exp2);
    let ln2 = cx.table("ln2".into(), DType::Dyadic, vec![packed(std::f64::consts::LN_2)]);
    let z = cx.temp("logits.z".into(), DType::I64, &[items, cp], Range::new(-LOGIT, LOGIT));
    let e = cx.temp("logits.exp".into(), DType::I64, &[items, cp], Range::new(0, Q30));
    let scratch_others = cx.temp("logits.others".into(), DType::I64, &[items], Range::new(0, most));
    let scratch_target = cx.temp("logits.target".into(), DType::I64, &[items], Range::new(-LOGIT, LOGIT));
    let scratch = cx.temp("logits.scratch".into(), DType::I64, &[items, 2], Range::new(-most, most));
    let group = n / items;
    cx.call("softmax_cross_entropy", items, |kx| {
        let item = kx.item();
        let at = |kx: &mut Kx, b: BufferId, n: u32| kx.update(b).at(0).plus(item, n as i64);
        let (z, e) = (at(kx, z, cp), at(kx, e, cp));
        let (top, sum) = (at(kx, scratch, 2), at(kx, scratch, 2).offset(1));
        kx.for_(group, |kx, image| {
            let sample = Sample { logits, item, image, group, z, e, top, sum };
            sample.logits(kx);
            sample.exponentials(kx, exp2);
            sample.predict(kx, predictions);
            let label = kx.read(labels);
            let label = kx.load_scalar(sample.of(label));
            sample.gradient(kx, label, gradient, scratch_others);
            let most = kx.load_scalar(sample.top.clone());
            let target = sample.target(kx, label, scratch_target);
            let total = kx.load_scalar(sample.sum.clone());
            let value = loss_of(kx, ln2, total, most, target);
            let out = kx.write(loss);
            kx.store(sample.of(out), value);
        });
    });
    Loss { gradient, shape: logits.shape }
}

/// An image of an item's group, and where the item keeps what it computes of it.
struct Sample<'a> {
    logits: &'a Logits,
    item: Index,
    image: Index,
    /// Images of an item.
    group: u32,
    /// Logits in Q16 nats, by class.
    z: Address,
    /// Exponentials in Q30, by class.
    e: Address,
    /// The largest logit.
    top: Address,
    /// The sum of the exponentials.
    sum: Address,
}

impl Sample<'_> {
    /// Its element of a buffer with one for each image.
    fn of(&self, p: Param) -> Address {
        p.at(0).plus(self.item, self.group as i64).plus(self.image, 1)
    }

    /// Its first element of a buffer with one for each image and channel.
    fn row(&self, p: Param) -> Address {
        let cp = self.logits.shape.cp() as i64;
        p.at(0).plus(self.item, self.group as i64 * cp).plus(self.image, cp)
    }

    /// Logits in nats, and the largest.
    fn logits(&self, kx: &mut Kx) {
        let low = kx.int(-LOGIT);
        kx.store(self.top.clone(), low);
        kx.for_(self.logits.shape.c, |kx, c| {
            let p = kx.read(self.logits.accumulators);
            let acc = kx.load_scalar(self.row(p).plus(c, 1));
            let v = logit(kx, self.logits, acc, c);
            kx.store(self.z.clone().plus(c, 1), v);
            kx.max_into(self.top.clone(), v);
        });
    }

    /// Exponentials of the logits below the largest, and their sum.
    fn exponentials(&self, kx: &mut Kx, exp2: BufferId) {
        let zero = kx.int(0);
        kx.store(self.sum.clone(), zero);
        kx.for_(self.logits.shape.c, |kx, c| {
            let most = kx.load_scalar(self.top.clone());
            let v = kx.load_scalar(self.z.clone().plus(c, 1));
            let down = kx.sub(most, v);
            let v = exponential(kx, exp2, down);
            kx.store(self.e.clone().plus(c, 1), v);
            kx.acc64(self.sum.clone(), v);
        });
    }

    /// The class of the largest logit.
    fn predict(&self, kx: &mut Kx, predictions: BufferId) {
        let classes = self.logits.shape.c as i64;
        let best = kx.update(predictions);
        let zero = kx.int(0);
        kx.store(self.of(best), zero);
        kx.for_(classes as u32, |kx, back| {
            // Downwards, so that of equal logits the first class wins.
            let (last, back_value) = (kx.int(classes - 1), kx.index(back));
            let class = kx.sub(last, back_value);
            let most = kx.load_scalar(self.top.clone());
            let v = kx.load_scalar(self.z.clone().offset(classes - 1).plus(back, -1));
            let is = kx.eq(v, most);
            let known = kx.load_scalar(self.of(best));
            let class = kx.select(is, class, known);
            kx.store(self.of(best), class);
        });
    }

    /// p − onehot: the probabilities of all classes but the label's, and there minus their sum.
    fn gradient(&self, kx: &mut Kx, label: Value, gradient: BufferId, others: BufferId) {
        let (classes, cp) = (self.logits.shape.c, self.logits.shape.cp());
        let g = kx.update(gradient);
        let others = kx.update(others).at(0).plus(self.item, 1);
        let zero = kx.int(0);
        kx.store(others.clone(), zero);
        kx.for_(classes, |kx, c| {
            let class = kx.index(c);
            let is = kx.eq(class, label);
            let v = kx.load_scalar(self.e.clone().plus(c, 1));
            let total = kx.load_scalar(self.sum.clone());
            let one = kx.int(1);
            let total = kx.max(total, one);
            let v = kx.shift_left(v, 30);
            let p = kx.div(v, total);
            let p = kx.clamp(p, 0, 1 << 30);
            let zero = kx.int(0);
            let p = kx.select(is, zero, p);
            kx.acc64(others.clone(), p);
            kx.store(self.row(g).plus(c, 1), p);
        });
        kx.for_(classes, |kx, c| {
            let class = kx.index(c);
            let is = kx.eq(class, label);
            let v = kx.load_scalar(self.row(g).plus(c, 1));
            let rest = kx.load_scalar(others.clone());
            let zero = kx.int(0);
            let target = kx.sub(zero, rest);
            let v = kx.select(is, target, v);
            let v = clamp(kx, v, 2 * Q30 - 1);
            kx.store(self.row(g).plus(c, 1), v);
        });
        if cp > classes {
            kx.for_(cp - classes, |kx, c| {
                let zero = kx.int(0);
                kx.store(self.row(g).offset(classes as i64).plus(c, 1), zero);
            });
        }
    }

    /// The logit of the label: the only class whose number it is.
    fn target(&self, kx: &mut Kx, label: Value, scratch: BufferId) -> Value {
        let target = kx.update(scratch).at(0).plus(self.item, 1);
        let zero = kx.int(0);
        kx.store(target.clone(), zero);
        kx.for_(self.logits.shape.c, |kx, c| {
            let class = kx.index(c);
            let is = kx.eq(class, label);
            let v = kx.load_scalar(self.z.clone().plus(c, 1));
            let known = kx.load_scalar(target.clone());
            let v = kx.select(is, v, known);
            kx.store(target.clone(), v);
        });
        kx.load_scalar(target)
    }
}

/// A logit in Q16 nats: accumulator·unit + bias.
fn logit(kx: &mut Kx, logits: &Logits, acc: Value, c: Index) -> Value {
    let unit = kx.per_channel(logits.unit, c);
    let v = kx.to_dyadic(acc);
    let v = kx.mul(v, unit);
    let v = kx.to_fixed(v, 16);
    let v = clamp(kx, v, LOGIT / 2);
    let Some(bias) = logits.bias else { return v };
    let p = kx.read(bias);
    let b = kx.load_scalar(p.at(0).plus(c, 1));
    let b = kx.shift_right_round(b, (MASTER_BITS - 16) as u8);
    kx.add(v, b)
}

/// 2^(−down·log2 e) in Q30, `down` in Q16 nats and not negative.
fn exponential(kx: &mut Kx, exp2: BufferId, down: Value) -> Value {
    let down = kx.clamp(down, 0, 2 * LOGIT as i32);
    let log2e = kx.int((std::f64::consts::LOG2_E * 65536.0).round() as i64);
    let u = kx.mul(down, log2e);
    let u = kx.shift_right(u, 16);
    let whole = kx.shift_right(u, 16);
    let whole = kx.clamp(whole, 0, 40);
    let mask = kx.int(0xffff);
    let fraction = kx.and(u, mask);
    let index = kx.shift_right(fraction, 8);
    let low = kx.int(255);
    let part = kx.and(fraction, low);
    let table = kx.read(exp2);
    let first = kx.load_at(table, index);
    let one = kx.int(1);
    let next = kx.add(index, one);
    let second = kx.load_at(table, next);
    let full = kx.int(256);
    let rest = kx.sub(full, part);
    let (a, b) = (kx.mul(first, rest), kx.mul(second, part));
    let v = kx.add(a, b);
    let v = kx.shift_right(v, 8);
    // A weighted mean of two entries is at most the larger one.
    let v = kx.clamp(v, 0, 1 << 30);
    kx.shift_right(v, whole)
}

/// ln(total/2^30) + most − target, in Q16 nats.
fn loss_of(kx: &mut Kx, ln2: BufferId, total: Value, most: Value, target: Value) -> Value {
    let t = kx.to_dyadic(total);
    let down = kx.int(-30);
    let t = kx.scale(t, down);
    let log = kx.log2(t);
    let ln2 = kx.scalar(ln2);
    let log = kx.mul(log, ln2);
    let log = kx.to_fixed(log, 16);
    let log = kx.clamp(log, 0, 1 << 30);
    let gap = kx.sub(most, target);
    let v = kx.add(log, gap);
    let (zero, limit) = (kx.int(0), kx.int(1 << 40));
    let v = kx.max(v, zero);
    kx.min(v, limit)
}

/// The gradient as 16-bit lanes with a common shift, its unit (per sample mean), and its totals.
pub(super) fn gradient(cx: &mut Cx, loss: Loss) -> (Source, BufferId, Reduced) {
    let (shape, cp) = (loss.shape, loss.shape.cp());
    let wide = cx.temp("logits.gradient16".into(), DType::I16, &shape.extents(), WIDE);
    let unit = cx.dyadics("logits.gradient_unit".into(), 1);
    let amax32 = cx.temp("logits.gradient_amax32".into(), DType::I64, &[1], Range::new(0, 2 * Q30));
    let mut total = |slot: &str, n: u32, range: Range| {
        cx.temp(format!("logits.gradient_{slot}"), DType::I64, &[n], range)
    };
    let totals = Totals {
        sum: total("sum", cp, SUM),
        min: total("min", cp, WIDE),
        max: total("max", cp, WIDE),
        count: shape.positions(),
    };
    let amax = total("amax", 1, Range::new(0, WIDE.hi));
    cx.call("logits_gradient", 1, |kx| {
        let (g, top, out) = (kx.read(loss.gradient), kx.update(amax32), kx.write(wide));
        kx.fill(top.at(0), 1, 0);
        kx.for_(shape.n, |kx, i| {
            kx.for_(shape.c, |kx, c| {
                let v = kx.load_scalar(g.at(0).plus(i, cp as i64).plus(c, 1));
                let v = kx.abs(v);
                kx.max_into(top.at(0), v);
            });
        });
        let v = kx.load_scalar(top.at(0));
        let bits = kx.bit_length(v);
        let bits = kx.clamp(bits, 0, 32);
        let keep = kx.int(15);
        let shift = kx.sub(bits, keep);
        let shift = kx.clamp(shift, 0, 17);
        let unit_value = kx.real(1.0 / shape.n as f64);
        let down = kx.int(-30);
        let exponent = kx.add(shift, down);
        let unit_value = kx.scale(unit_value, exponent);
        let u = kx.write(unit);
        kx.store(u.at(0), unit_value);
        for (buffer, start) in [(totals.sum, 0), (totals.min, WIDE.hi), (totals.max, WIDE.lo)] {
            let p = kx.update(buffer);
            kx.fill(p.at(0), cp, start);
        }
        let a = kx.update(amax);
        kx.fill(a.at(0), 1, 0);
        kx.for_(shape.n, |kx, i| {
            kx.for_(cp, |kx, c| {
                let v = kx.load_scalar(g.at(0).plus(i, cp as i64).plus(c, 1));
                let v = kx.shift_right_round(v, shift);
                let v = clamp(kx, v, WIDE.hi);
                kx.store(out.at(0).plus(i, cp as i64).plus(c, 1), v);
                let (s, lo, hi) = (kx.update(totals.sum), kx.update(totals.min), kx.update(totals.max));
                kx.acc64(s.at(0).plus(c, 1), v);
                kx.min_into(lo.at(0).plus(c, 1), v);
                kx.max_into(hi.at(0).plus(c, 1), v);
                let size = kx.abs(v);
                kx.max_into(a.at(0), size);
            });
        });
    });
    (Source::dense(wide, shape), unit, Reduced { totals, square: None, dot: None, amax, panel_amax: None })
}
