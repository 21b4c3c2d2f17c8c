//! What statements touch in memory: extents, order and overlap of accesses, and how often an element is hit.
//!
//! Every access is affine, so each question is one about strides and extents. An answer may be "unknown", which the
//! verifier treats as "no": layouts that lowering uses (dense panels, rows of a padded image) are recognized.

use super::*;
use std::collections::BTreeSet;

/// One dimension over which an access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// The loop, or `None` for a dimension of a contraction.
    pub(super) index: Option<Index>,
    /// Elements from one turn to the next.
    pub(super) stride: i64,
    /// Turns.
    pub(super) n: u32,
}

/// One access of a statement: `width` consecutive elements, in every turn of its terms.
#[derive(Clone, Debug)]
pub(super) struct Touch<'a> {
    pub(super) stmt: &'a Stmt,
    pub(super) param: Param,
    pub(super) offset: i64,
    /// Loops that move it (without zero strides), then the dimensions of a contraction.
    pub(super) terms: Vec<Term>,
    pub(super) width: u64,
    pub(super) read: bool,
    pub(super) write: bool,
    /// Position of the statement in each enclosing body, outermost first.
    path: Vec<usize>,
    /// The item, then the enclosing loops: `loops[d]` repeats the body in which `path[d]` counts.
    loops: Vec<(Index, u32)>,
}

/// All accesses of a kernel in program order. Indices and parameters must be valid.
pub(super) fn touches(kernel: &Kernel) -> Vec<Touch<'_>> {
    let mut walk = Walk { kernel, path: vec![], loops: vec![(Index(0), kernel.items)], out: vec![] };
    walk.body(&kernel.body);
    walk.out
}

struct Walk<'a> {
    kernel: &'a Kernel,
    path: Vec<usize>,
    loops: Vec<(Index, u32)>,
    out: Vec<Touch<'a>>,
}

impl<'a> Walk<'a> {
    fn body(&mut self, body: &'a [Stmt]) {
        for (position, stmt) in body.iter().enumerate() {
            self.path.push(position);
            match stmt {
                Stmt::For { index, count, body } => {
                    self.loops.push((*index, *count));
                    self.body(body);
                    self.loops.pop();
                }
                Stmt::Let(_, expr) => self.expr(stmt, expr),
                Stmt::Store(address, value) => self.push(stmt, address, &[], self.width(*value), false, true),
                Stmt::Acc64(address, value)
                | Stmt::MaxInto(address, value)
                | Stmt::MinInto(address, value) => {
                    self.push(stmt, address, &[], self.width(*value), true, true)
                }
                Stmt::Contract(contract) => self.contract(stmt, contract),
            }
            self.path.pop();
        }
    }

    fn width(&self, value: Value) -> u64 {
        match self.kernel.values[value.0 as usize] {
            Type::Lanes(_) => LANES as u64,
            Type::Pairs => 2 * LANES as u64,
            Type::Int | Type::Dyadic => 1,
        }
    }

    fn expr(&mut self, stmt: &'a Stmt, expr: &'a Expr) {
        match expr {
            Expr::Load(address) => self.push(stmt, address, &[], LANES as u64, true, false),
            Expr::LoadPairs(address) => self.push(stmt, address, &[], 2 * LANES as u64, true, false),
            Expr::LoadScalar(address) => self.push(stmt, address, &[], 1, true, false),
            Expr::LoadAt { param, .. } => {
                let len = self.kernel.params[param.0 as usize].len;
                self.push(stmt, &param.at(0), &[], len, true, false);
            }
            _ => {}
        }
    }

    fn contract(&mut self, stmt: &'a Stmt, c: &'a Contract) {
        let first = |dims: &[Dim]| dims.iter().map(|dim| contract_term(dim.first, dim)).collect::<Vec<_>>();
        let second = |dims: &[Dim]| dims.iter().map(|dim| contract_term(dim.second, dim)).collect::<Vec<_>>();
        let group = c.dot.group();
        let a = [first(&c.points), first(&c.k)].concat();
        let b = [first(&c.vectors), second(&c.k)].concat();
        let out = [second(&c.points), second(&c.vectors)].concat();
        self.push(stmt, &c.a, &a, group, true, false);
        self.push(stmt, &c.b, &b, group * LANES as u64, true, false);
        let beside = |dims: &[Dim], strides: &[i64]| -> Vec<Term> {
            dims.iter().zip(strides).map(|(dim, &stride)| contract_term(stride, dim)).collect()
        };
        match &c.init {
            Init::PerVector(address, strides) => {
                self.push(stmt, address, &beside(&c.vectors, strides), LANES as u64, true, false)
            }
            Init::PerPoint(address, strides) => {
                self.push(stmt, address, &beside(&c.points, strides), 1, true, false)
            }
            Init::Zero | Init::Accumulate => {}
        }
        self.push(stmt, &c.out, &out, LANES as u64, c.init == Init::Accumulate, true);
    }

