//! Batch norm and its gradient as scalars per channel; the elementwise work is the affine value that they return.
//!
//! With t the 16-bit tensor before the norm, T its unit, N elements a channel: V = N·Σt² − (Σt)² exactly,
//! σ_t² = V/N² + eps/T² in squared steps of t, y = γ/σ_t·(t − Σt/N) + β. Gradient (Ioffe & Szegedy 2015, with the
//! rectifier's terms): dt = g·(dy − mean dy − (t − μ)·(cov/(N·σ_t²) + ρ)), g = γ/σ_t.

use super::affine::{Affine, Coef, Source, Term, Totals};
use super::cx::{ANY, Cx, Kx, Shape};
use super::gather::Reduced;
use super::initial::Start;
use super::weights::{Master, load_real};
use crate::kernel::{BufferId, DType, Index, Range, Value};

/// Statistics that the gradient needs.
#[derive(Clone, Debug)]
pub(super) struct NormState {
    pub(super) source: Source,
    pub(super) shape: Shape,
    pub(super) totals: Totals,
    /// σ_t² per channel.
    variance: BufferId,
    /// 1/σ_t per channel; zero for a constant channel.
    inverse: BufferId,
    pub(super) unit: BufferId,
    gamma: Master,
}

/// Running statistics: mean and variance in real units, dyadics.
fn running(cx: &mut Cx, path: &str, cp: u32) -> (BufferId, BufferId) {
    let one = crate::numbers::packed(1.0);
    let mean = cx.state(format!("{path}.running_mean"), DType::Dyadic, &[cp], ANY, Start::Each(0));
    let variance = cx.state(format!("{path}.running_variance"), DType::Dyadic, &[cp], ANY, Start::Each(one));
    (mean, variance)
}

/// Parameters of a batch norm.
pub(super) struct Norm {
    pub(super) gamma: Master,
    pub(super) beta: Master,
    pub(super) eps: f64,
    pub(super) momentum: f64,
}

struct Slots {
    variance: BufferId,
    inverse: BufferId,
    coef: BufferId,
    beta: BufferId,
}

fn slots(cx: &mut Cx, path: &str, cp: u32) -> Slots {
    Slots {
        variance: cx.dyadics(format!("{path}.variance"), cp),
        inverse: cx.dyadics(format!("{path}.inverse_deviation"), cp),
        coef: cx.dyadics(format!("{path}.gain"), cp),
        beta: cx.dyadics(format!("{path}.shift"), cp),
    }
}

impl Slots {
    fn affine(&self, shape: Shape, source: Source, totals: Totals) -> Affine {
        let term = Term {
            source,
            coef: Coef::Given(self.coef),
            totals: Some(totals),
            centred: true,
            variance: Some(self.variance),
        };
        Affine { shape, terms: vec![term], offset: Some(self.beta), scale: None, relu: false, masks: vec![] }
    }

    fn store(&self, kx: &mut Kx, c: Index, norm: &Norm, variance: Value, inverse: Value) {
        let gamma = load_real(kx, norm.gamma, c);
        let beta = load_real(kx, norm.beta, c);
        let coef = kx.mul(gamma, inverse);
        for (buffer, v) in
            [(self.variance, variance), (self.inverse, inverse), (self.coef, coef), (self.beta, beta)]
        {
            let p = kx.write(buffer);
            kx.store(p.at(0).plus(c, 1), v);
        }
    }
}

