//! Powers of two, rounded up or down at random so that the expected code is the value (LUQ, Chmiel et al. 2021).
//!
//! With `bits`, codes are 0 and ±2^k with k from 0 to 2^(bits−1) − 2: one sign, and as many exponents as the other bits name
//! beside zero. A magnitude between 2^k and 2^(k+1) becomes the upper one with probability (|x| − 2^k)/2^k, one below 1
//! becomes 1 with probability |x|: errors follow the magnitude, where evenly spaced codes lose all that is small. Codes are
//! stored as what they stand for, so that no contraction needs to know; with five bits that would not fit into a byte.

use super::gradient::range_params;
use super::{Levels, Quantizer, Role, STORED_BITS, covered, per_param};
use crate::types::{Attrs, Kind, Literal, ParamSpec};

pub(super) struct Logarithmic;

const BITS: ParamSpec =
    ParamSpec::optional("bits", Kind::Int { lo: 2, hi: 4 }, Literal::Int(4), "bits of a gradient code");
static PARAMS: &[ParamSpec] = &range_params(BITS, per_param("tensor", super::gradient::PER));

/// Bits behind the point of the values that are rounded.
const FRACTION: u32 = 16 - STORED_BITS;

impl Quantizer for Logarithmic {
    fn name(&self) -> &'static str {
        "logarithmic"
    }

    fn doc(&self) -> &'static str {
        "gradients as powers of two, with unbiased stochastic rounding"
    }

    fn role(&self) -> Role {
        Role::Gradients
    }

    fn params(&self) -> &'static [ParamSpec] {
        PARAMS
    }

    fn levels(&self, bits: u32, _signed: bool) -> Levels {
        let hi = 1 << ((1 << (bits - 1)) - 2);
        Levels { lo: -hi, hi }
    }

    fn stored_bits(&self, _bits: u32) -> u32 {
        STORED_BITS
    }

    fn range_f64(&self, largest: f64, params: &Attrs) -> f64 {
        largest * covered(params)
    }

    fn encode_f64(&self, scaled: f64, random: u16, _bits: u32, levels: Levels) -> i64 {
        let most = levels.hi << FRACTION;
        let fixed = ((scaled * f64::from(1u32 << FRACTION) + 0.5).floor() as i64).clamp(-most, most);
        let size = fixed.unsigned_abs().max(1 << FRACTION);
        let apart = 1 << size.ilog2();
        let up = (fixed.abs() + i64::from(random) % apart) / apart * (apart >> FRACTION);
        (up * fixed.signum()).clamp(levels.lo, levels.hi)
    }

    /// Half of the largest code: so far are the two largest apart.
    fn noise(&self, bits: u32) -> f64 {
        (self.levels(bits, true).hi as f64 / 2.0).max(1.0) + 0.5 / f64::from(1u32 << FRACTION)
    }
}
