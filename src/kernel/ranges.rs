//! Interval analysis of values: what each expression can be, and the proof that it does not overflow.
//!
//! Values are defined once and loops carry nothing but memory, whose elements have declared ranges; so one walk in
//! program order is enough. Pairs have two intervals, for their even and their odd elements. Bounds are computed in
//! 128 bits; an error names the interval that does not fit.

use super::*;
use fqt_runtime::fixed::{bit_length, div_round};

const I64: Range = Range::new(i64::MIN, i64::MAX);
const MASK: Range = Range::new(-1, 0);

type Res<T> = Result<T, String>;

/// The intervals of the values defined so far.
pub(super) struct Ranges<'a> {
    kernel: &'a Kernel,
    /// By value; of pairs, the even elements.
    pub(super) even: Vec<Range>,
    /// By value: the odd elements of pairs; otherwise equal to `even`.
    odd: Vec<Range>,
    /// By value: what it was defined as.
    definitions: Vec<Option<&'a Expr>>,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(kernel: &'a Kernel) -> Ranges<'a> {
        let n = kernel.values.len();
        Ranges { kernel, even: vec![I64; n], odd: vec![I64; n], definitions: vec![None; n] }
    }

    /// The interval of a value; of pairs, of all elements.
    pub(super) fn of(&self, value: Value) -> Range {
        hull(self.even[value.0 as usize], self.odd[value.0 as usize])
    }

    /// One interval for each value.
    pub(super) fn all(&self) -> Vec<Range> {
        (0..self.even.len() as u32).map(|value| self.of(Value(value))).collect()
    }

    fn param(&self, param: Param) -> Range {
        self.kernel.params[param.0 as usize].range
    }

    /// Defines a value. `indices` gives the interval of each loop index in scope.
    pub(super) fn define(
        &mut self,
        value: Value,
        expr: &'a Expr,
        indices: &dyn Fn(Index) -> Range,
    ) -> Res<()> {
        let at = value.0 as usize;
        let pairs = match expr {
            Expr::SplatPair(a, b) => Some((self.fit_value(DType::I16, *a)?, self.fit_value(DType::I16, *b)?)),
            Expr::Pair(a, b) => Some((self.of(*a), self.of(*b))),
            _ => None,
        };
        (self.even[at], self.odd[at]) = match pairs {
            Some(pair) => pair,
            None => {
                let range = self.transfer(self.kernel.values[at], expr, indices)?;
                (range, range)
            }
        };
        self.definitions[at] = Some(expr);
        Ok(())
    }

    fn fit_value(&self, dtype: DType, value: Value) -> Res<Range> {
        fit_range(self.of(value), dtype.range(), Type::Lanes(dtype))
    }

    fn transfer(&self, ty: Type, expr: &Expr, indices: &dyn Fn(Index) -> Range) -> Res<Range> {
        let limit = limit(ty);
        let result = match expr {
            Expr::Load(address) | Expr::LoadPairs(address) => self.param(address.param),
            Expr::LoadScalar(address) => match ty {
                Type::Dyadic => I64,
                _ => self.param(address.param),
            },
            Expr::LoadAt { param, .. } => match ty {
                Type::Dyadic => I64,
                _ => self.param(*param),
            },
            Expr::ConstLanes(_, lanes) => {
                lanes.iter().map(|&lane| point(lane as i64)).reduce(hull).unwrap_or(limit)
            }
            Expr::ConstInt(value) => point(*value),
            Expr::IndexValue(index) => indices(*index),
            Expr::Splat(dtype, value) => self.fit_value(*dtype, *value)?,
            Expr::Widen(_, value) => self.of(*value),
            Expr::NarrowSat(dtype, value) => clamp(self.of(*value), dtype.range()),
            Expr::Cast(dtype, value) => cast(self.of(*value), *dtype),
            Expr::Dot2(a, b) => {
                let (a, b) = (a.0 as usize, b.0 as usize);
                let even = corners(self.even[a], self.even[b], |x, y| x * y);
                let odd = corners(self.odd[a], self.odd[b], |x, y| x * y);
                fit(even.0 + odd.0, even.1 + odd.1, limit, ty)?
            }
            Expr::Binary(op, a, b) if ty != Type::Dyadic => self.binary(*op, *a, *b, ty)?,
            Expr::Unary(Unary::Abs, value) if ty != Type::Dyadic => {
                let Range { lo, hi } = self.of(*value);
                let least = if lo <= 0 && hi >= 0 { 0 } else { (lo as i128).abs().min((hi as i128).abs()) };
                fit(least, (lo as i128).abs().max((hi as i128).abs()), limit, ty)?
            }
            Expr::Shift(shift, value, amount) => self.shift(*shift, *value, *amount, ty)?,
            Expr::MulShift(a, b, amount) => {
                let k = self.amount(*amount, 62)?;
                let product = corners(self.of(*a), self.of(*b), |x, y| x * y);
                let (lo, hi) = rounded(product, k);
                fit(lo, hi, limit, ty)?
            }
            Expr::Compare(..) if ty == Type::Int => Range::new(0, 1),
            Expr::Compare(..) => MASK,
            Expr::Select(mask, a, b) => self.select(*mask, *a, *b, ty)?,
            Expr::Interleave { a, b, .. } => hull(self.of(*a), self.of(*b)),
            Expr::Random { block: (terms, offset), .. } => {
                let block = affine(terms, *offset, indices);
                fit(block.0, block.1, Range::new(0, (1 << 29) - 1), "random block number")?;
                limit
            }
            Expr::Exponent(_) => Range::new(-1024, 1024),
            Expr::ToFixed(..) => Range::new(-(1 << 62), 1 << 62),
            Expr::BitLength(value) => {
                let Range { lo, hi } = self.of(*value);
                let (a, b) = (bit_length(lo), bit_length(hi));
                Range::new(if lo <= 0 && hi >= 0 { 0 } else { a.min(b) }, a.max(b))
            }
            _ => limit,
        };
        Ok(result)
    }

    fn binary(&self, op: Binary, a: Value, b: Value, ty: Type) -> Res<Range> {
        let (x, y) = (self.of(a), self.of(b));
        let exact = match op {
            Binary::Add => (x.lo as i128 + y.lo as i128, x.hi as i128 + y.hi as i128),
            Binary::Sub => (x.lo as i128 - y.hi as i128, x.hi as i128 - y.lo as i128),
            Binary::Mul => corners(x, y, |x, y| x * y),
            Binary::Div if y.lo < 1 => return Err(format!("divisor {b} is in {y}, not proven positive")),
            Binary::Div => corners(x, y, |x, y| div_round(x as i64, y as i64) as i128),
            Binary::Min => (x.lo.min(y.lo) as i128, x.hi.min(y.hi) as i128),
            Binary::Max => (x.lo.max(y.lo) as i128, x.hi.max(y.hi) as i128),
            Binary::And | Binary::Or | Binary::Xor => bitwise(op, x, y),
        };
        fit(exact.0, exact.1, limit(ty), ty)
    }

    /// The interval of a shift amount, inside `0..=most`.
    fn amount(&self, amount: Amount, most: i64) -> Res<Range> {
        let range = match amount {
            Amount::Imm(amount) => point(amount as i64),
            Amount::Value(value) => self.of(value),
        };
        fit_range(range, Range::new(0, most), "shift amount")
    }

    fn shift(&self, shift: Shift, value: Value, amount: Amount, ty: Type) -> Res<Range> {
        let bits = if let Type::Lanes(dtype) = ty { 8 * dtype.bytes() as i64 } else { 64 };
        let (x, k) = (self.of(value), self.amount(amount, bits - 1)?);
        let exact = match shift {
            Shift::Left => corners(x, k, |x, k| x << k),
            Shift::RightLogical if x.lo < 0 && k.lo > 0 => (0, ((1i128 << bits) - 1) >> k.lo),
            Shift::RightLogical if x.lo < 0 => (limit(ty).lo as i128, limit(ty).hi as i128),
            Shift::Right | Shift::RightLogical => corners(x, k, |x, k| x >> k),
            Shift::RightRound => {
                let half = (1i128 << k.hi) >> 1;
                fit(x.lo as i128, x.hi as i128 + half, limit(ty), "value plus rounding constant in")?;
                rounded((x.lo as i128, x.hi as i128), k)
            }
        };
        fit(exact.0, exact.1, limit(ty), ty)
    }

    /// Hull of both sides, each narrowed by the comparison that made the mask.
    fn select(&self, mask: Value, a: Value, b: Value, ty: Type) -> Res<Range> {
        if let Type::Lanes(_) = ty {
            fit_range(self.of(mask), MASK, "mask")?;
        }
        let (mut if_true, mut if_false) = (Some(self.of(a)), Some(self.of(b)));
        if let Some(Expr::Compare(cond, x, y)) = self.definitions[mask.0 as usize]
            && !matches!(self.kernel.values[x.0 as usize], Type::Dyadic)
        {
            let (rx, ry) = (self.of(*x), self.of(*y));
            let strict = (*cond == Cond::Lt) as i64;
            let at_most = |hi: i64, less: i64| Range::new(i64::MIN, hi.saturating_sub(less));
            let at_least = |lo: i64, more: i64| Range::new(lo.saturating_add(more), i64::MAX);
            if *cond == Cond::Eq {
                if_true = if a == *x || a == *y { intersect(rx, ry) } else { if_true };
            } else {
                if_true = narrow(if_true, a == *x, at_most(ry.hi, strict));
                if_true = narrow(if_true, a == *y, at_least(rx.lo, strict));
                if_false = narrow(if_false, b == *x, at_least(ry.lo, 1 - strict));
                if_false = narrow(if_false, b == *y, at_most(rx.hi, 1 - strict));
            }
        }
        Ok(match (if_true, if_false) {
            (Some(a), Some(b)) => hull(a, b),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => hull(self.of(a), self.of(b)),
        })
    }
}

