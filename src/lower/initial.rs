//! What buffers that survive steps start from.
//!
//! Starts are descriptions: large layers have millions of weights, which are drawn when the arena's contents are written,
//! once and by any number of threads.

use std::ops::Range;

use super::contract::Conv;
use super::weights::MASTER_BITS;
use crate::ir::Init;

/// Contents of a buffer; dyadics are packed.
#[derive(Clone, Debug)]
pub enum Start {
    /// All elements alike.
    Each(i64),
    /// One by one.
    Values(Vec<i64>),
    /// Masters of a weight.
    Drawn(Drawn),
}

impl Start {
    /// The contents of a buffer of `n` elements.
    pub fn values(&self, n: usize) -> Vec<i64> {
        match self {
            Start::Each(value) => vec![*value; n],
            Start::Values(values) => values.clone(),
            Start::Drawn(drawn) => {
                let mut masters = vec![0; n];
                drawn.draw(0..drawn.rows(), &mut masters);
                masters.into_iter().map(i64::from).collect()
            }
        }
    }
}

/// Masters in Q28 `[in][taps][out, padded]`.
///
/// Drawn from the random blocks of (seed, name), so that a weight does not depend on other layers. Normal numbers are
/// sums of twelve uniform ones minus six (Irwin–Hall), exact in integers up to the final scale.
#[derive(Clone, Debug)]
pub struct Drawn {
    key: u64,
    init: Init,
    inputs: u32,
    taps: u32,
    outputs: u32,
    padded: u32,
}

impl Drawn {
    pub(super) fn new(name: &str, init: &Init, conv: &Conv, seed: u64) -> Drawn {
        let stream =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
        Drawn {
            key: fqt_runtime::random::hash_key(seed, u64::MAX, stream),
            init: init.clone(),
            inputs: conv.depth(),
            taps: conv.taps(),
            outputs: conv.output.c,
            padded: conv.output.cp(),
        }
    }

    /// Rows of output channels.
    pub fn rows(&self) -> u32 {
        self.inputs * self.taps
    }

    /// Elements of a row, padding included.
    pub fn row_len(&self) -> usize {
        self.padded as usize
    }

    /// Draws some rows; padding becomes zero.
    pub fn draw(&self, rows: Range<u32>, masters: &mut [i32]) {
        match self.init {
            Init::HeNormal { fan } => {
                let deviation = (2.0 / fan as f64).sqrt();
                self.each(rows, masters, |bits| {
                    let sum: i32 = bits[..12].iter().map(|&b| b as i32).sum();
                    ((sum as f64 + 6.0) / 65536.0 - 6.0) * deviation
                });
            }
            Init::Uniform { fan } => {
                let half = (fan as f64).sqrt();
                self.each(rows, masters, |bits| {
                    let u = ((bits[0] as i64) << 16 | bits[1] as i64) as f64 + 0.5;
                    (u / (1i64 << 31) as f64 - 1.0) / half
                });
            }
            Init::Constant(v) => self.each(rows, masters, |_| v),
        }
    }

    fn each(&self, rows: Range<u32>, masters: &mut [i32], real: impl Fn([u16; 16]) -> f64) {
        for (row, masters) in rows.zip(masters.chunks_exact_mut(self.row_len())) {
            let (input, tap) = (row / self.taps, row % self.taps);
            let (live, padding) = masters.split_at_mut(self.outputs as usize);
            for (o, master) in live.iter_mut().enumerate() {
                let number = (o as u64 * self.taps as u64 + tap as u64) * self.inputs as u64 + input as u64;
                *master = fixed(real(fqt_runtime::random::block(self.key, number as u32)));
            }
            padding.fill(0);
        }
    }
}

/// To nearest in Q28, ties away, saturated. Spelt out because `round` is a call where the processor is not known.
fn fixed(v: f64) -> i32 {
    let largest = i32::MAX as f64;
    let v = (v * (1i64 << MASTER_BITS) as f64).clamp(-largest, largest);
    let whole = v as i32;
    let rest = v - whole as f64;
    whole + (rest >= 0.5) as i32 - (rest <= -0.5) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_rounded_to_nearest() {
        let unit = (-(MASTER_BITS as f64)).exp2();
        for v in [0.0, 0.49, 0.5, 1.5, 2.49, -0.49, -0.5, -1.5, 0.49999999999999994, 1e9, 3e9, -3e9] {
            let limit = i32::MAX as f64;
            assert_eq!(fixed(v * unit), v.round().clamp(-limit, limit) as i32, "{v}");
        }
    }
}
