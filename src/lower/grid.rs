//! From real coefficients to integer ones: the scalar pass between an affine value and the map that applies it.
//!
//! `u = Σ a'_i·source_i + b'` and `code = u >> k` (a' = round(coef·2^k / step) with
//! |a'| ≤ 2^14, b' from the *rounded* a', so that what is subtracted as a mean is exactly what the sources have).
//! Everything here is one number per channel or tensor; no lane is touched.

use super::affine::{Affine, Coef, Fixed, Levels, Term};
use super::cx::{Cx, Kx, SHIFT, Shape};
use super::weights::clamp;
use crate::kernel::{BufferId, DType, Index, Range, Value};

/// |a'| ≤ 2^14: two products of 16-bit sources and a 2^30 offset stay below 2^31.
const COEF: i64 = 1 << 14;
/// |b'|.
const OFFSET: i64 = 1 << 30;
/// The smallest source that fills a grid of its own, in units of the source. Channels with a step each share one shift, so
/// one with a smaller step than that would push the coefficients of the others off their lower end: below 1/256 of full
/// scale it gets coarse codes, and loud channels keep six bits, which is 1 %.
const QUIETEST: f64 = 128.0;
/// Part of the variance of the loudest channel that is audible: gains a factor of 64 apart share a scale.
const AUDIBLE: f64 = 1.0 / 4096.0;

/// The step of the grid.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A dyadic buffer (one element), chosen before.
    Given(BufferId),
    /// From a bound on the values: step = fraction·bound / levels.
    Bound {
        /// One step a channel instead of one for the tensor.
        per_channel: bool,
        /// Part of the bound that the grid covers.
        fraction: f64,
    },
    /// From a range per tensor (`[1]`) or channel, in units of the affine value without its scale.
    Range(BufferId),
}

/// How codes come out of `u`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) step: Step,
    /// The codes; `hi` is also the number of steps in the range.
    pub(super) levels: Levels,
    /// Added to every code.
    pub(super) zero: i32,
    /// Bits kept below the code for rounding: `u` carries `2^(k−fraction_bits−1)`, so that `u >> (k−fraction_bits)` is to nearest.
    pub(super) fraction_bits: i64,
    /// Largest shift.
    pub(super) max_shift: i64,
}

/// The integers, and the dyadic steps: one element or one a channel.
pub(super) struct Grid {
    pub(super) fixed: Fixed,
    pub(super) step: BufferId,
}

/// Appends the scalar kernel.
pub(super) fn grid(cx: &mut Cx, name: &str, affine: &Affine, rule: Rule) -> Grid {
    let cp = affine.shape.cp();
    let per_channel = match rule.step {
        Step::Bound { per_channel, .. } => per_channel,
        Step::Range(range) => cx.program.get(range).len() > 1,
        Step::Given(_) => false,
    };
    let steps = if per_channel { cp } else { 1 };
    let pair = Range::new(-COEF, COEF);
    let fixed = Fixed {
        pairs: (0..affine.terms.len().div_ceil(2))
            .map(|i| cx.temp(format!("{name}.coef{i}"), DType::I16, &[cp, 2], pair))
            .collect(),
        offset: cx.temp(format!("{name}.offset"), DType::I32, &[cp], Range::new(-OFFSET, OFFSET)),
        shift: cx.temp(format!("{name}.shift"), DType::I64, &[1], SHIFT),
    };
    let step = cx.dyadics(format!("{name}.step"), steps);
    let range = cx.dyadics(format!("{name}.covered"), steps);
    let largest = cx.dyadics(format!("{name}.largest"), 1);
    let mut audible: Vec<Option<(BufferId, BufferId)>> = vec![];
    for (i, term) in affine.terms.iter().enumerate() {
        audible.push(match (term.coef, term.variance) {
            (Coef::MinusFirstTimes(_), _) => audible[0],
            (_, variance) => variance.map(|v| (v, cx.dyadics(format!("{name}.audible{i}"), 1))),
        });
    }
    let builder = Builder { affine, rule, fixed: &fixed, per_channel, step, range, largest, audible };
    cx.call("grid", 1, |kx| builder.emit(kx));
    Grid { fixed, step }
}

struct Builder<'a> {
    affine: &'a Affine,
    rule: Rule,
    fixed: &'a Fixed,
    per_channel: bool,
    step: BufferId,
    range: BufferId,
    largest: BufferId,
    /// Of each term variances, and the least that has a say; none where every channel has one.
    audible: Vec<Option<(BufferId, BufferId)>>,
}

