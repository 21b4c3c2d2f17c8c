//! Stochastic rounding: up with the probability of the fraction, so that the expected code is the value.

use super::gradient::{Gradient, PARAMS_ROW};

pub(super) static STOCHASTIC: Gradient = Gradient {
    name: "stochastic",
    doc: "gradients with unbiased stochastic rounding",
    params: PARAMS_ROW,
    round,
    error: 1.0,
};

fn round(fixed: i64, random: u16, fraction: u32) -> i64 {
    (fixed + (i64::from(random) & ((1 << fraction) - 1))) >> fraction
}
