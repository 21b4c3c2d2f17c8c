//! What the gradient quantizers share: parameters, ranges, and a rounding rule on 16-bit fixed point.
//!
//! A value becomes fixed point with F = 16 − bits fraction bits (halves upwards, saturated to i16); the rounding rule
//! removes the fraction. Range rules: `max`, the largest magnitude, by a pass of its own; `bound`, a bound on it from
//! channel sums and extremes that the kernels have anyway (1.0 to 1.2 of the maximum); `clip`, that bound times `fraction`,
//! beyond which codes saturate; `hindsight`, a running maximum of earlier steps.
//! A row of a channel has its own range, of a few below the tensor's, and `clip` means the row's largest value.
//! Symmetric codes without −2^(bits−1), so that the rounding noise is unbiased on both sides; but rows use all codes of
//! two's complement, for the value or its negative, whichever has its larger values on the longer side.

use super::{Levels, Quantizer, Role, bits_param, per_param};
use crate::types::{Attrs, Kind, Literal, ParamSpec};

/// Rounds fixed point with `fraction` bits (first argument) to an integer, with the element's random bits.
type Round = fn(fixed: i64, random: u16, fraction: u32) -> i64;

/// A gradient quantizer.
pub(super) struct Gradient {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) params: &'static [ParamSpec],
    pub(super) round: Round,
    /// Largest error of `round`.
    pub(super) error: f64,
}

const RANGES: &[&str] = &["bound", "max", "hindsight", "clip"];

pub(super) const fn range_params(bits: ParamSpec, per: ParamSpec) -> [ParamSpec; 5] {
    [
        bits,
        ParamSpec::optional(
            "range",
            Kind::Word(RANGES),
            Literal::Word("bound"),
            "what the largest code stands for",
        ),
        ParamSpec::optional(
            "fraction",
            Kind::Real { lo: 1.0 / 64.0, hi: 1.0 },
            Literal::Real(0.5),
            "with range = clip: the part of the bound that is kept",
        ),
        ParamSpec::optional(
            "momentum",
            Kind::Real { lo: 1.0 / 65536.0, hi: 1.0 },
            Literal::Real(0.1),
            "with range = hindsight: weight of the current step",
        ),
        per,
    ]
}

/// Bits that any evenly spaced codes may have.
const BITS: ParamSpec = bits_param("bits of a gradient code");
/// What `per` means for a quantizer without scales of rows.
pub(super) const PER: &str =
    "what shares a scale: the tensor, or a channel (of the weight gradient; the data gradient has one scale)";
const PER_ROW: &str = "what shares a scale: the tensor, a channel (of the weight gradient only), or a row of a channel of an image";

/// Parameters of a quantizer that knows scales of a tensor and of channels.
pub(super) static PARAMS: &[ParamSpec] = &range_params(BITS, per_param("tensor", PER));
/// Parameters of a quantizer that knows scales of rows too.
pub(super) static PARAMS_ROW: &[ParamSpec] = &range_params(
    BITS,
    ParamSpec::optional("per", Kind::Word(&["tensor", "channel", "row"]), Literal::Word("tensor"), PER_ROW),
);

impl Quantizer for Gradient {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn role(&self) -> Role {
        Role::Gradients
    }

    fn params(&self) -> &'static [ParamSpec] {
        self.params
    }

    fn range_f64(&self, largest: f64, params: &Attrs) -> f64 {
        largest * super::covered(params)
    }

    fn encode_f64(&self, scaled: f64, random: u16, bits: u32, levels: Levels) -> i64 {
        let fraction = 16 - bits;
        let fixed = (scaled * f64::from(1u32 << fraction) + 0.5).floor() as i64;
        let fixed = fixed.clamp(i64::from(i16::MIN), i64::from(i16::MAX));
        (self.round)(fixed, random, fraction).clamp(levels.lo, levels.hi)
    }

    fn noise(&self, bits: u32) -> f64 {
        self.error + 0.5 / f64::from(1u32 << (16 - bits))
    }
}
