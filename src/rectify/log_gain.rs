//! Log-gain hinge: r = strength/2 · h², h = [ln(γ²/(tau·σ²))]₊, in nats: it bounds the squared backward gain γ²/σ².
//!
//! spread = 2·strength·h/σ and dr/dγ = 2·strength·h/γ. Where γ² ≤ tau·σ² (γ = 0 included) h = 0 and nothing is divided.

use super::{Rectifier, TAU, TermValues, Terms, constant, plain, plain_values, strength};
use crate::kernel::Value;
use crate::kernel::build::KernelBuilder;
use crate::types::{Attrs, ParamSpec, real};

pub(super) struct LogGain;

fn excess(gamma: f64, variance: f64, params: &Attrs) -> f64 {
    let ratio = gamma * gamma / (real(params, "tau") * variance);
    if ratio > 1.0 { ratio.ln() } else { 0.0 }
}

impl Rectifier for LogGain {
    fn name(&self) -> &'static str {
        "log_gain"
    }

    fn doc(&self) -> &'static str {
        "penalty on the logarithm of the squared gain above tau"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[strength(1e-2), TAU];
        PARAMS
    }

    fn terms_f64(&self, gamma: f64, variance: f64, params: &Attrs) -> Terms {
        let h = excess(gamma, variance, params);
        if h == 0.0 {
            return plain(gamma, variance);
        }
        let pull = 2.0 * real(params, "strength") * h;
        Terms { spread: pull / variance.sqrt(), dgamma: pull / gamma, ..plain(gamma, variance) }
    }

    fn terms(&self, kb: &mut KernelBuilder, gamma: Value, variance: Value, params: &Attrs) -> TermValues {
        let zero = constant(kb, 0.0);
        let square = kb.mul(gamma, gamma);
        let tau = constant(kb, real(params, "tau"));
        let target = kb.mul(tau, variance);
        let ratio = kb.div(square, target);
        let log = kb.log2(ratio);
        let one = constant(kb, 1.0);
        let over = kb.lt(one, ratio);
        let log = kb.select(over, log, zero);
        // h = ln 2 · log2: the factor is part of the constant.
        let pull = constant(kb, 2.0 * real(params, "strength") * std::f64::consts::LN_2);
        let pull = kb.mul(pull, log);
        let inverse = kb.rsqrt(variance);
        TermValues {
            spread: kb.mul(pull, inverse),
            dgamma: kb.div(pull, gamma),
            ..plain_values(kb, gamma, variance)
        }
    }

    fn loss_f64(&self, gamma: f64, variance: f64, params: &Attrs) -> f64 {
        0.5 * real(params, "strength") * excess(gamma, variance, params).powi(2)
    }
}
