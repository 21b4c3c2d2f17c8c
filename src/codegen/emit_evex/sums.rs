//! Sums, maxima and minima into memory, in registers while a loop runs.
//!
//! The same rule as in the code for 128 bits: memory that a loop only folds into, always at the same place, waits in
//! registers, and sums of lanes take the cheapest form that the ranges prove exact.

use super::super::fold::{Exact, Fold, exact, folding};
use super::asm::Result;
use super::codes;
use super::select::{Select, z};
use super::vcode::{Inst, Operand, Reg, Width};
use crate::kernel::{Address, Binary, DType, Expr, Index, LANES, Param, Shift, Stmt, Type, Value};
use iced_x86::Code;
use std::collections::{BTreeMap, BTreeSet};

/// What the registers of a sum hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// What memory holds: maxima and minima, and sums of 64 bits in two vectors.
    Memory,
    /// Sums of 32 bits that cannot overflow.
    Narrow,
    /// Sums modulo 2^32, and sums of the upper 16 bits.
    Split,
}

/// Memory that waits in registers.
pub(super) struct Sum {
    address: Address,
    fold: Fold,
    form: Form,
    dtype: DType,
    regs: Vec<Reg>,
}

/// One folding statement in a loop.
struct Folding<'s> {
    address: &'s Address,
    fold: Fold,
    value: Value,
    /// Turns of the loops around it, from the loop in question inwards; and of the innermost alone.
    times: i128,
    innermost: i128,
    nested: bool,
}

fn foldings<'s>(body: &'s [Stmt], times: i128, innermost: i128, nested: bool, out: &mut Vec<Folding<'s>>) {
    for stmt in body {
        if let Some((address, fold, value)) = folding(stmt) {
            out.push(Folding { address, fold, value, times, innermost, nested });
        }
        if let Stmt::For { count, body, .. } = stmt {
            let count = *count as i128;
            let innermost = if count > 1 { count } else { innermost };
            foldings(body, times * count, innermost, nested || count > 1, out);
        }
    }
}

/// The parameters that statements touch other than by folding into them, and the loops inside.
fn touched(body: &[Stmt], params: &mut BTreeSet<Param>, loops: &mut BTreeSet<Index>) {
    for stmt in body {
        match stmt {
            Stmt::For { index, count, body } => {
                if *count > 1 {
                    loops.insert(*index);
                }
                touched(body, params, loops);
            }
            Stmt::Let(_, Expr::Load(a) | Expr::LoadPairs(a) | Expr::LoadScalar(a)) | Stmt::Store(a, _) => {
                params.insert(a.param);
            }
            Stmt::Let(_, Expr::LoadAt { param, .. }) => {
                params.insert(*param);
            }
            _ => {}
        }
    }
}

const ADD_64: Code = Code::EVEX_Vpaddq_zmm_k1z_zmm_zmmm512b64;
const ADD_32: Code = Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32;

