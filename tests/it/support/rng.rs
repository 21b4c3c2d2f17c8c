//! Random numbers for generators of programs.

use fqt_runtime::random::mix64;
use fqtc::kernel::{DType, Range};

/// A stream of random numbers.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix64(self.0 ^ 0x5EED)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn between(&mut self, lo: i64, hi: i64) -> i64 {
        let span = (hi as i128 - lo as i128 + 1) as u128;
        (lo as i128 + ((self.next() as u128) % span) as i128) as i64
    }

    pub(super) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// An interval of a type: all of it, or around zero, or beside zero.
    pub(super) fn range(&mut self, dtype: DType) -> Range {
        let all = dtype.range();
        if dtype == DType::Dyadic || self.chance(4) {
            return all;
        }
        let bits = 1 + self.below(8 * dtype.bytes() - 1) as u32;
        let top = (i64::MAX >> (63 - bits)).min(all.hi);
        match self.below(3) {
            0 => Range::new(0, top),
            1 => Range::new((-top).max(all.lo), top),
            _ => {
                let (a, b) = (self.between(all.lo.max(-top), top), self.between(all.lo.max(-top), top));
                Range::new(a.min(b), a.max(b))
            }
        }
    }
}
