//! Sums, maxima and minima into memory: kept in registers while a loop runs.
//!
//! Memory that a loop only folds into, always at the same place, is held in variables from before the loop until
//! after it. Sums of lanes choose the cheapest exact form by the ranges: i32, two i32 parts, or i64.

use super::super::fold::{Exact, Fold, exact, folding};
use super::body::{Body, Parts, flags};
use super::plan::{may_alias, touched, walk};
use crate::kernel::{Address, DType, Index, LANES, Param, Stmt, Type, Value};
use cranelift_codegen::ir::{self, InstBuilder, types};
use cranelift_frontend::Variable;
use std::collections::BTreeMap;

/// What the variables of an accumulator hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// What memory holds, by its type: folds of scalars, maxima, minima, and i64 sums of lanes.
    Memory,
    /// i32 sums of lanes that cannot overflow.
    Narrow,
    /// The same of i16 lanes, even and odd lanes apart: one multiplication widens either.
    EvenOdd,
    /// Sums of lanes modulo 2^32, and sums of their upper 16 bits: three operations for any four lanes of i32.
    Split,
}

/// Memory that is held in variables.
pub(super) struct Accumulator {
    address: Address,
    fold: Fold,
    ty: Type,
    form: Form,
    variables: Vec<Variable>,
}

/// One folding statement in a loop.
struct Folding<'a> {
    address: &'a Address,
    fold: Fold,
    value: Value,
    /// Turns of the loops around it, from the loop in question inwards.
    times: i128,
    /// Whether it lies in a further loop.
    nested: bool,
}

fn foldings<'a>(
    body: &'a [Stmt],
    is_leaf: &dyn Fn(&Index) -> bool,
    times: i128,
    nested: bool,
    out: &mut Vec<Folding<'a>>,
) {
    for stmt in body {
        if let Some((address, fold, value)) = folding(stmt) {
            out.push(Folding { address, fold, value, times, nested });
        }
        if let Stmt::For { index, count, body } = stmt
            && !is_leaf(index)
        {
            foldings(body, is_leaf, times * *count as i128, true, out);
        }
    }
}

