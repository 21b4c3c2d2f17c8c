//! Cyclic precision (CPT, Fu et al. 2021): in each cycle the bits of weights and activations rise from few to all, along
//! half a cosine.
//!
//! b(t) = round(low + (bits − low)·(1 − cos πt)/2), t = 0 to 1 over a cycle, halves upwards. Then the next cycle begins with
//! few bits again; a run ends where a cycle does, with all bits, and these are what evaluation has at any time. Gradients
//! keep theirs, as there.

use super::{Course, MOST_CYCLES, PHASES, Policy};
use crate::ir::{Role, Scheme};
use crate::numbers::half_cosine;
use crate::quant;
use crate::types::{Attrs, Kind, Literal, ParamSpec, int};

/// The policy.
pub struct Cyclic;

impl Policy for Cyclic {
    fn name(&self) -> &'static str {
        "cyclic"
    }

    fn doc(&self) -> &'static str {
        "bits of weights and activations that rise from `low` to those of the rules, in cycles"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            ParamSpec::optional(
                "low",
                Kind::Int { lo: 2, hi: 7 },
                Literal::Int(3),
                "bits that a cycle begins with; widths of no more than that do not move",
            ),
            ParamSpec::optional(
                "cycles",
                Kind::Int { lo: 1, hi: MOST_CYCLES as i64 },
                Literal::Int(32),
                "cycles in the run",
            ),
        ];
        PARAMS
    }

    fn course(&self, scheme: &Scheme, params: &Attrs) -> Option<Course> {
        let role = quant::find(&scheme.quantizer)?.role();
        let (low, high) = (int(params, "low") as u32, quant::bits(&scheme.params));
        if role == Role::Gradients || low >= high {
            return None;
        }
        Some(Course { cycles: int(params, "cycles") as u32, bits: rise(low, high) })
    }
}

/// Bits by phase of a cycle, each those at its beginning.
fn rise(low: u32, high: u32) -> Vec<u32> {
    let bits = |phase: usize| {
        let risen = 1.0 - half_cosine(phase as f64 / PHASES as f64);
        low + (f64::from(high - low) * risen + 0.5).floor() as u32
    };
    (0..PHASES).map(bits).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::types::{Attr, defaults};

    fn scheme(quantizer: &str, bits: i64) -> Scheme {
        let mut params = defaults(quant::find(quantizer).unwrap().params());
        params.insert("bits".into(), Attr::Int(bits));
        Scheme { quantizer: quantizer.into(), params }
    }

    fn params(low: i64, cycles: i64) -> Attrs {
        [("low".to_owned(), Attr::Int(low)), ("cycles".to_owned(), Attr::Int(cycles))].into()
    }

    #[test]
    fn cycles_rise_along_half_a_cosine() {
        for high in 3..=8 {
            for low in 2..high {
                let course = Cyclic.course(&scheme("max_abs", high), &params(low, 8)).unwrap();
                assert_eq!((course.cycles, course.bits.len()), (8, PHASES));
                assert_eq!(course.bits[0], low as u32);
                assert_eq!(course.bits[PHASES - 1], high as u32);
                assert!(course.bits.is_sorted_by(|a, b| (0..=1).contains(&(*b as i64 - *a as i64))));
                for (phase, &bits) in course.bits.iter().enumerate() {
                    let t = phase as f64 / PHASES as f64;
                    let meant =
                        low as f64 + 0.5 * (high - low) as f64 * (1.0 - (std::f64::consts::PI * t).cos());
                    assert!((f64::from(bits) - meant).abs() <= 0.5 + 1e-9, "{low} to {high} at {t}: {bits}");
                }
            }
        }
    }

    /// From 3 to 8 bits, a width begins where the cosine passes half of one: at these phases, by hand.
    #[test]
    fn widths_change_where_they_should() {
        let bits = rise(3, 8);
        let begins = |width: u32| bits.iter().position(|&b| b == width).unwrap();
        let by_hand = [0.2048, 0.3690, 0.5, 0.6310, 0.7952].map(|t| (t * PHASES as f64).ceil() as usize);
        for (width, meant) in (4..=8).zip(by_hand) {
            assert!(
                begins(width).abs_diff(meant) <= 1,
                "{width} bits begin at {}, not {meant}",
                begins(width)
            );
        }
    }

    #[test]
    fn gradients_and_narrow_widths_do_not_move() {
        assert_eq!(Cyclic.course(&scheme("stochastic", 8), &params(3, 8)), None);
        assert_eq!(Cyclic.course(&scheme("running_max", 3), &params(3, 8)), None);
        assert_eq!(Cyclic.course(&scheme("pact", 2), &params(3, 8)), None);
        assert!(Cyclic.course(&scheme("pact", 4), &params(3, 8)).is_some());
    }
}
