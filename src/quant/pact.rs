//! Activations with a learned clip α (PACT, Choi et al. 2018): y = clip(x, 0, α), or clip(x, −α, α) where x may be negative.
//!
//! dy/dx = 1 inside, dy/dα = ±1 where clipped and 0 inside: the rounding term inside the range is dropped. The penalty
//! decay/2·α² keeps α from growing without bound; it takes the place of weight decay for this parameter.

use super::{Learned, Levels, Quantizer, Role, Slope, bits_param, round_up};
use crate::types::{Attrs, Kind, Literal, ParamSpec, real};

pub(super) struct Pact;

impl Quantizer for Pact {
    fn name(&self) -> &'static str {
        "pact"
    }

    fn doc(&self) -> &'static str {
        "activations with a learned clip"
    }

    fn role(&self) -> Role {
        Role::Activations
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            bits_param("bits of an activation code"),
            ParamSpec::optional(
                "init",
                // What is trained is a fixed-point number below 8.
                Kind::Real { lo: 0.0625, hi: 7.5 },
                Literal::Real(6.0),
                "where the clip starts",
            ),
            ParamSpec::optional(
                "decay",
                Kind::Real { lo: 0.0, hi: 1.0 },
                Literal::Real(2e-4),
                "weight of the penalty on the squared clip",
            ),
        ];
        PARAMS
    }

    fn range_f64(&self, largest: f64, _: &Attrs) -> f64 {
        largest
    }

    fn encode_f64(&self, scaled: f64, _: u16, _: u32, levels: Levels) -> i64 {
        round_up(scaled, levels)
    }

    fn noise(&self, _: u32) -> f64 {
        0.5
    }

    fn learned(&self, params: &Attrs) -> Option<Learned> {
        Some(Learned { slot: "clip", init: real(params, "init") })
    }

    fn clips(&self) -> bool {
        true
    }

    fn slope(&self, scaled: f64, levels: Levels) -> Slope {
        if scaled >= levels.hi as f64 {
            Slope { x: 0.0, learned: 1.0 }
        } else if levels.lo == 0 {
            Slope { x: if scaled >= 0.0 { 1.0 } else { 0.0 }, learned: 0.0 }
        } else if scaled <= levels.lo as f64 {
            Slope { x: 0.0, learned: -1.0 }
        } else {
            Slope { x: 1.0, learned: 0.0 }
        }
    }

    fn penalty_slope(&self, learned: f64, params: &Attrs) -> f64 {
        real(params, "decay") * learned
    }
}
