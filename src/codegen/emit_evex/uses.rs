//! Who reads the values of a region: loads and products take the form that their only readers want.

use crate::kernel::{DType, Expr, Index, Stmt, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
struct Readers {
    all: usize,
    pairs: usize,
    widened: Vec<(DType, Value)>,
    loaded: bool,
}

/// The readers of every value that a region reads, and its loops.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses {
    readers: BTreeMap<Value, Readers>,
    inner: BTreeSet<Index>,
}

impl Uses {
    pub(super) fn of(stmt: &Stmt) -> Uses {
        let mut uses = Uses::default();
        uses.count(stmt);
        uses
    }

    fn count(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::For { index, body, .. } => {
                self.inner.insert(*index);
                body.iter().for_each(|stmt| self.count(stmt));
            }
            Stmt::Let(value, expr) => {
                for read in expr.operands() {
                    self.of_value(read).all += 1;
                }
                match expr {
                    Expr::Load(_) => self.of_value(*value).loaded = true,
                    Expr::Pair(a, b) => [a, b].into_iter().for_each(|&v| self.of_value(v).pairs += 1),
                    Expr::Widen(to, x) => self.of_value(*x).widened.push((*to, *value)),
                    _ => {}
                }
            }
            Stmt::Store(_, v) | Stmt::Acc64(_, v) | Stmt::MaxInto(_, v) | Stmt::MinInto(_, v) => {
                self.of_value(*v).all += 1;
            }
            Stmt::Contract(_) => {}
        }
    }

    fn of_value(&mut self, value: Value) -> &mut Readers {
        self.readers.entry(value).or_default()
    }

    /// How often a value is read.
    pub(super) fn reads(&self, value: Value) -> usize {
        self.readers.get(&value).map_or(0, |r| r.all)
    }

    /// Whether a loop is one of the region's.
    pub(super) fn is_inner(&self, index: Index) -> bool {
        self.inner.contains(&index)
    }

    /// Whether a value is loaded in the region.
    pub(super) fn is_loaded(&self, value: Value) -> bool {
        self.readers.get(&value).is_some_and(|r| r.loaded)
    }

    /// Whether only pairs are made of a value.
    pub(super) fn in_pairs_only(&self, value: Value) -> bool {
        self.readers.get(&value).is_some_and(|r| r.all > 0 && r.all == r.pairs)
    }

    /// The type to which all readers widen a value, and what they make of it.
    pub(super) fn widened_only(&self, value: Value) -> Option<(DType, Vec<Value>)> {
        let readers = self.readers.get(&value)?;
        let &(to, _) = readers.widened.first()?;
        let alike = readers.all == readers.widened.len() && readers.widened.iter().all(|w| w.0 == to);
        alike.then(|| (to, readers.widened.iter().map(|w| w.1).collect()))
    }
}