fn narrow(range: Option<Range>, applies: bool, fact: Range) -> Option<Range> {
    if applies { range.and_then(|range| intersect(range, fact)) } else { range }
}

/// What a value of this type can hold.
fn limit(ty: Type) -> Range {
    match ty {
        Type::Lanes(dtype) => dtype.range(),
        Type::Pairs => DType::I16.range(),
        Type::Int | Type::Dyadic => I64,
    }
}

fn point(value: i64) -> Range {
    Range::new(value, value)
}

/// The smallest interval around both.
pub(super) fn hull(a: Range, b: Range) -> Range {
    Range::new(a.lo.min(b.lo), a.hi.max(b.hi))
}

fn intersect(a: Range, b: Range) -> Option<Range> {
    let both = Range::new(a.lo.max(b.lo), a.hi.min(b.hi));
    (both.lo <= both.hi).then_some(both)
}

fn clamp(range: Range, into: Range) -> Range {
    Range::new(range.lo.clamp(into.lo, into.hi), range.hi.clamp(into.lo, into.hi))
}

fn cast(range: Range, to: DType) -> Range {
    let target = to.range();
    for by in [0, 256, -256] {
        let moved = Range::new(range.lo + by, range.hi + by);
        if target.includes(moved) {
            return moved;
        }
    }
    target
}

