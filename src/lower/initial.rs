//! What weights start from.

use super::contract::Conv;
use super::weights::MASTER_BITS;
use crate::ir::Init;

/// Start of a weight: masters in Q28 `[in][taps][out, padded]`.
///
/// Drawn from the random blocks of (seed, name), so that a weight does not depend on other layers. Normal numbers are
/// sums of twelve uniform ones minus six (Irwin–Hall), exact in integers up to the final scale.
pub(super) fn weights(name: &str, init: &Init, conv: &Conv, seed: u64) -> Vec<i64> {
    let stream =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
    let key = fqt_runtime::random::hash_key(seed, u64::MAX, stream);
    let (ci, taps, co, cop) = (conv.depth(), conv.taps(), conv.output.c, conv.output.cp());
    let one = (1i64 << MASTER_BITS) as f64;
    let mut values = vec![0; (ci * taps * cop) as usize];
    for c in 0..ci {
        for tap in 0..taps {
            for o in 0..co {
                let number = (o as u64 * taps as u64 + tap as u64) * ci as u64 + c as u64;
                let bits = fqt_runtime::random::block(key, number as u32);
                let v = match *init {
                    Init::HeNormal { fan } => {
                        let sum: i64 = bits[..12].iter().map(|&b| b as i64).sum();
                        let normal = (sum as f64 + 6.0) / 65536.0 - 6.0;
                        normal * (2.0 / fan as f64).sqrt()
                    }
                    Init::Uniform { fan } => {
                        let u = ((bits[0] as i64) << 16 | bits[1] as i64) as f64 + 0.5;
                        (u / (1i64 << 31) as f64 - 1.0) / (fan as f64).sqrt()
                    }
                    Init::Constant(v) => v,
                };
                let at = ((c * taps + tap) * cop + o) as usize;
                values[at] = (v * one).round().clamp(-(i32::MAX as f64), i32::MAX as f64) as i64;
            }
        }
    }
    values
}
