//! The order of the samples in an epoch: a permutation that depends only on the seed and the epoch.

use crate::random::{hash_key, mix64};

/// Separates this stream from all others of a run.
const STREAM: u64 = 0x5348_5546_464C_4531;

/// A permutation of `0..n` (Fisher and Yates). The bias of a draw is below n·2^-64.
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    let key = hash_key(seed, epoch, STREAM);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        let draw = mix64(key ^ mix64(i as u64));
        let j = (draw as u128 * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_once_and_epochs_differ() {
        let order = permutation(1, 2, 1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(order, permutation(1, 2, 1000));
        assert_ne!(order, permutation(1, 3, 1000));
        assert_ne!(order, permutation(2, 2, 1000));
        assert!(permutation(0, 0, 0).is_empty());
    }

    #[test]
    fn all_orders_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(permutation(5, epoch, 4)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        let chi2: f64 = counts.values().map(|&c| (c as f64 - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 60.0, "chi-square {chi2} with 23 degrees of freedom");
    }
}
