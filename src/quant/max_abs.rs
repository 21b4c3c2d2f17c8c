//! Weights by their largest magnitude: nothing is clipped, so the derivative is 1.
//!
//! Codes round half away from zero, so that a weight and its negative have opposite codes.

use super::{Levels, Quantizer, Role, bits_param, per_param};
use crate::types::{Attrs, ParamSpec};

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
        ];
        PARAMS
    }

    fn range_f64(&self, largest: f64, _: &Attrs) -> f64 {
        largest
    }

    fn encode_f64(&self, scaled: f64, _: u16, _: u32, levels: Levels) -> i64 {
        (scaled.round() as i64).clamp(levels.lo, levels.hi)
    }

    fn noise(&self, _: u32) -> f64 {
        0.5
    }
}