/// The interval `lo..=hi` if it lies in `limit`.
pub(super) fn fit(lo: i128, hi: i128, limit: Range, what: impl fmt::Display) -> Res<Range> {
    if limit.lo as i128 <= lo && hi <= limit.hi as i128 {
        return Ok(Range::new(lo as i64, hi as i64));
    }
    Err(format!("{what} {limit} does not hold {lo}..={hi}"))
}

/// `range` if it lies in `limit`.
pub(super) fn fit_range(range: Range, limit: Range, what: impl fmt::Display) -> Res<Range> {
    fit(range.lo as i128, range.hi as i128, limit, what)
}

/// Bounds of an operation that is monotone in each operand on each side of zero.
fn corners(a: Range, b: Range, f: impl Fn(i128, i128) -> i128) -> (i128, i128) {
    let all = [(a.lo, b.lo), (a.lo, b.hi), (a.hi, b.lo), (a.hi, b.hi)].map(|(x, y)| f(x as i128, y as i128));
    all.iter().fold((all[0], all[0]), |(lo, hi), &x| (lo.min(x), hi.max(x)))
}

/// Bounds of `x >> k` to nearest, ties away.
fn rounded((lo, hi): (i128, i128), k: Range) -> (i128, i128) {
    let round = |x: i128, k: i64| if k == 0 { x } else { (x + (1 << (k - 1)) + (x >> 127)) >> k };
    let (a, b) = (round(lo, k.lo).min(round(lo, k.hi)), round(hi, k.lo).max(round(hi, k.hi)));
    (a, b)
}

/// Bounds of bitwise operations: exact signs, and no bit above the highest of either operand.
fn bitwise(op: Binary, a: Range, b: Range) -> (i128, i128) {
    let bits =
        [a.lo, a.hi, b.lo, b.hi].iter().map(|&x| 64 - (x ^ (x >> 63)).leading_zeros()).max().unwrap_or(63);
    let all = (1i128 << bits) - 1;
    let (negative_a, negative_b) = (a.lo < 0, b.lo < 0);
    match op {
        Binary::And if a == MASK || b == MASK => {
            let x = if a == MASK { b } else { a };
            (x.lo.min(0) as i128, x.hi.max(0) as i128)
        }
        Binary::And if !negative_a && !negative_b => (0, a.hi.min(b.hi) as i128),
        Binary::And if !negative_a => (0, a.hi as i128),
        Binary::And if !negative_b => (0, b.hi as i128),
        Binary::Or if !negative_a && !negative_b => (a.lo.max(b.lo) as i128, all),
        Binary::Xor if !negative_a && !negative_b => (0, all),
        _ => (-all - 1, all),
    }
}

/// Bounds of an affine form of loop indices.
pub(super) fn affine(terms: &[(Index, i64)], offset: i64, indices: &dyn Fn(Index) -> Range) -> (i128, i128) {
    terms.iter().fold((offset as i128, offset as i128), |(lo, hi), &(index, stride)| {
        let last = indices(index).hi as i128 * stride as i128;
        (lo + last.min(0), hi + last.max(0))
    })
}

/// What `init + Σ a·b` can be over `steps` groups; an error if it passes i32.
pub fn contract_range(dot: Dot, a: Range, b: Range, steps: u64, init: Range) -> Result<Range, String> {
    let (lo, hi) = corners(a, b, |x, y| x * y);
    let n = steps as i128 * dot.group() as i128;
    fit(init.lo as i128 + lo * n, init.hi as i128 + hi * n, DType::I32.range(), "i32")
}