    fn push(
        &mut self,
        stmt: &'a Stmt,
        address: &Address,
        dims: &[Term],
        width: u64,
        read: bool,
        write: bool,
    ) {
        let count =
            |index: Index| self.loops.iter().find(|(other, _)| *other == index).map_or(1, |found| found.1);
        let mut terms: Vec<Term> = address
            .terms
            .iter()
            .map(|&(index, stride)| Term { index: Some(index), stride, n: count(index) })
            .collect();
        terms.extend(dims);
        let (path, loops) = (self.path.clone(), self.loops.clone());
        let Address { param, offset, .. } = *address;
        self.out.push(Touch { stmt, param, offset, terms, width, read, write, path, loops });
    }
}

fn contract_term(stride: i64, dim: &Dim) -> Term {
    Term { index: None, stride, n: dim.n }
}

/// First and last of the elements `offset..offset + width`, moved by the terms.
fn reach(offset: i64, width: u64, terms: &[Term]) -> (i128, i128) {
    let (offset, width) = (offset as i128, width as i128);
    terms.iter().fold((offset, offset + width - 1), |(lo, hi), term| {
        let last = term.stride as i128 * (term.n as i128 - 1);
        (lo + last.min(0), hi + last.max(0))
    })
}

impl Touch<'_> {
    /// First and last element that it ever touches.
    pub(super) fn extent(&self) -> (i128, i128) {
        reach(self.offset, self.width, &self.terms)
    }

    /// Whether it adds to what is there.
    pub(super) fn accumulates(&self) -> bool {
        self.read && self.write && matches!(self.stmt, Stmt::Acc64(..) | Stmt::Contract(_))
    }

    /// Terms of loops outside of the body at `depth`, and the others.
    fn split(&self, depth: usize) -> (Vec<Term>, Vec<Term>) {
        let outside = &self.loops[..=depth];
        self.terms
            .iter()
            .filter(|term| term.n > 1)
            .partition(|term| outside.iter().any(|(index, _)| term.index == Some(*index)))
    }

    /// The innermost depth at which earlier statements of the same body have written all that this touches, in the
    /// same turn of the loops around that body.
    pub(super) fn covered_at(&self, all: &[Touch<'_>]) -> Option<usize> {
        (0..self.path.len()).rev().find(|&depth| {
            let before = all.iter().filter(|write| {
                write.write
                    && !write.read
                    && write.param == self.param
                    && write.path.len() > depth
                    && write.path[..depth] == self.path[..depth]
                    && write.path[depth] < self.path[depth]
            });
            self.is_covered(depth, before)
        })
    }

    fn is_covered<'t>(&self, depth: usize, writes: impl Iterator<Item = &'t Touch<'t>>) -> bool {
        let (outer, inner) = self.split(depth);
        let mut dense = vec![];
        for write in writes {
            let (write_outer, write_inner) = write.split(depth);
            if write_outer != outer {
                continue;
            }
            let shape = |terms: &[Term]| {
                let mut shape: Vec<(i64, u32)> = terms.iter().map(|term| (term.stride, term.n)).collect();
                shape.sort_unstable();
                shape
            };
            let same_place = write.offset == self.offset && write.width == self.width;
            if same_place && shape(&write_inner) == shape(&inner) {
                return true;
            }
            if is_dense(write.width, &write_inner) {
                dense.push(reach(write.offset, write.width, &write_inner));
            }
        }
        dense.sort_unstable();
        let (mut next, last) = reach(self.offset, self.width, &inner);
        for (lo, hi) in dense {
            if lo <= next {
                next = next.max(hi + 1);
            }
        }
        next > last
    }

    /// Whether the dimensions of a contraction lead to different elements.
    pub(super) fn is_injective(&self) -> bool {
        hits(self.width, self.dims().collect()) == 1
    }

    /// How often one element can be hit by the loops inside the body at `depth`, or by all (`None`).
    pub(super) fn hits(&self, depth: Option<usize>) -> i128 {
        let inside = self.loops[depth.map_or(0, |depth| depth + 1)..].iter();
        let turns = inside.map(|&(index, n)| {
            let term = self.terms.iter().find(|term| term.index == Some(index));
            (term.map_or(0, |term| term.stride.unsigned_abs()), n)
        });
        hits(self.width, turns.chain(self.dims()).collect())
    }

    /// Strides and turns of the dimensions of a contraction.
    fn dims(&self) -> impl Iterator<Item = (u64, u32)> {
        let dims = self.terms.iter().filter(|term| term.index.is_none());
        dims.map(|term| (term.stride.unsigned_abs(), term.n))
    }
}

