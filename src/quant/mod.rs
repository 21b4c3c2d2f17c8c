//! Quantizers: how a tensor becomes integer codes and a scale. One file and one table line each.
//!
//! A scheme is a quantizer with its parameters. A *granule* is what shares a scale: the tensor, or one channel (axis 0 of
//! a weight, the last axis of a gradient), or one row of a channel of a gradient. With the range R of a granule and the largest code `hi`, the scale is R/hi and a
//! code stands for code·scale. Derivatives are those of the smooth surrogate: rounding replaced by adding a constant.
//! This module knows no op; how ranges and codes are computed in integers is written beside the lane functions.

mod gradient;
mod logarithmic;
mod max_abs;
mod nearest;
mod pact;
mod pseudo_stochastic;
mod running_max;
mod stochastic;

use crate::ir::Node;
pub use crate::types::Role;
use crate::types::{Attrs, Kind, Literal, ParamSpec, int, real, word};

/// The codes of a scheme: `lo..=hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Smallest code.
    pub lo: i64,
    /// Largest code; the range of a granule maps to it.
    pub hi: i64,
}

impl Levels {
    /// Codes symmetric about zero: ±(2^(bits−1) − 1).
    pub fn symmetric(bits: u32) -> Levels {
        let hi = (1 << (bits - 1)) - 1;
        Levels { lo: -hi, hi }
    }

    /// All codes of two's complement: −2^(bits−1) to 2^(bits−1) − 1.
    pub fn twos_complement(bits: u32) -> Levels {
        Levels { lo: -(1 << (bits - 1)), hi: (1 << (bits - 1)) - 1 }
    }

    /// Codes `0..=2^bits − 1`.
    pub fn unsigned(bits: u32) -> Levels {
        Levels { lo: 0, hi: (1 << bits) - 1 }
    }

    /// Those of them in force when `hi` is the largest.
    pub fn up_to(self, hi: i64) -> Levels {
        Levels { lo: self.lo.max(-hi), hi }
    }
}

/// A trained parameter of a quantizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Its slot: the parameter is `<path>.<slot>`.
    pub slot: &'static str,
    /// Where it starts.
    pub init: f64,
}

/// The derivative of the surrogate at one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// By the element.
    pub x: f64,
    /// By the learned parameter.
    pub learned: f64,
}

/// A quantizer.
pub trait Quantizer: Sync {
    /// Its name in recipes and schemes.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list`.
    fn doc(&self) -> &'static str;

    /// What it is for.
    fn role(&self) -> Role;

    /// Its parameters; `bits` is among them.
    fn params(&self) -> &'static [ParamSpec];

    /// Its codes. Weights and gradients are always signed; an activation that cannot be negative is not.
    fn levels(&self, bits: u32, signed: bool) -> Levels {
        if signed { Levels::symmetric(bits) } else { Levels::unsigned(bits) }
    }

    /// Bits of the integer that a code of `bits` is stored as.
    fn stored_bits(&self, bits: u32) -> u32 {
        bits
    }

    /// The range of a granule whose largest magnitude is `largest`; where the range is kept from earlier steps, that of
    /// a first step.
    fn range_f64(&self, largest: f64, params: &Attrs) -> f64;

    /// The code of `scaled` = x / scale with the element's 16 random bits, inside `levels`.
    fn encode_f64(&self, scaled: f64, random: u16, bits: u32, levels: Levels) -> i64;

    /// Largest distance of a code from `scaled` where nothing is clipped, in codes.
    fn noise(&self, bits: u32) -> f64;

    /// The parameter that training adjusts, if it has one.
    fn learned(&self, _params: &Attrs) -> Option<Learned> {
        None
    }

    /// Whether the surrogate clips; if not, its derivative is 1 everywhere.
    fn clips(&self) -> bool {
        false
    }

    /// The derivative of the surrogate at `scaled` = x / scale.
    fn slope(&self, _scaled: f64, _levels: Levels) -> Slope {
        Slope { x: 1.0, learned: 0.0 }
    }

    /// Derivative of the penalty on the learned parameter, by that parameter.
    fn penalty_slope(&self, _learned: f64, _params: &Attrs) -> f64 {
        0.0
    }
}

/// How an evaluation in real numbers treats quantizers: whether they round, with which ranges and random bits.
pub trait Quantization {
    /// Whether quantizers round; if not, they are their smooth surrogates.
    fn rounds(&self) -> bool;

