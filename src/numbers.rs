//! Real numbers at compile time become dyadics here, and nowhere else.

use fqt_runtime::fixed::Dyadic;

/// The dyadic nearest to a real number; zero for what is not finite.
pub fn dyadic(x: f64) -> Dyadic {
    if x == 0.0 || !x.is_finite() {
        return Dyadic::new(0, 0);
    }
    let e = x.abs().log2().floor() as i64 - 30;
    Dyadic::from_i64((x * (-e as f64).exp2()).round() as i64).scale(e)
}

/// Its bits as they stand in a buffer.
pub fn packed(x: f64) -> i64 {
    dyadic(x).pack() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dyadics_keep_thirty_bits() {
        for x in [0.1, -1.0, 6.0, 1e-5, 3.25e7, 1.0 / 3.0] {
            let d = dyadic(x);
            let back = d.m as f64 * (d.e as f64).exp2();
            assert!((back - x).abs() <= x.abs() * 2f64.powi(-31), "{x} became {back}");
        }
        assert_eq!(dyadic(0.0), Dyadic::new(0, 0));
    }
}
