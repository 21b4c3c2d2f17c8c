//! The shape of a contraction: everything about it but the addresses, brought to a normal form.
//!
//! Dimensions of extent one vanish and neighbours that form one arithmetic progression merge, so that different
//! layers share code and inner runs are long.

use crate::kernel::{Address, Contract, Dim, Dot, Init, Kernel};
use crate::targets::{DotForm, Target};

/// One dimension; strides in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::codegen) struct Axis {
    pub(in crate::codegen) n: usize,
    /// Points and k: stride in a. Vectors: stride in b.
    pub(in crate::codegen) first: i64,
    /// Points and vectors: stride in the output. k: stride in b.
    pub(in crate::codegen) second: i64,
    /// Stride in the start values; zero where they do not move, and for k.
    pub(in crate::codegen) init: i64,
}

/// How one group is multiplied and added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::codegen) enum Form {
    /// One instruction for 16 products of bytes; operand order by the target.
    Dot(Signs),
    /// `x86_pmaddubsw`: pair sums of byte products are proven to fit 16 bits.
    Saturating(Signs),
    /// Bytes widened to 16 bits, then pairs of products: half a vector at a time.
    Widened(Signs),
    /// 16-bit operands: pairs of products.
    Pairs16,
}

/// Which operand of a byte product has a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::codegen) enum Signs {
    Points,
    Vectors,
}

/// What accumulators start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::codegen) enum Start {
    Zero,
    Output,
    PerVector,
    PerPoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::codegen) struct Shape {
    pub(in crate::codegen) form: Form,
    pub(in crate::codegen) start: Start,
    pub(in crate::codegen) points: Vec<Axis>,
    pub(in crate::codegen) vectors: Vec<Axis>,
    pub(in crate::codegen) k: Vec<Axis>,
    /// Whether the points side passes through a large buffer while the vectors side stays in cache.
    pub(in crate::codegen) streams: bool,
}

/// Bytes of a buffer that is not expected in a core's own caches.
const LARGE: u64 = 1 << 20;

impl Shape {
    pub(in crate::codegen) fn new(c: &Contract, kernel: &Kernel, target: &Target) -> Shape {
        let operand = if c.dot == Dot::I16I16 { 2 } else { 1 };
        let none = vec![];
        let (start, per_point, per_vector) = match &c.init {
            Init::Zero => (Start::Zero, &none, &none),
            Init::Accumulate => (Start::Output, &none, &none),
            Init::PerVector(_, strides) => (Start::PerVector, &none, strides),
            Init::PerPoint(_, strides) => (Start::PerPoint, strides, &none),
        };
        let axes = |dims: &[Dim], second: i64, init: &[i64]| {
            let axis = |(i, d): (usize, &Dim)| Axis {
                n: d.n as usize,
                first: d.first * operand,
                second: d.second * second,
                init: init.get(i).map_or(0, |s| s * 4),
            };
            merge(dims.iter().enumerate().map(axis))
        };
        Shape {
            form: form(c, kernel, target),
            start,
            points: axes(&c.points, 4, per_point),
            vectors: axes(&c.vectors, 4, per_vector),
            k: axes(&c.k, operand, &[]),
            streams: large(&c.a, kernel) && !large(&c.b, kernel),
        }
    }
}

/// Whether an address lies in a buffer that does not stay in a core's own caches.
fn large(address: &Address, kernel: &Kernel) -> bool {
    let decl = &kernel.params[address.param.0 as usize];
    decl.len * decl.dtype.bytes() as u64 >= LARGE
}

fn merge(axes: impl Iterator<Item = Axis>) -> Vec<Axis> {
    let mut out: Vec<Axis> = vec![];
    for inner in axes.filter(|a| a.n > 1) {
        let n = inner.n as i64;
        match out.last_mut() {
            Some(outer)
                if outer.first == n * inner.first
                    && outer.second == n * inner.second
                    && outer.init == n * inner.init =>
            {
                *outer = Axis { n: outer.n * inner.n, ..inner };
            }
            _ => out.push(inner),
        }
    }
    out
}

fn form(c: &Contract, kernel: &Kernel, target: &Target) -> Form {
    let signs = match c.dot {
        Dot::I16I16 => return Form::Pairs16,
        Dot::U8I8 => Signs::Vectors,
        Dot::I8U8 => Signs::Points,
    };
    if target.dot != DotForm::Pairs {
        return Form::Dot(signs);
    }
    let largest = |address: &crate::kernel::Address| {
        let range = kernel.params[address.param.0 as usize].range;
        range.lo.abs().max(range.hi.abs())
    };
    match 2 * largest(&c.a) * largest(&c.b) <= i16::MAX as i64 {
        true if target.is_x86() => Form::Saturating(signs),
        _ => Form::Widened(signs),
    }
}

/// Axes of k of which the inner ones are unrolled, as far as at most `most` steps come of it: the axes that remain as
/// loops, and the strides (in a, in b) of the unrolled steps.
pub(in crate::codegen) fn unrolled(mut loops: Vec<Axis>, most: usize) -> (Vec<Axis>, Vec<(i64, i64)>) {
    let mut steps = vec![(0, 0)];
    while let Some(axis) = loops.last_mut() {
        let room = most / steps.len();
        let take = (1..=room.min(axis.n)).rev().find(|t| axis.n % t == 0).unwrap_or(1);
        if take == 1 {
            break;
        }
        let turns = (0..take as i64).flat_map(|i| {
            let (a, b) = (axis.first * i, axis.second * i);
            steps.iter().map(move |&(x, y)| (x + a, y + b)).collect::<Vec<_>>()
        });
        steps = turns.collect();
        if take < axis.n {
            let t = take as i64;
            *axis = Axis { n: axis.n / take, first: axis.first * t, second: axis.second * t, init: 0 };
            break;
        }
        loops.pop();
    }
    (loops, steps)
}