/// With the statistics of the batch. `update_running` moves the running statistics.
pub(super) fn batch(
    cx: &mut Cx,
    path: &str,
    norm: &Norm,
    (shape, source, unit): (Shape, Source, BufferId),
    sums: &Reduced,
    update_running: bool,
) -> (Affine, NormState) {
    let cp = shape.cp();
    let s = slots(cx, path, cp);
    let square = sums.square.expect("batch norm asks for squares");
    let run = update_running.then(|| running(cx, path, cp));
    let count = sums.totals.count;
    cx.call("batch_norm", cp, |kx| {
        let c = kx.item();
        let (p1, p2) = (kx.read(sums.totals.sum), kx.read(square));
        let (s1, s2) = (kx.load_scalar(p1.at(0).plus(c, 1)), kx.load_scalar(p2.at(0).plus(c, 1)));
        let n = kx.int(count);
        let spread = kx.diff_of_products(n, s2, s1, s1);
        let nn = kx.real(count as f64 * count as f64);
        let own = kx.div(spread, nn);
        let t = kx.per_channel(unit, c);
        let eps = eps_in_steps(kx, norm.eps, t);
        let variance = kx.add(own, eps);
        let inverse = kx.rsqrt(variance);
        let zero = kx.real(0.0);
        let alive = kx.lt(zero, spread);
        let inverse = kx.select(alive, inverse, zero);
        s.store(kx, c, norm, variance, inverse);
        if let Some((mean, var)) = run {
            let nd = kx.to_dyadic(n);
            let sum = kx.to_dyadic(s1);
            let m = kx.div(sum, nd);
            let m = kx.mul(m, t);
            follow(kx, mean, c, m, norm.momentum);
            // The running variance is the unbiased one, as everywhere in the field.
            let unbiased = kx.real(count as f64 / (count as f64 - 1.0).max(1.0));
            let tt = kx.mul(t, t);
            let v = kx.mul(own, tt);
            let v = kx.mul(v, unbiased);
            follow(kx, var, c, v, norm.momentum);
        }
    });
    let affine = s.affine(shape, source, sums.totals);
    let state = NormState {
        source,
        shape,
        totals: sums.totals,
        variance: s.variance,
        inverse: s.inverse,
        unit,
        gamma: norm.gamma,
    };
    (affine, state)
}

/// With the running statistics.
pub(super) fn evaluate(
    cx: &mut Cx,
    path: &str,
    norm: &Norm,
    (shape, source, unit): (Shape, Source, BufferId),
) -> Affine {
    const FRACTION: u32 = 14;
    let cp = shape.cp();
    let s = slots(cx, path, cp);
    let (mean, var) = running(cx, path, cp);
    const LIMIT: i64 = (1 << 46) - 1;
    // A sum of so many whose mean is the running one. Nothing else is known of them.
    let sum = cx.temp(format!("{path}.centre"), DType::I64, &[cp], Range::new(-LIMIT, LIMIT));
    let totals = Totals { sum, min: sum, max: sum, count: 1 << FRACTION };
    cx.call("batch_norm_running", cp, |kx| {
        let c = kx.item();
        let t = kx.per_channel(unit, c);
        let eps = eps_in_steps(kx, norm.eps, t);
        let v = kx.per_channel(var, c);
        let tt = kx.mul(t, t);
        let v = kx.div(v, tt);
        let variance = kx.add(v, eps);
        let inverse = kx.rsqrt(variance);
        s.store(kx, c, norm, variance, inverse);
        let m = kx.per_channel(mean, c);
        let m = kx.div(m, t);
        let m = kx.to_fixed(m, FRACTION as u8);
        let m = super::weights::clamp(kx, m, LIMIT);
        let p = kx.write(sum);
        kx.store(p.at(0).plus(c, 1), m);
    });
    s.affine(shape, source, totals)
}

fn eps_in_steps(kx: &mut Kx, eps: f64, unit: Value) -> Value {
    let eps = kx.real(eps);
    let tt = kx.mul(unit, unit);
    kx.div(eps, tt)
}

fn follow(kx: &mut Kx, state: BufferId, c: Index, now: Value, momentum: f64) {
    let p = kx.update(state);
    let at = p.at(0).plus(c, 1);
    let old = kx.load_scalar(at.clone());
    let difference = kx.sub(now, old);
    let rate = kx.real(momentum);
    let part = kx.mul(difference, rate);
    let new = kx.add(old, part);
    kx.store(at, new);
}

