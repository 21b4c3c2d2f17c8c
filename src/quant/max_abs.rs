//! Weights by their largest magnitude, or by a part of it.
//!
//! Codes round half away from zero, so that a weight and its negative have opposite codes. What lies beyond the range is
//! clipped with the derivative left at 1, as that of rounding is (straight-through, as in SAWB, Choi et al. 2018): a weight
//! that is clipped can still come back.

use super::{Levels, Quantizer, Role, bits_param, per_param};
use crate::types::{Attrs, Kind, Literal, ParamSpec, real};

pub(super) struct MaxAbs;

impl Quantizer for MaxAbs {
    fn name(&self) -> &'static str {
        "max_abs"
    }

    fn doc(&self) -> &'static str {
        "weights scaled by their largest magnitude"
    }

    fn role(&self) -> Role {
        Role::Weights
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            bits_param("bits of a weight code"),
            per_param("channel", "what shares a scale: the whole tensor, or one output channel"),
            // Below a half, an inverse no longer fits the fixed point that it is multiplied in.
            ParamSpec::optional(
                "fraction",
                Kind::Real { lo: 0.5, hi: 1.0 },
                Literal::Real(1.0),
                "part of the largest magnitude that the codes cover: few bits want smaller steps",
            ),
        ];
        PARAMS
    }

    fn range_f64(&self, largest: f64, params: &Attrs) -> f64 {
        real(params, "fraction") * largest
    }

    fn encode_f64(&self, scaled: f64, _: u16, _: u32, levels: Levels) -> i64 {
        (scaled.round() as i64).clamp(levels.lo, levels.hi)
    }

    fn noise(&self, _: u32) -> f64 {
        0.5
    }
}
