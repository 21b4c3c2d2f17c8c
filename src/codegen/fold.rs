//! Statements that fold a value into memory: sums, maxima and minima; and how narrow a sum may be.

use crate::kernel::{Address, Range, Stmt, Value};

/// How memory is folded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    Sum,
    Max,
    Min,
}

/// What a statement folds, how and where to; nothing if it is another one.
pub(super) fn folding(stmt: &Stmt) -> Option<(&Address, Fold, Value)> {
    match stmt {
        Stmt::Acc64(address, value) => Some((address, Fold::Sum, *value)),
        Stmt::MaxInto(address, value) => Some((address, Fold::Max, *value)),
        Stmt::MinInto(address, value) => Some((address, Fold::Min, *value)),
        _ => None,
    }
}

/// What lanes of 32 bits hold of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exact {
    /// All of it.
    Sum,
    /// The sum modulo 2^32, and that of the upper 16 bits of what is added: with the lower halves below 2^32, all can be told.
    Halves,
    /// Not enough.
    No,
}

/// The cheapest that is proven for a sum of values, each of a range and added so many times.
pub(super) fn exact(addends: &[(Range, i128)]) -> Exact {
    let bound = |shift: u32| -> i128 {
        let largest =
            |range: &Range| (range.lo >> shift).unsigned_abs().max((range.hi >> shift).unsigned_abs());
        addends.iter().map(|(range, times)| times * largest(range) as i128).sum()
    };
    let times: i128 = addends.iter().map(|(_, times)| times).sum();
    if bound(0) <= i32::MAX as i128 {
        Exact::Sum
    } else if bound(16) <= i32::MAX as i128 && times <= 1 << 16 {
        Exact::Halves
    } else {
        Exact::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_as_narrow_as_their_ranges_prove() {
        let of = |lo: i64, hi: i64, times: i128| exact(&[(Range::new(lo, hi), times)]);
        let most = i32::MAX as i128;
        assert_eq!((of(-1, 0, most), of(-1, 0, most + 1)), (Exact::Sum, Exact::No));
        assert_eq!((of(0, 32767, 65538), of(0, 32767, 65539)), (Exact::Sum, Exact::No));
        // Lower halves of 2^16 values stay below 2^32.
        assert_eq!((of(0, 1 << 17, 1 << 16), of(0, 1 << 17, (1 << 16) + 1)), (Exact::Halves, Exact::No));
        // Upper halves of −2^31 are −2^15.
        let least = i32::MIN as i64;
        assert_eq!((of(least, 0, 65535), of(least, 0, 65536)), (Exact::Halves, Exact::No));
        let two = [(Range::new(0, 1 << 30), 1), (Range::new(0, (1 << 30) - 1), 1)];
        assert_eq!((exact(&two), exact(&[two[0], two[0]])), (Exact::Sum, Exact::Halves));
    }
}
