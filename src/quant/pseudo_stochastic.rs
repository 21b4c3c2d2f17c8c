//! Pseudo-stochastic rounding (NITI, Wang et al. 2020): the low half of the fraction serves as the random number.
//!
//! On magnitudes: up iff the high half of the fraction exceeds the low half (doubled where the fraction has an odd
//! number of bits, so that both have the same weight). Costs no random bits; the noise depends on the data.

use super::gradient::{Gradient, PARAMS};

pub(super) static PSEUDO_STOCHASTIC: Gradient = Gradient {
    name: "pseudo_stochastic",
    doc: "gradients rounded by their own low bits",
    params: PARAMS,
    round,
    error: 1.0,
};

fn round(fixed: i64, _random: u16, fraction: u32) -> i64 {
    let magnitude = fixed.abs();
    let half = fraction / 2;
    let high = (magnitude & ((1 << fraction) - 1)) >> half;
    let low = (magnitude & ((1 << half) - 1)) << (fraction % 2);
    ((magnitude >> fraction) + i64::from(high > low)) * fixed.signum()
}
