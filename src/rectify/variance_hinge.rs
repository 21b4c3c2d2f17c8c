//! Variance hinge: r = strength/2 · [tau − σ²]₊², which pushes small variances up towards tau.
//!
//! spread = −2σ·dr/dσ² = 2σ·strength·[tau − σ²]₊; γ does not occur. A step carries the term as a multiple of the gain γ/σ, so
//! that a channel whose γ is exactly 0 has none.

use super::{Rectifier, TAU, TermValues, Terms, constant, plain, plain_values, strength};
use crate::kernel::Value;
use crate::kernel::build::KernelBuilder;
use crate::types::{Attrs, ParamSpec, real};

pub(super) struct VarianceHinge;

fn gap(variance: f64, params: &Attrs) -> f64 {
    (real(params, "tau") - variance).max(0.0)
}

impl Rectifier for VarianceHinge {
    fn name(&self) -> &'static str {
        "variance_hinge"
    }

    fn doc(&self) -> &'static str {
        "penalty on channel variances below tau"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[strength(0.1), TAU];
        PARAMS
    }

    fn terms_f64(&self, gamma: f64, variance: f64, params: &Attrs) -> Terms {
        let spread = 2.0 * variance.sqrt() * real(params, "strength") * gap(variance, params);
        Terms { spread, ..plain(gamma, variance) }
    }

    fn terms(&self, kb: &mut KernelBuilder, gamma: Value, variance: Value, params: &Attrs) -> TermValues {
        let zero = constant(kb, 0.0);
        let tau = constant(kb, real(params, "tau"));
        let gap = kb.sub(tau, variance);
        let gap = kb.max(gap, zero);
        let deviation = kb.sqrt(variance);
        let twice = constant(kb, 2.0 * real(params, "strength"));
        let spread = kb.mul(twice, gap);
        TermValues { spread: kb.mul(spread, deviation), ..plain_values(kb, gamma, variance) }
    }

    fn loss_f64(&self, _: f64, variance: f64, params: &Attrs) -> f64 {
        0.5 * real(params, "strength") * gap(variance, params).powi(2)
    }
}
