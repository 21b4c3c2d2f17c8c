//! Backward clamp: the gain of the backward pass is sign(γ)·min(|γ|/σ, gmax).
//!
//! Not a derivative of any loss: it scales a channel's gradient by a factor in (0, 1], which biases the mix of channels
//! sent upstream in exchange for a bounded growth of quantization noise.

use super::{Rectifier, TermValues, Terms, constant, plain, plain_values};
use crate::kernel::Value;
use crate::kernel::build::KernelBuilder;
use crate::types::{Attrs, Kind, Literal, ParamSpec, real};

pub(super) struct Clamp;

impl Rectifier for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn doc(&self) -> &'static str {
        "bound on the backward gain of each channel"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[ParamSpec::optional(
            "gmax",
            Kind::Real { lo: 1e-3, hi: 1e6 },
            Literal::Real(1.0),
            "largest gain |γ|/σ",
        )];
        PARAMS
    }

    fn terms_f64(&self, gamma: f64, variance: f64, params: &Attrs) -> Terms {
        let gmax = real(params, "gmax");
        let exact = plain(gamma, variance);
        Terms { gain: exact.gain.clamp(-gmax, gmax), ..exact }
    }

    fn terms(&self, kb: &mut KernelBuilder, gamma: Value, variance: Value, params: &Attrs) -> TermValues {
        let exact = plain_values(kb, gamma, variance);
        let (low, high) = (-real(params, "gmax"), real(params, "gmax"));
        let (low, high) = (constant(kb, low), constant(kb, high));
        let gain = kb.min(exact.gain, high);
        TermValues { gain: kb.max(gain, low), ..exact }
    }

    fn loss_f64(&self, _: f64, _: f64, _: &Attrs) -> f64 {
        0.0
    }
}