/// What the gradient of a batch norm gives.
pub(super) struct NormGrad {
    /// Gradient by t, in steps of t.
    pub(super) input: Affine,
    /// dγ and dβ per channel, dyadics.
    pub(super) gamma: BufferId,
    pub(super) beta: BufferId,
}

/// The three numbers of a rectifier, from γ and σ² in real units.
pub(super) type Terms<'a> = &'a dyn Fn(&mut Kx, Value, Value) -> crate::rectify::TermValues;

/// From the masked gradient `dy` (unit `scale`), its totals and its products with t.
pub(super) fn gradient(
    cx: &mut Cx,
    path: &str,
    state: &NormState,
    dy: Source,
    scale: BufferId,
    sums: &Reduced,
    terms: Terms,
) -> NormGrad {
    let (shape, cp) = (state.shape, state.shape.cp());
    let dot = sums.dot.expect("the gradient of batch norm asks for products with its input");
    let gain = cx.dyadics(format!("{path}.grad_gain"), cp);
    let factor = cx.dyadics(format!("{path}.grad_factor"), cp);
    let gamma = cx.dyadics(format!("{path}.gamma_grad"), cp);
    let beta = cx.dyadics(format!("{path}.beta_grad"), cp);
    let count = sums.totals.count;
    cx.call("batch_norm_grad", cp, |kx| {
        let c = kx.item();
        let load = |kx: &mut Kx, b: BufferId| {
            let p = kx.read(b);
            kx.load_scalar(p.at(0).plus(c, 1))
        };
        let (sd, sdt, s1) = (load(kx, sums.totals.sum), load(kx, dot), load(kx, state.totals.sum));
        let n = kx.int(count);
        let nd = kx.to_dyadic(n);
        let cov = kx.diff_of_products(n, sdt, sd, s1);
        let cov = kx.div(cov, nd);
        let (variance, inverse) = (load(kx, state.variance), load(kx, state.inverse));
        let t = kx.per_channel(state.unit, c);
        let s = kx.scalar(scale);
        let g = load_real(kx, state.gamma, c);
        let tt = kx.mul(t, t);
        let real_variance = kx.mul(variance, tt);
        let terms = terms(kx, g, real_variance);
        let zero = kx.real(0.0);
        let alive = kx.lt(zero, inverse);
        // gain·T is γ/σ_t, unless the rectifier bounds it.
        let k0 = kx.mul(terms.gain, t);
        let k0 = kx.select(alive, k0, zero);
        let xhat = kx.mul(cov, inverse);
        let dgamma = kx.mul(xhat, s);
        let dgamma = kx.add(dgamma, terms.dgamma);
        let dbeta = kx.to_dyadic(sd);
        let dbeta = kx.mul(dbeta, s);
        // (k0·dγ + spread·T)/N·x̂ = k0·(t − μ)·(cov/(N·σ_t²) + ρ), ρ = spread·T/(N·σ_t·S·k0).
        let nv = kx.mul(nd, variance);
        let own = kx.div(cov, nv);
        let up = kx.mul(terms.spread, t);
        let up = kx.mul(up, inverse);
        let down = kx.mul(nd, s);
        let down = kx.mul(down, k0);
        let rho = kx.div(up, down);
        let f = kx.add(own, rho);
        for (buffer, v) in [(gain, k0), (factor, f), (gamma, dgamma), (beta, dbeta)] {
            let p = kx.write(buffer);
            kx.store(p.at(0).plus(c, 1), v);
        }
    });
    let first = Term {
        source: dy,
        coef: Coef::Given(gain),
        totals: Some(sums.totals),
        centred: true,
        variance: Some(state.variance),
    };
    let second = Term {
        source: state.source,
        coef: Coef::MinusFirstTimes(factor),
        totals: Some(state.totals),
        centred: true,
        variance: None,
    };
    let input = Affine {
        shape,
        terms: vec![first, second],
        offset: None,
        scale: Some(scale),
        relu: false,
        masks: vec![],
    };
    NormGrad { input, gamma, beta }
}