impl Body<'_, '_, '_> {
    /// Takes into variables what the loop over `index` only folds into.
    pub(super) fn open_accumulators(&mut self, index: Index, count: u32, body: &[Stmt]) {
        let mut all = vec![];
        foldings(body, &|i| self.regions.contains_key(i), count as i128, false, &mut all);
        let mut by_param: BTreeMap<Param, Vec<Folding>> = BTreeMap::new();
        all.retain(|f| self.accumulators.iter().all(|a| a.address != *f.address));
        for f in all {
            by_param.entry(f.address.param).or_default().push(f);
        }
        walk(body, &mut |stmt| {
            for param in touched(stmt) {
                by_param.retain(|&folded, _| !may_alias(&self.kernel.params, folded, param));
            }
        });
        for touched in self.touched_by_regions(body) {
            by_param.retain(|&folded, _| !may_alias(&self.kernel.params, folded, touched));
        }
        for group in by_param.values() {
            if self.holds_still(index, group) {
                self.open_group(group);
            }
        }
    }

    /// Reads the variables once at the head of a loop, part by part: the compiler computes what a loop carries in the
    /// order of first reads, and this order needs few registers beside the accumulators.
    pub(super) fn touch_accumulators(&mut self) {
        for part in 0..4 {
            for acc in &self.accumulators {
                // Split sums have two variables a part, four apart; folds into 16 sums of i64 two, side by side.
                let n = acc.variables.len();
                let of_part = |&i: &usize| {
                    if acc.form == Form::Split { i % 4 == part } else { i * 4 / n.max(4) == part }
                };
                for i in (0..n).filter(of_part) {
                    self.b.use_var(acc.variables[i]);
                }
            }
        }
    }

    /// Whether all of a parameter's foldings are alike, do not move with the loop or one inside, and are equal or
    /// apart.
    fn holds_still(&self, index: Index, group: &[Folding]) -> bool {
        let first = &group[0];
        let ty = self.type_of(first.value);
        let width = if matches!(ty, Type::Lanes(_)) { LANES as i64 } else { 1 };
        let outer = |i: &Index| self.depth[i] < self.depth[&index];
        first.address.terms.iter().all(|(i, _)| outer(i) || self.single.contains(i))
            && group.iter().all(|f| {
                let apart = (f.address.offset - first.address.offset) % width == 0;
                let same_kind = matches!(self.type_of(f.value), Type::Lanes(_)) == (width > 1);
                f.fold == first.fold && f.address.terms == first.address.terms && apart && same_kind
            })
    }

    fn open_group(&mut self, group: &[Folding]) {
        let mut by_offset: BTreeMap<i64, Vec<&Folding>> = BTreeMap::new();
        for f in group {
            by_offset.entry(f.address.offset).or_default().push(f);
        }
        for same in by_offset.values() {
            let form = self.form(same);
            // An inner loop has fewer turns: it may have a cheaper form.
            if form == Form::Memory && self.is_lane_sum(same[0]) && same.iter().any(|f| f.nested) {
                continue;
            }
            self.open(same[0], form);
        }
    }

    fn is_lane_sum(&self, f: &Folding) -> bool {
        f.fold == Fold::Sum && matches!(self.type_of(f.value), Type::Lanes(_))
    }

    fn form(&self, same: &[&Folding]) -> Form {
        if !self.is_lane_sum(same[0]) {
            return Form::Memory;
        }
        let addends: Vec<_> = same.iter().map(|f| (self.range(f.value), f.times)).collect();
        match exact(&addends) {
            Exact::Sum if same.iter().all(|f| self.type_of(f.value) == Type::Lanes(DType::I16)) => {
                Form::EvenOdd
            }
            Exact::Sum => Form::Narrow,
            Exact::Halves => Form::Split,
            Exact::No => Form::Memory,
        }
    }

    fn open(&mut self, f: &Folding, form: Form) {
        let ty = self.type_of(f.value);
        let start = match form {
            Form::Memory => self.load_folded(f.address, f.fold, ty),
            Form::Narrow | Form::EvenOdd => vec![self.zero(types::I32X4); 4],
            Form::Split => vec![self.zero(types::I32X4); 8],
        };
        let variables = start.into_iter().map(|value| self.variable(value)).collect();
        let accumulator = Accumulator { address: f.address.clone(), fold: f.fold, ty, form, variables };
        self.accumulators.push(accumulator);
    }

    /// Writes back all but the first `outer` accumulators.
    pub(super) fn close_accumulators(&mut self, outer: usize) {
        for acc in self.accumulators.split_off(outer) {
            let parts: Vec<ir::Value> = acc.variables.iter().map(|&v| self.b.use_var(v)).collect();
            if acc.form == Form::Memory {
                self.store_folded(&acc.address, &parts);
                continue;
            }
            let sums = self.widened_sums(acc.form, &parts);
            let old = self.load_folded(&acc.address, Fold::Sum, acc.ty);
            let new: Vec<_> = old.iter().zip(&sums).map(|(&o, &s)| self.b.ins().iadd(o, s)).collect();
            self.store_folded(&acc.address, &new);
        }
    }

    /// i64 sums in lane order.
    fn widened_sums(&mut self, form: Form, parts: &[ir::Value]) -> Vec<ir::Value> {
        match form {
            Form::Memory => parts.to_vec(),
            Form::Narrow => self.widen_vectors(parts, true),
            Form::EvenOdd => {
                let mut lanes = vec![];
                for pair in parts.chunks(2) {
                    lanes.push(self.interleave_32(pair[0], pair[1], false));
                    lanes.push(self.interleave_32(pair[0], pair[1], true));
                }
                self.widen_vectors(&lanes, true)
            }
            Form::Split => {
                let (low, high) = parts.split_at(4);
                let mut out = vec![];
                for (&low, &high) in low.iter().zip(high) {
                    // Σ of the lower 16 bits is below 2^32, so it is the difference modulo 2^32.
                    let shifted = self.b.ins().ishl_imm_u(high, 16);
                    let rest = self.b.ins().isub(low, shifted);
                    let high = self.widen_vectors(&[high], true);
                    let rest = self.widen_vectors(&[rest], false);
                    for (high, rest) in high.into_iter().zip(rest) {
                        let high = self.b.ins().ishl_imm_u(high, 16);
                        out.push(self.b.ins().iadd(high, rest));
                    }
                }
                out
            }
        }
    }

    /// Folds a value into a variable, or into memory.
    pub(super) fn accumulate(&mut self, stmt: &Stmt) {
        let (address, fold, value) = folding(stmt).expect("only folding statements come here");
        let ty = self.type_of(value);
        let held = self.accumulators.iter().position(|a| a.fold == fold && a.address == *address);
        let Some(at) = held else {
            let old = self.load_folded(address, fold, ty);
            let terms = self.terms(Form::Memory, fold, value);
            let new: Vec<_> = old.iter().zip(&terms).map(|(&o, &t)| self.fold(fold, ty, o, t)).collect();
            return self.store_folded(address, &new);
        };
        let form = self.accumulators[at].form;
        let terms = self.terms(form, fold, value);
        for (i, term) in terms.into_iter().enumerate() {
            let variable = self.accumulators[at].variables[i];
            let old = self.b.use_var(variable);
            let new = self.fold(fold, ty, old, term);
            self.b.def_var(variable, new);
        }
    }

    /// What is folded into each variable.
    fn terms(&mut self, form: Form, fold: Fold, value: Value) -> Vec<ir::Value> {
        let parts = self.parts(value).as_slice().to_vec();
        if fold != Fold::Sum || self.type_of(value) == Type::Int {
            return parts;
        }
        if form == Form::EvenOdd {
            return parts
                .into_iter()
                .flat_map(|x| [self.every_other(x, 0), self.every_other(x, 1)])
                .collect();
        }
        let wide = self.lanes_as_i32(value);
        match form {
            Form::Memory => self.widen_vectors(&wide, self.range(value).lo < 0),
            Form::Split => {
                let high: Vec<_> = wide.iter().map(|&x| self.b.ins().sshr_imm_u(x, 16)).collect();
                [wide, high].concat()
            }
            Form::Narrow | Form::EvenOdd => wide,
        }
    }

    fn fold(&mut self, fold: Fold, ty: Type, old: ir::Value, term: ir::Value) -> ir::Value {
        let unsigned = ty == Type::Lanes(DType::U8);
        match fold {
            Fold::Sum => self.b.ins().iadd(old, term),
            Fold::Max if unsigned => self.b.ins().umax(old, term),
            Fold::Max => self.b.ins().smax(old, term),
            Fold::Min if unsigned => self.b.ins().umin(old, term),
            Fold::Min => self.b.ins().smin(old, term),
        }
    }

    /// What memory holds: an i64, 16 lanes, or 16 sums of i64.
    fn load_folded(&mut self, address: &Address, fold: Fold, ty: Type) -> Vec<ir::Value> {
        let (ty, n) = match ty {
            Type::Lanes(_) if fold == Fold::Sum => (types::I64X2, 8),
            Type::Lanes(dtype) => super::lanes::vectors(dtype),
            _ => (types::I64, 1),
        };
        let (pointer, offset) = self.address(address);
        (0..n).map(|i| self.b.ins().load(ty, flags(), pointer, offset + 16 * i)).collect()
    }

    fn store_folded(&mut self, address: &Address, parts: &[ir::Value]) {
        let (pointer, offset) = self.address(address);
        for (i, &part) in parts.iter().enumerate() {
            self.b.ins().store(flags(), part, pointer, offset + 16 * i as i32);
        }
    }

    /// The lanes of an I16 or I32 value as four vectors of i32.
    fn lanes_as_i32(&mut self, value: Value) -> Vec<ir::Value> {
        let parts: Parts = self.parts(value);
        match self.type_of(value) {
            Type::Lanes(DType::I32) => parts.as_slice().to_vec(),
            _ => self.widen_vectors(parts.as_slice(), true),
        }
    }
}