/// How often one element can be hit. Turns whose strides nest (each at least the span of all smaller ones) hit different
/// elements; the others count.
fn hits(width: u64, mut turns: Vec<(u64, u32)>) -> i128 {
    turns.sort_unstable();
    let (mut hits, mut span) = (1i128, width as i128);
    for (stride, n) in turns {
        if stride as i128 >= span {
            span += stride as i128 * (n as i128 - 1);
        } else {
            hits = hits.saturating_mul(n as i128);
        }
    }
    hits
}

/// Whether the touched elements are one interval without holes.
fn is_dense(width: u64, terms: &[Term]) -> bool {
    let mut terms: Vec<(u64, u32)> = terms.iter().map(|term| (term.stride.unsigned_abs(), term.n)).collect();
    terms.sort_unstable();
    let mut span = width as i128;
    terms.iter().all(|&(stride, n)| {
        let joins = stride as i128 <= span;
        span += stride as i128 * (n as i128 - 1);
        joins
    })
}

/// Whether different items touch different elements of a parameter: `all` are its accesses.
///
/// Terms that move further than an item does are set aside by looking at addresses modulo their common divisor; what
/// is left must lie within one item's stride, and all items within the divisor. How far accesses begin apart may be such a
/// divisor too.
pub(super) fn items_are_apart(items: u32, all: &[&Touch<'_>]) -> bool {
    let item_stride = |touch: &Touch<'_>| {
        let term = touch.terms.iter().find(|term| term.index == Some(Index(0)));
        term.map_or(0, |term| term.stride.unsigned_abs() as i128)
    };
    let Some(stride) = all.first().map(|touch| item_stride(touch)) else { return true };
    let sign = |touch: &Touch<'_>| touch.terms.iter().any(|t| t.index == Some(Index(0)) && t.stride < 0);
    if stride == 0 || all.iter().any(|touch| item_stride(touch) != stride || sign(touch) != sign(all[0])) {
        return false;
    }
    let is_outer = |term: &Term| term.n > 1 && term.stride.unsigned_abs() as i128 >= stride;
    let others = |touch: &Touch<'_>| {
        let terms = touch.terms.iter().copied().filter(|term| term.index != Some(Index(0)));
        terms.partition::<Vec<Term>, _>(is_outer)
    };
    let strides = all.iter().flat_map(|touch| others(touch).0);
    let strides = strides.fold(0, |divisor, term| gcd(divisor, term.stride.unsigned_abs() as i128));
    let near: Vec<(i128, i128)> =
        all.iter().map(|touch| reach(touch.offset, touch.width, &others(touch).1)).collect();
    let apart = near.iter().map(|(lo, _)| (lo - near[0].0).abs()).filter(|&apart| apart >= stride);
    let shifts: BTreeSet<i128> = apart.map(|apart| gcd(strides, apart)).collect();
    [strides].into_iter().chain(shifts).any(|modulus| fits(items, stride, modulus, &near))
}

/// Whether what an item touches, modulo a divisor of all terms set aside, lies within an item's stride, and all items within the
/// divisor. Zero: nothing was set aside.
fn fits(items: u32, stride: i128, modulus: i128, touched: &[(i128, i128)]) -> bool {
    let base = touched.first().map_or(0, |first| first.0);
    let (mut least, mut most) = (i128::MAX, i128::MIN);
    for (lo, hi) in touched {
        let near = match modulus {
            0 => *lo,
            _ => base + (lo - base + modulus / 2).rem_euclid(modulus) - modulus / 2,
        };
        (least, most) = (least.min(near), most.max(near + hi - lo));
    }
    let window = most - least + 1;
    window <= stride && (modulus == 0 || modulus >= (items as i128 - 1) * stride + window)
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}
