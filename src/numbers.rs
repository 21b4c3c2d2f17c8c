//! Real numbers at compile time become dyadics here, and nowhere else.
//!
//! They end up in programs, therefore in weights, so they must be the same on every platform. IEEE 754 defines +, −, ×, ÷,
//! the square root and the rounding to integers to the last bit, and the standard library promises as much; powers,
//! logarithms and cosines come from the platform's mathematical library and differ there. What lowering needs of those is
//! computed here from the former only. It knows no op and no kernel.

use std::f64::consts::{FRAC_PI_2, LN_2};

use fqt_runtime::fixed::Dyadic;

/// The dyadic nearest to a real number; zero for what is not finite.
pub fn dyadic(x: f64) -> Dyadic {
    if !x.is_finite() {
        return Dyadic::ZERO;
    }
    let (bits, hidden) = (x.to_bits(), 1 << 52);
    let (field, fraction) = ((bits >> 52 & 0x7ff) as i64, (bits & (hidden - 1)) as i64);
    // Subnormal numbers have no leading one.
    let (m, e) = if field == 0 { (fraction, -1074) } else { (fraction | hidden as i64, field - 1075) };
    Dyadic::from_i64(if x < 0.0 { -m } else { m }).scale(e)
}

/// Its bits as they stand in a buffer.
pub fn packed(x: f64) -> i64 {
    dyadic(x).pack() as i64
}

/// `2^x` for −1 ≤ x ≤ 0, within 2^−50: the exponential series, whose twentieth term is below 2^−70.
pub fn exp2(x: f64) -> f64 {
    let z = x * LN_2;
    (1..=20).rev().fold(1.0, |rest, n| 1.0 + z / n as f64 * rest)
}

/// `(1 + cos πx)/2` for x in 0..=1, within 2^−50: a half cosine from one to zero.
pub fn half_cosine(x: f64) -> f64 {
    // sin²(π/2·(1 − x)): no difference of near numbers where it is small.
    let y = 1.0 - x;
    let sine = if y <= 0.5 { sine(FRAC_PI_2 * y) } else { cosine(FRAC_PI_2 * x) };
    sine * sine
}

/// The series of the sine up to π/4; the tenth term is below 2^−60.
fn sine(z: f64) -> f64 {
    z * alternating(z * z, |n| (2 * n * (2 * n + 1)) as f64)
}

/// The same of the cosine.
fn cosine(z: f64) -> f64 {
    alternating(z * z, |n| (2 * n * (2 * n - 1)) as f64)
}

/// `1 − s/d(1)·(1 − s/d(2)·(1 − …))`.
fn alternating(s: f64, divisor: impl Fn(i32) -> f64) -> f64 {
    (1..=10).rev().fold(1.0, |rest, n| 1.0 - s / divisor(n) * rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dyadics_keep_thirty_bits() {
        for x in [0.1, -1.0, 6.0, 1e-5, 3.25e7, 1.0 / 3.0, 2f64.powi(40) - 1.0, -1e-300] {
            let d = dyadic(x);
            let back = d.m as f64 * (d.e as f64).exp2();
            assert!((back - x).abs() <= x.abs() * 2f64.powi(-31), "{x} became {back}");
        }
        for nothing in [0.0, -0.0, f64::NAN, f64::INFINITY, f64::from_bits(1)] {
            assert_eq!(dyadic(nothing), Dyadic::ZERO, "{nothing}");
        }
        assert_eq!(dyadic(1.0 - 2f64.powi(-40)), Dyadic::ONE);
    }

    #[test]
    fn functions_agree_with_those_of_the_platform() {
        let off = 2f64.powi(-50);
        for i in 0..=4096 {
            let x = i as f64 / 4096.0;
            assert!((exp2(-x) - (-x).exp2()).abs() <= off, "2^-{x}");
            let meant = 0.5 * (1.0 + (std::f64::consts::PI * x).cos());
            assert!((half_cosine(x) - meant).abs() <= off, "{x}");
        }
        assert_eq!((exp2(0.0), half_cosine(0.0), half_cosine(1.0)), (1.0, 1.0, 0.0));
        assert!((exp2(-1.0) - 0.5).abs() <= off && (half_cosine(0.5) - 0.5).abs() <= off);
    }
}