impl Builder<'_> {
    fn shape(&self) -> Shape {
        self.affine.shape
    }

    fn emit(&self, kx: &mut Kx) {
        self.emit_audible(kx);
        self.emit_range(kx);
        self.emit_steps(kx);
        let k = self.emit_shift(kx);
        kx.for_(self.shape().cp(), |kx, c| self.emit_channel(kx, c, k));
    }

    /// The real coefficient of a term, without the common scale.
    fn coef(&self, kx: &mut Kx, term: &Term, c: Index) -> Value {
        match term.coef {
            Coef::Given(buffer) => kx.per_channel(buffer, c),
            Coef::Step(buffer) => {
                let v = kx.per_channel(buffer, c);
                if term.source.raised == 0 {
                    return v;
                }
                let down = kx.int(-i64::from(term.source.raised));
                kx.scale(v, down)
            }
            Coef::MinusFirstTimes(buffer) => {
                let first = self.coef(kx, &self.affine.terms[0], c);
                let factor = kx.per_channel(buffer, c);
                kx.mul(first, factor)
            }
        }
    }

    /// How far the centred source of a term can be from zero, as dyadic.
    fn extent(&self, kx: &mut Kx, term: &Term, c: Index) -> Value {
        let Some(totals) = term.totals else {
            let (range, zero) = (kx.info(term.source.buffer).range, i64::from(term.source.zero));
            let extent = (range.hi - zero).abs().max((range.lo - zero).abs()) << term.source.raised;
            return kx.real(extent as f64);
        };
        let (sum, min, max) = (kx.read(totals.sum), kx.read(totals.min), kx.read(totals.max));
        let (min, max) = (kx.load_scalar(min.at(0).plus(c, 1)), kx.load_scalar(max.at(0).plus(c, 1)));
        if !term.centred {
            let (min, max) = (kx.abs(min), kx.abs(max));
            let size = kx.max(min, max);
            return kx.to_dyadic(size);
        }
        let (sum, count) = (kx.load_scalar(sum.at(0).plus(c, 1)), kx.int(totals.count));
        let distance = |kx: &mut Kx, v: Value| {
            let times = kx.mul(v, count);
            let d = kx.sub(times, sum);
            kx.abs(d)
        };
        let (low, high) = (distance(kx, min), distance(kx, max));
        let largest = kx.max(low, high);
        let (largest, count) = (kx.to_dyadic(largest), kx.to_dyadic(count));
        kx.div(largest, count)
    }

    /// The bound of the values of a channel: Σ |coef|·extent + |offset|. Under a common step, of what is audible.
    fn bound(&self, kx: &mut Kx, c: Index, fraction: f64) -> Value {
        let mut bound = kx.real(0.0);
        for (i, term) in self.affine.terms.iter().enumerate() {
            let coef = self.coef(kx, term, c);
            let coef = kx.abs(coef);
            let extent = self.extent(kx, term, c);
            let part = kx.mul(coef, extent);
            let part = if self.per_channel { part } else { self.audible(kx, i, c, part) };
            bound = kx.add(bound, part);
        }
        if let Some(offset) = self.affine.offset {
            let v = kx.per_channel(offset, c);
            let v = kx.abs(v);
            let v = if self.per_channel { v } else { self.audible_in_any(kx, c, v) };
            bound = kx.add(bound, v);
        }
        if fraction != 1.0 {
            let f = kx.real(fraction);
            bound = kx.mul(bound, f);
        }
        bound
    }

    /// The smallest range of a channel, which its coefficients need.
    fn floor(&self, kx: &mut Kx, c: Index) -> Value {
        let mut floor = kx.real(0.0);
        for (i, term) in self.affine.terms.iter().enumerate() {
            let coef = self.coef(kx, term, c);
            let coef = kx.abs(coef);
            let coef = if self.per_channel { coef } else { self.audible(kx, i, c, coef) };
            floor = kx.max(floor, coef);
        }
        // A common step only has to keep the shift above the fraction bits.
        let common = self.rule.levels.hi as f64 * (1u64 << self.rule.fraction_bits) as f64 / 8192.0;
        let least = kx.real(if self.per_channel { QUIETEST } else { common });
        kx.mul(floor, least)
    }

    /// For each norm in the sum, the least variance of a channel that has a say in common scales: a squared step, below which
    /// is mostly what rounding left, or where even the loudest channel has little, as of few bits, a small part of that.
    fn emit_audible(&self, kx: &mut Kx) {
        let mut norms: Vec<_> = self.audible.iter().flatten().collect();
        // A term that follows the first has what that has.
        norms.dedup();
        for &(variance, least) in norms {
            let to = kx.update(least);
            let zero = kx.real(0.0);
            kx.store(to.at(0), zero);
            // Lanes of no channel have the variance that keeps a division from nothing.
            kx.for_(self.shape().c, |kx, c| {
                let v = kx.per_channel(variance, c);
                let known = kx.load_scalar(to.at(0));
                let most = kx.max(known, v);
                kx.store(to.at(0), most);
            });
            let (loudest, part, one) = (kx.load_scalar(to.at(0)), kx.real(AUDIBLE), kx.real(1.0));
            let least = kx.mul(loudest, part);
            let least = kx.min(least, one);
            kx.store(to.at(0), least);
        }
    }

    /// What a channel of a term says about a common scale: nothing if it is too quiet.
    fn audible(&self, kx: &mut Kx, term: usize, c: Index, v: Value) -> Value {
        let zero = kx.real(0.0);
        self.if_loud(kx, term, c, v, zero)
    }

    /// What the sum says, which is positive: nothing where all its terms are too quiet.
    fn audible_in_any(&self, kx: &mut Kx, c: Index, v: Value) -> Value {
        let terms = 1..self.affine.terms.len();
        let first = self.audible(kx, 0, c, v);
        terms.fold(first, |most, term| {
            let v = self.audible(kx, term, c, v);
            kx.max(most, v)
        })
    }

    fn if_loud(&self, kx: &mut Kx, term: usize, c: Index, v: Value, otherwise: Value) -> Value {
        let Some((variance, least)) = self.audible[term] else { return v };
        let (own, least) = (kx.per_channel(variance, c), kx.scalar(least));
        let loud = kx.le(least, own);
        kx.select(loud, v, otherwise)
    }

    /// What the grid covers: the bound or the given range, and at least the floor.
    fn emit_range(&self, kx: &mut Kx) {
        if let Step::Given(_) = self.rule.step {
            return;
        }
        let range = kx.update(self.range);
        let wanted = |kx: &mut Kx, c: Index| {
            let wanted = match self.rule.step {
                Step::Bound { fraction, .. } => self.bound(kx, c, fraction),
                Step::Range(given) => kx.per_channel(given, c),
                Step::Given(_) => unreachable!("returned above"),
            };
            let floor = self.floor(kx, c);
            kx.max(wanted, floor)
        };
        if self.per_channel {
            kx.for_(self.shape().cp(), |kx, c| {
                let wanted = wanted(kx, c);
                kx.store(range.at(0).plus(c, 1), wanted);
            });
            return;
        }
        let zero = kx.real(0.0);
        kx.store(range.at(0), zero);
        kx.for_(self.shape().cp(), |kx, c| {
            let wanted = wanted(kx, c);
            let known = kx.load_scalar(range.at(0));
            let most = kx.max(known, wanted);
            kx.store(range.at(0), most);
        });
    }

    /// Steps: given, or range·scale / levels.
    fn emit_steps(&self, kx: &mut Kx) {
        let step = kx.update(self.step);
        if let Step::Given(given) = self.rule.step {
            let v = kx.scalar(given);
            kx.store(step.at(0), v);
            return;
        }
        let n = if self.per_channel { self.shape().cp() } else { 1 };
        kx.for_(n, |kx, c| {
            let r = kx.per_channel(self.range, c);
            let levels = kx.real(self.rule.levels.hi as f64);
            let mut s = kx.div(r, levels);
            if let Some(scale) = self.affine.scale {
                let scale = kx.scalar(scale);
                s = kx.mul(s, scale);
            }
            kx.store(step.at(0).plus(c, self.per_channel as i64), s);
        });
    }

    /// 1/step in units of the affine value without its scale.
    fn inverse_step(&self, kx: &mut Kx, c: Index) -> Value {
        if let Step::Given(given) = self.rule.step {
            let one = kx.real(1.0);
            let s = kx.scalar(given);
            return kx.div(one, s);
        }
        let levels = kx.real(self.rule.levels.hi as f64);
        let r = kx.per_channel(self.range, c);
        kx.div(levels, r)
    }

    /// k = min(max_shift, 14 − exponent of the largest coefficient in steps).
    fn emit_shift(&self, kx: &mut Kx) -> Value {
        let largest = kx.update(self.largest);
        let zero = kx.real(0.0);
        kx.store(largest.at(0), zero);
        kx.for_(self.shape().cp(), |kx, c| {
            let inverse = self.inverse_step(kx, c);
            for (i, term) in self.affine.terms.iter().enumerate() {
                let coef = self.coef(kx, term, c);
                let coef = kx.abs(coef);
                let v = kx.mul(coef, inverse);
                let v = self.audible(kx, i, c, v);
                let known = kx.load_scalar(largest.at(0));
                let v = kx.max(known, v);
                kx.store(largest.at(0), v);
            }
        });
        let v = kx.load_scalar(largest.at(0));
        let exponent = kx.exponent(v);
        let exponent = kx.clamp(exponent, -1024, 1024);
        let limit = kx.int(14);
        let k = kx.sub(limit, exponent);
        let k = kx.clamp(k, (self.rule.fraction_bits as i32).max(1), self.rule.max_shift as i32);
        let shift = kx.write(self.fixed.shift);
        kx.store(shift.at(0), k);
        k
    }

    fn emit_channel(&self, kx: &mut Kx, c: Index, k: Value) {
        let inverse = self.inverse_step(kx, c);
        let mut offset = kx.int(0);
        let mut first = None;
        let mut coefs = vec![];
        // A quiet channel's coefficients do not fit the scale. Cut off, they keep their sign; but terms that cancel would not.
        let cancels = self.affine.terms.iter().any(|term| matches!(term.coef, Coef::MinusFirstTimes(_)));
        let zero = kx.int(0);
        for (i, term) in self.affine.terms.iter().enumerate() {
            let mut a = self.integer(kx, term, c, inverse, k, first);
            if cancels {
                a = self.if_loud(kx, i, c, a, zero);
            }
            first = first.or(Some(a));
            coefs.push(a);
            if let (true, Some(totals)) = (term.centred, term.totals) {
                let sum = kx.read(totals.sum);
                let sum = kx.load_scalar(sum.at(0).plus(c, 1));
                let product = kx.mul(a, sum);
                offset = kx.sub(offset, product);
            }
        }
        let count = self.affine.terms.iter().find_map(|t| t.totals.filter(|_| t.centred)).map(|t| t.count);
        if let Some(count) = count {
            let count = kx.int(count);
            offset = kx.div(offset, count);
        }
        if let Some(beta) = self.affine.offset {
            let v = kx.per_channel(beta, c);
            let v = kx.mul(v, inverse);
            let v = kx.to_fixed(v, k);
            let v = clamp(kx, v, OFFSET);
            offset = kx.add(offset, v);
        }
        let offset = self.rounding(kx, offset, k);
        let to = kx.write(self.fixed.offset);
        kx.store(to.at(0).plus(c, 1), offset);
        coefs.resize(coefs.len().next_multiple_of(2), zero);
        for (i, &a) in coefs.iter().enumerate() {
            let to = kx.write(self.fixed.pairs[i / 2]);
            kx.store(to.at(i as i64 % 2).plus(c, 2), a);
        }
    }

    /// The integer coefficient of a term.
    fn integer(
        &self,
        kx: &mut Kx,
        term: &Term,
        c: Index,
        inverse: Value,
        k: Value,
        first: Option<Value>,
    ) -> Value {
        let v = match (term.coef, first) {
            (Coef::MinusFirstTimes(factor), Some(first)) => {
                let first = kx.to_dyadic(first);
                let factor = kx.per_channel(factor, c);
                let v = kx.mul(first, factor);
                let v = kx.to_fixed(v, 0);
                let zero = kx.int(0);
                let v = clamp(kx, v, COEF);
                kx.sub(zero, v)
            }
            _ => {
                let coef = self.coef(kx, term, c);
                let v = kx.mul(coef, inverse);
                kx.to_fixed(v, k)
            }
        };
        clamp(kx, v, COEF)
    }

    /// Adds the zero code and half of the last kept bit, and keeps the offset in 31 bits.
    fn rounding(&self, kx: &mut Kx, offset: Value, k: Value) -> Value {
        let zero = kx.int(self.rule.zero as i64);
        let zero = kx.shift_left(zero, k);
        let offset = kx.add(offset, zero);
        let one = kx.int(1);
        let fraction = kx.int(self.rule.fraction_bits);
        let kept = kx.sub(k, fraction);
        let whole = kx.shift_left(one, kept);
        let half = kx.shift_right(whole, 1);
        let offset = kx.add(offset, half);
        clamp(kx, offset, OFFSET)
    }
}
