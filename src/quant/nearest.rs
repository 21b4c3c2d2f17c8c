//! Rounding to nearest, halves upwards: least error per element, but the error is a function of the value and adds up.

use super::gradient::{Gradient, PARAMS_ROW};

pub(super) static NEAREST: Gradient =
    Gradient { name: "nearest", doc: "gradients rounded to nearest", params: PARAMS_ROW, round, error: 0.5 };

fn round(fixed: i64, _random: u16, fraction: u32) -> i64 {
    (fixed + (1 << (fraction - 1))) >> fraction
}
