//! Addresses: what depends on a loop is computed once per turn of that loop.
//!
//! `base + Σ index·stride` is kept as running pointers: each loop advances, by an addition, the partial sums that end
//! with its own index; the constant part goes into the instruction.

use super::body::Body;
use super::plan::walk;
use crate::kernel::{Address, Expr, Index, Param, Stmt};
use cranelift_codegen::ir::{self, InstBuilder, types};
use std::collections::BTreeSet;

/// Where a linear form starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Base {
    /// The first byte of a parameter.
    Param(Param),
    /// Zero: positions of random blocks.
    Zero,
}

/// `base + Σ index·stride`, strides in bytes, in the order of the loops. Arithmetic wraps at 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Linear {
    pub(super) base: Base,
    pub(super) terms: Vec<(Index, i64)>,
}

/// Factor of a random block's number: eight words a block, and the multiplier of `fqt_runtime::random::block`.
pub(in crate::codegen) const RANDOM_STRIDE: i64 = 8 * 0x9E37_79B9;

impl Body<'_, '_, '_> {
    /// Bytes of an element of a parameter.
    pub(super) fn bytes(&self, param: Param) -> i64 {
        self.kernel.params[param.0 as usize].dtype.bytes() as i64
    }

    fn linear_of(&self, address: &Address) -> Linear {
        let bytes = self.bytes(address.param);
        self.linear(Base::Param(address.param), &address.terms, bytes)
    }

    /// The linear form with terms in loop order; loops of one turn contribute nothing.
    fn linear(&self, base: Base, terms: &[(Index, i64)], scale: i64) -> Linear {
        let mut terms: Vec<_> = terms.iter().filter(|t| !self.single.contains(&t.0)).copied().collect();
        terms.sort_by_key(|t| self.depth[&t.0]);
        for term in &mut terms {
            term.1 = term.1.wrapping_mul(scale);
        }
        Linear { base, terms }
    }

    /// Every linear form in a body, cut after `index`; only those that end there.
    pub(super) fn linears_ending(&self, body: &[Stmt], index: Index) -> BTreeSet<Linear> {
        let mut out = BTreeSet::new();
        let mut add = |mut linear: Linear| {
            if let Some(at) = linear.terms.iter().position(|t| t.0 == index) {
                linear.terms.truncate(at + 1);
                out.insert(linear);
            }
        };
        walk(body, &mut |stmt| {
            for address in stmt.addresses() {
                add(self.linear_of(address));
            }
            if let Stmt::Let(_, Expr::Random { block, .. }) = stmt {
                add(self.linear(Base::Zero, &block.0, RANDOM_STRIDE));
            }
        });
        out
    }

    /// The running value of a linear form.
    pub(super) fn running(&mut self, linear: &Linear) -> ir::Value {
        if linear.terms.is_empty() && linear.base == Base::Zero {
            return self.b.ins().iconst(types::I64, 0);
        }
        *self.linears.get(linear).expect("every loop advances the forms that end with its index")
    }

    /// A pointer and a displacement.
    pub(super) fn address(&mut self, address: &Address) -> (ir::Value, i32) {
        let linear = self.linear_of(address);
        let pointer = self.running(&linear);
        let offset = address.offset * self.bytes(address.param);
        // Blocks of lanes add up to 64 bytes to the displacement.
        match i32::try_from(offset) {
            Ok(small) if small < i32::MAX - 128 => (pointer, small),
            _ => (self.b.ins().iadd_imm_s(pointer, offset), 0),
        }
    }

    /// A pointer alone.
    pub(super) fn pointer(&mut self, address: &Address) -> ir::Value {
        match self.address(address) {
            (pointer, 0) => pointer,
            (pointer, offset) => self.b.ins().iadd_imm_s(pointer, offset as i64),
        }
    }

    /// `RANDOM_STRIDE · Σ index·stride` of a random block's number, without its constant part; low 32 bits count.
    pub(super) fn random_position(&mut self, terms: &[(Index, i64)]) -> ir::Value {
        let linear = self.linear(Base::Zero, terms, RANDOM_STRIDE);
        self.running(&linear)
    }
}
