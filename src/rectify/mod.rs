//! Rectifications of batch norm: a penalty on the variance or the gain of a channel, or a bound on the backward gain.
//!
//! Any penalty Σ_c r(σ_c², γ_c) changes batch norm's backward by one number per channel: with k0 = gain, m elements,
//! `dx = k0·dy − k0·dβ/m − (k0·dγ + spread)/m · x̂` and `dγ_total = dγ + dr/dγ`, where `spread = −2σ·dr/dσ²`.
//! So a rectifier is three numbers per channel, costs no pass over the data, and needs no loss value in the step.
//! σ² is in real units and includes batch norm's eps.

mod clamp;
mod log_gain;
mod none;
mod variance_hinge;

use crate::kernel::Value;
use crate::kernel::build::KernelBuilder;
use crate::numbers;
use crate::types::{Attrs, Kind, Literal, ParamSpec};

/// What a rectifier contributes for one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Replaces γ/σ as the factor of the incoming gradient.
    pub gain: f64,
    /// Added to gain·dγ in the coefficient of x̂ (before the division by the number of elements): −2σ·dr/dσ².
    pub spread: f64,
    /// Added to dγ: dr/dγ.
    pub dgamma: f64,
}

/// The same of one channel as dyadics in a scalar kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TermValues {
    /// As [`Terms::gain`].
    pub gain: Value,
    /// As [`Terms::spread`].
    pub spread: Value,
    /// As [`Terms::dgamma`].
    pub dgamma: Value,
}

/// A rectifier.
pub trait Rectifier: Sync {
    /// Its name in recipes and in the attribute `rectifier`.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list`.
    fn doc(&self) -> &'static str;

    /// Its parameters.
    fn params(&self) -> &'static [ParamSpec];

    /// The terms of one channel from γ and σ² (with eps).
    fn terms_f64(&self, gamma: f64, variance: f64, params: &Attrs) -> Terms;

    /// The same in a scalar kernel, of dyadics.
    fn terms(&self, kb: &mut KernelBuilder, gamma: Value, variance: Value, params: &Attrs) -> TermValues;

    /// The penalty of one channel, of which `spread` and `dgamma` are derivatives; zero for a pure bound on the gain.
    fn loss_f64(&self, gamma: f64, variance: f64, params: &Attrs) -> f64;
}

/// All rectifiers.
pub static ALL: &[&dyn Rectifier] =
    &[&none::None, &variance_hinge::VarianceHinge, &log_gain::LogGain, &clamp::Clamp];

/// The rectifier of a name.
pub fn find(name: &str) -> Option<&'static dyn Rectifier> {
    ALL.iter().copied().find(|r| r.name() == name)
}

const TAU: ParamSpec = ParamSpec::optional(
    "tau",
    Kind::Real { lo: 1e-6, hi: 1e6 },
    Literal::Real(1.0),
    "where the penalty of the quantity begins",
);

const fn strength(default: f64) -> ParamSpec {
    let kind = Kind::Real { lo: 0.0, hi: 1e3 };
    ParamSpec::optional("strength", kind, Literal::Real(default), "weight of the penalty in the loss")
}

/// The exact backward of batch norm without a penalty.
fn plain(gamma: f64, variance: f64) -> Terms {
    Terms { gain: gamma / variance.sqrt(), spread: 0.0, dgamma: 0.0 }
}

/// A compile-time number.
fn constant(kb: &mut KernelBuilder, x: f64) -> Value {
    let d = numbers::dyadic(x);
    kb.dyadic(d.m, d.e)
}

/// The exact backward in a scalar kernel.
fn plain_values(kb: &mut KernelBuilder, gamma: Value, variance: Value) -> TermValues {
    let zero = constant(kb, 0.0);
    let inverse = kb.rsqrt(variance);
    TermValues { gain: kb.mul(gamma, inverse), spread: zero, dgamma: zero }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::defaults;

    #[test]
    fn terms_are_the_derivatives_of_the_loss() {
        let h = 1e-6;
        for r in ALL {
            let params = defaults(r.params());
            for (gamma, variance) in [(1.3, 0.4), (-0.9, 0.2), (0.2, 2.0), (0.0, 0.5)] {
                let terms = r.terms_f64(gamma, variance, &params);
                let by_gamma = (r.loss_f64(gamma + h, variance, &params)
                    - r.loss_f64(gamma - h, variance, &params))
                    / (2.0 * h);
                let by_variance = (r.loss_f64(gamma, variance + h, &params)
                    - r.loss_f64(gamma, variance - h, &params))
                    / (2.0 * h);
                assert!((terms.dgamma - by_gamma).abs() < 1e-7, "{} dγ", r.name());
                assert!(
                    (terms.spread + 2.0 * variance.sqrt() * by_variance).abs() < 1e-7,
                    "{} spread",
                    r.name()
                );
            }
        }
    }

    #[test]
    fn only_the_clamp_changes_the_gain() {
        for r in ALL {
            let params = defaults(r.params());
            let gain = r.terms_f64(-3.0, 0.25, &params).gain;
            assert_eq!(gain, if r.name() == "clamp" { -1.0 } else { -6.0 }, "{}", r.name());
        }
    }
}