    /// The range of a granule at a node; `None` takes it from the tensor, as a first step does.
    fn range(&self, node: &Node, granule: usize) -> Option<f64>;

    /// The largest code in force at a node; `None` if all of its scheme are.
    fn largest_code(&self, _: &Node) -> Option<i64> {
        None
    }

    /// The 16 random bits of an element at a node.
    fn random(&self, node: &Node, shape: &[u64], element: usize) -> u16;
}

/// All quantizers.
pub static ALL: &[&dyn Quantizer] = &[
    &max_abs::MaxAbs,
    &running_max::RunningMax,
    &pact::Pact,
    &stochastic::STOCHASTIC,
    &nearest::NEAREST,
    &pseudo_stochastic::PSEUDO_STOCHASTIC,
    &logarithmic::Logarithmic,
];

/// The quantizer of a name.
pub fn find(name: &str) -> Option<&'static dyn Quantizer> {
    ALL.iter().copied().find(|q| q.name() == name)
}

/// The bit-width among parameters that conform.
pub fn bits(params: &Attrs) -> u32 {
    int(params, "bits").clamp(2, 8) as u32
}

/// Whether the scheme has one range per channel.
pub fn per_channel(params: &Attrs) -> bool {
    word(params, "per") == "channel"
}

/// Bits of a stored gradient code of which each row has its own scale; what the code itself leaves is the row's multiplier.
pub const STORED_BITS: u32 = 8;

/// Whether each row of a channel ([`row_of`]) has a scale, one of the [`row_multipliers`] of the tensor's finest step.
pub fn per_row(params: &Attrs) -> bool {
    word(params, "per") == "row"
}

/// With a scale for each row, of a gradient of this shape: elements of all channels of a row, and how many scales these have.
/// A row of one pixel would leave each element a scale of its own, so where an image is one pixel (or has none, behind a
/// fully connected layer), its channels share one; other columns of single pixels have none but the tensor's.
pub fn row_of(shape: &[u64]) -> Option<(usize, usize)> {
    let channels = *shape.last()? as usize;
    match shape {
        [_, _] | [_, 1, 1, _] => Some((channels, 1)),
        [_, _, width, _] if *width > 1 => Some((*width as usize * channels, channels)),
        _ => None,
    }
}

/// What the step of a row with codes of `bits` can be, in the finest steps of the tensor, ascending: 2^k and 3·2^k.
///
/// A code times the multiplier fits into a byte. With powers of two alone the range of a row is up to twice what it needs
/// instead of one and a half times; with 2 bits that is 4 points of training accuracy after three epochs of CIFAR-10, and
/// the fourth code of two's complement another 4.
pub fn row_multipliers(bits: u32) -> Vec<u32> {
    (1..=1 << (STORED_BITS - bits)).filter(|m: &u32| matches!(m >> m.trailing_zeros(), 1 | 3)).collect()
}

/// Bits behind the point of [`row_reciprocal`].
pub const fn row_point(bits: u32) -> u32 {
    14 - (STORED_BITS - bits)
}

/// What turns the code of a row with multiplier 2^(`STORED_BITS` − bits) into that of a row with `multiplier`: their
/// quotient in fixed point with [`row_point`] bits, at most 2^14.
pub fn row_reciprocal(multiplier: u32) -> u32 {
    ((1 << 14) + multiplier / 2) / multiplier
}

/// Part of a granule's largest value that its codes cover: of rows, each is clipped by itself, and not the tensor.
pub fn covered(params: &Attrs) -> f64 {
    if word(params, "range") == "clip" { real(params, "fraction") } else { 1.0 }
}

const fn bits_param(doc: &'static str) -> ParamSpec {
    ParamSpec::optional("bits", Kind::Int { lo: 2, hi: 8 }, Literal::Int(8), doc)
}

const fn per_param(default: &'static str, doc: &'static str) -> ParamSpec {
    ParamSpec::optional("per", Kind::Word(&["tensor", "channel"]), Literal::Word(default), doc)
}

/// Rounds to the nearest code, halves upwards: `floor(x + 1/2)`, the shift after adding half that the kernels use.
fn round_up(scaled: f64, levels: Levels) -> i64 {
    ((scaled + 0.5).floor() as i64).clamp(levels.lo, levels.hi)
}
