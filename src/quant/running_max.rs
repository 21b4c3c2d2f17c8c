//! Activations by a running maximum of earlier steps: range ← range + momentum·(largest − range).
//!
//! What lies beyond the range is clipped and passes no gradient; a value that still rounds to the last code passes it.

use super::{Levels, Quantizer, Role, Slope, bits_param, round_up};
use crate::types::{Attrs, Kind, Literal, ParamSpec};

pub(super) struct RunningMax;

impl Quantizer for RunningMax {
    fn name(&self) -> &'static str {
        "running_max"
    }

    fn doc(&self) -> &'static str {
        "activations scaled by a running maximum"
    }

    fn role(&self) -> Role {
        Role::Activations
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            bits_param("bits of an activation code"),
            ParamSpec::optional(
                "momentum",
                Kind::Real { lo: 1.0 / 65536.0, hi: 1.0 },
                Literal::Real(1.0 / 16.0),
                "weight of the current step's maximum in the running maximum",
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

    fn clips(&self) -> bool {
        true
    }

    fn slope(&self, scaled: f64, levels: Levels) -> Slope {
        let code = (scaled + 0.5).floor();
        let inside = levels.lo as f64 <= code && code <= levels.hi as f64;
        Slope { x: if inside { 1.0 } else { 0.0 }, learned: 0.0 }
    }
}