impl Select<'_> {
    /// Takes into registers what the loop over `index` only folds into.
    pub(super) fn open_sums(&mut self, index: Index, count: u32, body: &[Stmt]) -> Result {
        let (mut params, mut loops) = (BTreeSet::new(), BTreeSet::from([index]));
        touched(body, &mut params, &mut loops);
        let mut all = vec![];
        foldings(body, count as i128, count as i128, false, &mut all);
        all.retain(|f| self.sums.iter().all(|s| s.address != *f.address));
        let mut by_param: BTreeMap<Param, Vec<Folding>> = BTreeMap::new();
        for f in all {
            by_param.entry(f.address.param).or_default().push(f);
        }
        for (param, group) in by_param {
            let free = params.iter().all(|&p| !(self.around.may_alias)(p, param));
            if free && self.holds_still(&group, &loops) {
                self.open_group(&group)?;
            }
        }
        Ok(())
    }

    /// Whether all foldings of a parameter are alike, move with none of the loops, and are equal or apart.
    fn holds_still(&self, group: &[Folding], loops: &BTreeSet<Index>) -> bool {
        let first = &group[0];
        group.iter().all(|f| {
            let apart = (f.address.offset - first.address.offset) % LANES as i64 == 0;
            f.fold == first.fold
                && f.address.terms == first.address.terms
                && apart
                && f.address.terms.iter().all(|t| !loops.contains(&t.0))
        })
    }

    fn open_group(&mut self, group: &[Folding]) -> Result {
        let mut by_offset: BTreeMap<i64, Vec<&Folding>> = BTreeMap::new();
        for f in group {
            by_offset.entry(f.address.offset).or_default().push(f);
        }
        for same in by_offset.values() {
            let dtype = self.dtype(same[0].value)?;
            let sum = same[0].fold == Fold::Sum;
            let here = if sum { self.form(same, false) } else { Form::Memory };
            let nested = same.iter().any(|f| f.nested);
            // A loop inside has fewer turns: its form may be cheaper, and is never worse.
            let inside = self.form(same, true);
            if sum && nested && (here == Form::Memory || here == Form::Split && inside == Form::Narrow) {
                continue;
            }
            let regs = match (sum, here) {
                (false, _) => {
                    let width = codes::width(dtype);
                    let from = self.address(same[0].address)?;
                    vec![self.def(codes::load(width), width, &[from])]
                }
                (true, Form::Narrow) => vec![self.fresh_zero()],
                (true, _) => vec![self.fresh_zero(), self.fresh_zero()],
            };
            let (address, fold) = (same[0].address.clone(), same[0].fold);
            self.sums.push(Sum { address, fold, form: here, dtype, regs });
        }
        Ok(())
    }

    fn form(&self, same: &[&Folding], innermost: bool) -> Form {
        let turns = |f: &Folding| if innermost { f.innermost } else { f.times };
        let addends: Vec<_> =
            same.iter().map(|f| (self.around.ranges[f.value.0 as usize], turns(f))).collect();
        match exact(&addends) {
            Exact::Sum => Form::Narrow,
            Exact::Halves => Form::Split,
            Exact::No => Form::Memory,
        }
    }

    /// The register of 16-bit maxima or minima that wait in one.
    pub(super) fn held_extreme(&self, address: &Address, fold: Fold) -> Option<Reg> {
        let held = self.sums.iter().find(|s| s.fold == fold && s.address == *address)?;
        (held.dtype == DType::I16 && fold != Fold::Sum).then(|| held.regs[0])
    }

    /// Folds a value into registers, or into memory.
    pub(super) fn fold(&mut self, stmt: &Stmt) -> Result {
        let (address, fold, value) = folding(stmt).ok_or("not a folding")?;
        let Type::Lanes(dtype) = self.around.kernel.values[value.0 as usize] else {
            return Err("a sum of scalars".into());
        };
        let held = self.sums.iter().find(|s| s.fold == fold && s.address == *address);
        if let Some((form, regs)) = held.map(|s| (s.form, s.regs.clone())) {
            return self.fold_into(&regs, fold, form, dtype, value);
        }
        let place = self.address(address)?;
        if fold != Fold::Sum {
            let width = codes::width(dtype);
            let old = self.def(codes::load(width), width, &[place]);
            self.fold_into(&[old], fold, Form::Memory, dtype, value)?;
            self.inst(Inst::new(codes::store(width), [place, Operand::Reg(old, width)]));
            return Ok(());
        }
        let x = self.lanes_as_i32(value, dtype)?;
        let parts = self.halves(x, Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256);
        self.add_to_memory(place, parts);
        Ok(())
    }

    fn fold_into(&mut self, regs: &[Reg], fold: Fold, form: Form, dtype: DType, value: Value) -> Result {
        if fold != Fold::Sum {
            let op = if fold == Fold::Max { Binary::Max } else { Binary::Min };
            let code = codes::binary(op, dtype).ok_or("an operation that does not exist")?;
            let width = codes::width(dtype);
            let [to, x] = [regs[0], self.lanes(value)?].map(|r| Operand::Reg(r, width));
            self.inst(Inst::new(code, [to, to, x]));
            return Ok(());
        }
        if let (Form::Narrow, Some(products)) = (form, self.products(value)) {
            products.into_iter().for_each(|product| self.add_product(regs[0], regs[0], product));
            return Ok(());
        }
        let x = self.lanes_as_i32(value, dtype)?;
        let (code, parts) = match form {
            Form::Narrow => (ADD_32, vec![x]),
            Form::Split => {
                let right = codes::shift_by_constant(Shift::Right, DType::I32);
                (ADD_32, vec![x, self.def_imm(right, Width::Z, &[z(x)], 16)])
            }
            Form::Memory => (ADD_64, self.halves(x, Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256).to_vec()),
        };
        for (&reg, part) in regs.iter().zip(parts) {
            self.inst(Inst::new(code, [z(reg), z(reg), z(part)]));
        }
        Ok(())
    }

    fn lanes_as_i32(&mut self, value: Value, dtype: DType) -> Result<Reg> {
        let reg = self.lanes(value)?;
        match dtype {
            DType::I32 => Ok(reg),
            DType::I16 => {
                let code = Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256;
                Ok(self.def(code, Width::Z, &[Operand::Reg(reg, Width::Y)]))
            }
            _ => Err("a sum of bytes".into()),
        }
    }

    /// 16 lanes of 32 bits as two vectors of 64.
    fn halves(&mut self, x: Reg, code: Code) -> [Reg; 2] {
        let upper = Code::EVEX_Vextracti64x4_ymmm256_k1z_zmm_imm8;
        let high = self.def_imm(upper, Width::Y, &[z(x)], 1);
        [x, high].map(|half| self.def(code, Width::Z, &[Operand::Reg(half, Width::Y)]))
    }

    fn add_to_memory(&mut self, place: Operand, parts: [Reg; 2]) {
        let Operand::Memory(base, at) = place else { return };
        for (i, part) in (0..).zip(parts) {
            let place = Operand::Memory(base, at + 64 * i);
            let sum = self.def(ADD_64, Width::Z, &[z(part), place]);
            self.inst(Inst::new(codes::store(Width::Z), [place, z(sum)]));
        }
    }

    /// Writes back all but the first `outer` sums.
    pub(super) fn close_sums(&mut self, outer: usize) -> Result {
        for sum in self.sums.split_off(outer) {
            let place = self.address(&sum.address)?;
            let regs = &sum.regs;
            if sum.fold != Fold::Sum {
                let width = codes::width(sum.dtype);
                self.inst(Inst::new(codes::store(width), [place, Operand::Reg(regs[0], width)]));
                continue;
            }
            let parts = match sum.form {
                Form::Memory => [regs[0], regs[1]],
                Form::Narrow => self.halves(regs[0], Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256),
                Form::Split => self.join(regs[0], regs[1]),
            };
            self.add_to_memory(place, parts);
        }
        Ok(())
    }

    /// `Σx` from sums modulo 2^32 and sums of upper halves: those of the lower halves are below 2^32.
    fn join(&mut self, low: Reg, high: Reg) -> [Reg; 2] {
        let left = codes::shift_by_constant(Shift::Left, DType::I32);
        let shifted = self.def_imm(left, Width::Z, &[z(high)], 16);
        let sub = Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32;
        let rest = self.def(sub, Width::Z, &[z(low), z(shifted)]);
        let rest = self.halves(rest, Code::EVEX_Vpmovzxdq_zmm_k1z_ymmm256);
        let high = self.halves(high, Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256);
        [0, 1].map(|i| {
            let by = Code::EVEX_Vpsllq_zmm_k1z_zmmm512b64_imm8;
            let high = self.def_imm(by, Width::Z, &[z(high[i])], 16);
            self.def(ADD_64, Width::Z, &[z(high), z(rest[i])])
        })
    }
}
