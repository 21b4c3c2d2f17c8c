//! Random bits for stochastic rounding and for the data: a keyed hash of a position, without state.
//!
//! Without state there is no order, so any number of threads and any vector width draws the same bits. A stream is
//! named by seed, step and tensor; within it, a *logical block* of 16 elements gets 16 random 16-bit patterns.
//! Both keys enter between multiplications: an additive key alone would replay the previous step's noise, shifted.
//!
//! Emitted code computes [`block`] in its own registers; this is the definition that it must match.

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit over the word.
pub const fn mix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// The key of a stream.
pub const fn hash_key(seed: u64, step: u64, tensor: u64) -> u64 {
    mix64(mix64(mix64(seed) ^ step) ^ tensor)
}

/// The 16 patterns of a logical block: eight 32-bit words, low half first. `block` is below 2^29.
#[inline]
pub const fn block(key: u64, block: u32) -> [u16; 16] {
    let (k0, k1) = (key as u32, (key >> 32) as u32);
    let mut lanes = [0; 16];
    let mut word = 0;
    while word < 8 {
        let position = block.wrapping_mul(8).wrapping_add(word as u32);
        let x = position.wrapping_mul(0x9E37_79B9).wrapping_add(k0);
        let x = (x ^ x >> 16).wrapping_mul(0x7FEB_352D);
        let x = ((x ^ x >> 15) ^ k1).wrapping_mul(0x846C_A68B);
        let x = x ^ x >> 16;
        lanes[2 * word] = x as u16;
        lanes[2 * word + 1] = (x >> 16) as u16;
        word += 1;
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The first outputs of SplitMix64 seeded with 0 and with 1234567, as published with the algorithm.
        assert_eq!(mix64(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix64(1234567), 6457827717110365317);
        assert_eq!(hash_key(0, 0, 0), 0x2382_75BC_38FC_BE91);
        assert_eq!(hash_key(1, 2, 3), 0xD073_4750_FDE3_62B3);
        assert_eq!(hash_key(u64::MAX, u64::MAX, u64::MAX), 0x595B_17F4_87C0_E71B);
        // Computed by a program in another language, written from the formula.
        let answers: [(u64, u32, [u16; 16]); 4] = [
            (
                0,
                0,
                [
                    0x0000, 0x0000, 0xE552, 0x01FC, 0xD29E, 0x04F8, 0x1DBD, 0x0F8C, 0xA157, 0x6BA5, 0xB7F9,
                    0x057F, 0xFB47, 0x5EA4, 0xA5E2, 0x9173,
                ],
            ),
            (
                hash_key(1, 2, 3),
                0,
                [
                    0xE070, 0x1B4F, 0xBE48, 0x63E3, 0x5C52, 0x4AB0, 0x9584, 0x740B, 0x2C2B, 0x7F4A, 0xE8D1,
                    0x2314, 0xF80C, 0xA5D6, 0x553F, 0x87A5,
                ],
            ),
            (
                hash_key(1, 2, 3),
                (1 << 29) - 1,
                [
                    0x6C72, 0x9B4E, 0xA46C, 0x4F76, 0x3760, 0x235E, 0xD1E5, 0x6C72, 0x624B, 0xB3DC, 0xB0BA,
                    0xE5E8, 0x6F05, 0x4EF9, 0x6CAF, 0xBCDD,
                ],
            ),
            (
                u64::MAX,
                12345,
                [
                    0x9829, 0x734D, 0x2860, 0x9E45, 0x2FAE, 0xB079, 0x0193, 0x4EBE, 0xA837, 0xFE65, 0xF3B7,
                    0xE0C9, 0xAA61, 0xE0F4, 0x71FD, 0xBC0B,
                ],
            ),
        ];
        for (key, b, expected) in answers {
            assert_eq!(block(key, b), expected);
        }
    }

    const BLOCKS: u32 = 1 << 12;

    /// The patterns of one step, as numbers of mean zero and variance 1/12.
    fn stream(step: u64) -> Vec<f64> {
        let key = hash_key(7, step, 3);
        (0..BLOCKS).flat_map(|b| block(key, b)).map(|x| (x as f64 + 0.5) / 65536.0 - 0.5).collect()
    }

    #[test]
    fn patterns_are_uniform() {
        let key = hash_key(0, 1, 2);
        let n = BLOCKS as f64 * 16.0;
        for shift in [0, 4, 8, 12] {
            let mut counts = [0u32; 16];
            for b in 0..BLOCKS {
                block(key, b).iter().for_each(|x| counts[(x >> shift & 15) as usize] += 1);
            }
            let expected = n / 16.0;
            let chi2: f64 = counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
            assert!(
                (2.0..45.0).contains(&chi2),
                "bits {shift}: chi-square {chi2} with 15 degrees of freedom"
            );
        }
        let mean = stream(0).iter().sum::<f64>() / n;
        assert!(mean.abs() < 5.0 * (1.0 / 12.0 / n).sqrt(), "mean {mean}");
    }

    #[test]
    fn steps_and_neighbours_are_independent() {
        let n = BLOCKS as usize * 16;
        let bound = 5.0 / (n as f64).sqrt();
        let correlation =
            |a: &[f64], b: &[f64]| 12.0 * a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / a.len() as f64;
        let (a, b) = (stream(10), stream(11));
        for lag in [0, 1, 2, 15, 16, 17, 32, 160] {
            assert!(correlation(&a[lag..], &b).abs() < bound, "next step, lag {lag}");
            assert!(correlation(&b[lag..], &a).abs() < bound, "previous step, lag {lag}");
            assert!(lag == 0 || correlation(&a[lag..], &a).abs() < bound, "same step, lag {lag}");
        }
        // No step replays a part of another one at some offset.
        let words = |step| -> std::collections::BTreeSet<[u16; 4]> {
            let key = hash_key(7, step, 3);
            (0..BLOCKS)
                .flat_map(|b| {
                    let x = block(key, b);
                    [[x[0], x[1], x[2], x[3]], [x[8], x[9], x[10], x[11]]]
                })
                .collect()
        };
        assert!(words(10).intersection(&words(11)).count() == 0);
    }
}
