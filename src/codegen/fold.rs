//! Statements that fold a value into memory: sums, maxima and minima.

use crate::kernel::{Address, Stmt, Value};

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
