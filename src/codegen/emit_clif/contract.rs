//! The contraction as a leaf function: a register tile inside a nest of loops.
//!
//! A tile is some points × some units of the vectors side. Each step of k loads one unit after the other and combines
//! it with every point's group, which is broadcast from memory. Broadcasts are handed to the next block as block
//! parameters: a value that is used once there may fold its load, one that many products share may not.
//! Tiles are chosen by the target's costs; what does not divide by a tile is done by a smaller one.

use super::body::flags;
use super::lanes::{cast, constant, dot_pairs};
use super::shape::{Axis, Form, Shape, Signs, Start};
use crate::targets::{DotForm, Target};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, BlockArg, InstBuilder, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilder;

/// Dot products in the unrolled body of the innermost loop, at most.
const UNROLLED: usize = 192;

/// The four pointers that move through the nest: output, points side, vectors side, start values.
type Pointers = [ir::Value; 4];

const OUT: usize = 0;
const A: usize = 1;
const B: usize = 2;
const INIT: usize = 3;

/// A choice of tile: along which axis of the points, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Which axis of the points is cut.
    axis: usize,
    /// Points.
    points: usize,
    /// Units of the vectors side.
    units: usize,
}

struct Leaf<'a, 'f> {
    b: FunctionBuilder<'f>,
    shape: &'a Shape,
    target: &'a Target,
    tile: Tile,
}

/// Writes the function `(out, a, b, init)`.
pub(super) fn emit(shape: &Shape, target: &Target, config: TargetFrontendConfig, b: FunctionBuilder) {
    let mut leaf = Leaf { b, shape, target, tile: choose(shape, target) };
    let entry = leaf.b.create_block();
    leaf.b.append_block_params_for_function_params(entry);
    leaf.b.switch_to_block(entry);
    let pointers = leaf.b.block_params(entry).try_into().expect("four arguments");
    let per_vector = shape.form.units() / leaf.tile.units;
    let mut vectors: Vec<[i64; 4]> = shape.vectors.iter().map(|v| [v.second, 0, v.first, v.init]).collect();
    let mut counts: Vec<usize> = shape.vectors.iter().map(|v| v.n).collect();
    if per_vector > 1 {
        let lanes = 16 / per_vector as i64;
        let init = if shape.start == Start::PerVector { 4 * lanes } else { 0 };
        vectors.push([4 * lanes, 0, 4 * lanes, init]);
        counts.push(per_vector);
    }
    leaf.nest(&counts, &vectors, pointers, &mut |leaf, p| leaf.points(p));
    leaf.b.ins().return_(&[]);
    leaf.b.seal_all_blocks();
    leaf.b.finalize(config);
}

impl Form {
    /// Units of a block of 16 lanes: as many as accumulators for one point.
    fn units(self) -> usize {
        if matches!(self, Form::Widened(_)) { 8 } else { 4 }
    }

    /// Registers that a tile needs beside accumulators and broadcasts.
    fn temporaries(self) -> usize {
        match self {
            Form::Dot(_) => 1,
            Form::Widened(_) | Form::Pairs16 => 2,
            Form::Saturating(_) => 3,
        }
    }
}

/// The tile with the least work, remainders included.
fn choose(shape: &Shape, target: &Target) -> Tile {
    let units = shape.form.units();
    let mut best = (usize::MAX, Tile { axis: 0, points: 1, units });
    let axes = if shape.points.is_empty() {
        &[Axis { n: 1, first: 0, second: 0, init: 0 }][..]
    } else {
        &shape.points
    };
    for (axis, along) in axes.iter().enumerate() {
        let others: usize = axes.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, a)| a.n).product();
        for size in (0..).map(|i| units >> i).take_while(|&s| s >= units / 4) {
            for points in 1..=along.n.min(12) {
                if points * size + points + shape.form.temporaries() > target.registers {
                    continue;
                }
                let (full, rest) = (along.n / points, along.n % points);
                let work = full * step_cost(shape, target, points, size)
                    + if rest > 0 { step_cost(shape, target, rest, size) } else { 0 };
                let work = others * work * (units / size);
                if work < best.0 {
                    best = (work, Tile { axis, points, units: size });
                }
            }
        }
    }
    best.1
}

/// Sixtieths of a cycle for one step of k.
fn step_cost(shape: &Shape, target: &Target, points: usize, units: usize) -> usize {
    let costs = &target.costs;
    let (dots, latency) = match shape.form {
        Form::Dot(_) => (costs.dots_per_cycle, costs.latency),
        Form::Saturating(_) | Form::Widened(_) | Form::Pairs16 => (1, 1),
    };
    let products = 60 * points * units / dots;
    let loads = 60 * (points + units) / costs.loads_per_cycle;
    // A little for every instruction, so that of equals the one with fewer loads wins.
    products.max(60 * latency).max(loads) + points + units
}

impl Leaf<'_, '_> {
    /// Loops over `counts`, outermost first, moving the pointers by `strides`.
    fn nest(
        &mut self,
        counts: &[usize],
        strides: &[[i64; 4]],
        pointers: Pointers,
        body: &mut dyn FnMut(&mut Self, Pointers),
    ) {
        let (Some((&n, counts)), Some((&stride, strides))) = (counts.split_first(), strides.split_first())
        else {
            return body(self, pointers);
        };
        self.repeat(n, &pointers, |leaf, carried| {
            let pointers: Pointers = carried.try_into().expect("four pointers are carried");
            leaf.nest(counts, strides, pointers, body);
            leaf.advance(pointers, stride).to_vec()
        });
    }

    fn advance(&mut self, pointers: Pointers, stride: [i64; 4]) -> Pointers {
        let mut out = pointers;
        for (pointer, stride) in out.iter_mut().zip(stride) {
            if stride != 0 {
                *pointer = self.b.ins().iadd_imm_s(*pointer, stride);
            }
        }
        out
    }

    /// `n` turns of a body over carried values, which it returns anew; gives the values after the last turn.
    fn repeat(
        &mut self,
        n: usize,
        start: &[ir::Value],
        body: impl FnOnce(&mut Self, &[ir::Value]) -> Vec<ir::Value>,
    ) -> Vec<ir::Value> {
        if n == 1 {
            return body(self, start);
        }
        let (header, exit) = (self.b.create_block(), self.b.create_block());
        let counter = self.b.append_block_param(header, types::I64);
        let carried: Vec<_> = start.iter().map(|&v| self.param_like(header, v)).collect();
        let results: Vec<_> = start.iter().map(|&v| self.param_like(exit, v)).collect();
        let turns = self.b.ins().iconst(types::I64, n as i64);
        let entering: Vec<BlockArg> = [turns].iter().chain(start).map(|&v| v.into()).collect();
        self.b.ins().jump(header, &entering);
        self.b.switch_to_block(header);
        let next = body(self, &carried);
        let left = self.b.ins().iadd_imm_s(counter, -1);
        let again: Vec<BlockArg> = [left].iter().chain(&next).map(|&v| v.into()).collect();
        let leaving: Vec<BlockArg> = next.iter().map(|&v| v.into()).collect();
        let more = self.b.ins().icmp_imm_s(IntCC::NotEqual, left, 0);
        self.b.ins().brif(more, header, &again, exit, &leaving);
        self.b.switch_to_block(exit);
        results
    }

    fn param_like(&mut self, block: ir::Block, value: ir::Value) -> ir::Value {
        let ty = self.b.func.dfg.value_type(value);
        self.b.append_block_param(block, ty)
    }

    /// All points, for the units at the pointers.
    fn points(&mut self, pointers: Pointers) {
        let Tile { axis, points, .. } = self.tile;
        let strides = |a: &Axis| [a.second, a.first, 0, a.init];
        let (mut counts, mut moves) = (vec![], vec![]);
        for (_, a) in self.shape.points.iter().enumerate().filter(|&(i, _)| i != axis) {
            counts.push(a.n);
            moves.push(strides(a));
        }
        let along = self.shape.points.get(axis).copied();
        let along = along.unwrap_or(Axis { n: 1, first: 0, second: 0, init: 0 });
        let step = strides(&along).map(|s| s * points as i64);
        let (full, rest) = (along.n / points, along.n % points);
        self.nest(&counts, &moves, pointers, &mut |leaf, pointers| {
            let after = leaf.repeat(full, &pointers, |leaf, carried| {
                let pointers = carried.try_into().expect("four pointers are carried");
                leaf.tile(pointers, points, &along);
                leaf.advance(pointers, step).to_vec()
            });
            if rest > 0 {
                leaf.tile(after.try_into().expect("four pointers are carried"), rest, &along);
            }
        });
    }

    /// One register tile: start, all of k, store.
    fn tile(&mut self, pointers: Pointers, points: usize, along: &Axis) {
        let mut carried = vec![pointers[A], pointers[B]];
        carried.extend(self.start(pointers, points, along));
        let (outer, inner) = self.split_k(points);
        let done = self.reduce(&outer, &inner, carried, points, along);
        self.finish(pointers, &done[2..], points, along);
    }

    /// The loops of k, and the strides (in a, in b) of the steps that are unrolled inside.
    fn split_k(&self, points: usize) -> (Vec<Axis>, Vec<(i64, i64)>) {
        let most = (UNROLLED / (points * self.tile.units)).max(4);
        let mut loops = self.shape.k.clone();
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

    fn reduce(
        &mut self,
        loops: &[Axis],
        steps: &[(i64, i64)],
        carried: Vec<ir::Value>,
        points: usize,
        along: &Axis,
    ) -> Vec<ir::Value> {
        let Some((axis, inner)) = loops.split_first() else {
            let mut sums = carried;
            for &step in steps {
                self.step(&mut sums, step, points, along);
            }
            return sums;
        };
        self.repeat(axis.n, &carried, |leaf, now| {
            let mut next = leaf.reduce(inner, steps, now.to_vec(), points, along);
            next[0] = leaf.b.ins().iadd_imm_s(now[0], axis.first);
            next[1] = leaf.b.ins().iadd_imm_s(now[1], axis.second);
            next
        })
    }

    /// One group of every point with one group of every lane. `sums` are the two pointers and the accumulators.
    fn step(&mut self, sums: &mut [ir::Value], (in_a, in_b): (i64, i64), points: usize, along: &Axis) {
        let (a, b) = (sums[0], sums[1]);
        let mut groups = vec![];
        for p in 0..points as i64 {
            let (pointer, offset) = self.displaced(a, in_a + p * along.first);
            let word = self.b.ins().load(types::I32, flags(), pointer, offset);
            groups.push(self.b.ins().splat(types::I32X4, word));
        }
        let next = self.b.create_block();
        let args: Vec<BlockArg> = groups.iter().map(|&g| g.into()).collect();
        let groups: Vec<_> = groups.iter().map(|&g| self.param_like(next, g)).collect();
        self.b.ins().jump(next, &args);
        self.b.switch_to_block(next);
        let groups: Vec<_> = groups.into_iter().map(|g| self.group(g)).collect();
        let width = 64 / self.shape.form.units() as i64;
        for unit in 0..self.tile.units {
            let (pointer, offset) = self.displaced(b, in_b + width * unit as i64);
            let lanes = self.unit(pointer, offset);
            for (p, &group) in groups.iter().enumerate() {
                let sum = &mut sums[2 + p * self.tile.units + unit];
                *sum = dot(&mut self.b, self.shape.form, self.target.dot, *sum, group, lanes);
            }
        }
    }

    /// A broadcast group as the form multiplies it.
    fn group(&mut self, words: ir::Value) -> ir::Value {
        match self.shape.form {
            Form::Dot(_) | Form::Saturating(_) => cast(&mut self.b, types::I8X16, words),
            Form::Pairs16 => cast(&mut self.b, types::I16X8, words),
            Form::Widened(signs) => {
                let bytes = cast(&mut self.b, types::I8X16, words);
                match signs {
                    Signs::Points => self.b.ins().swiden_low(bytes),
                    Signs::Vectors => self.b.ins().uwiden_low(bytes),
                }
            }
        }
    }

    /// One unit of the vectors side.
    fn unit(&mut self, pointer: ir::Value, offset: i32) -> ir::Value {
        match self.shape.form {
            Form::Dot(_) | Form::Saturating(_) => self.b.ins().load(types::I8X16, flags(), pointer, offset),
            Form::Pairs16 => self.b.ins().load(types::I16X8, flags(), pointer, offset),
            Form::Widened(Signs::Points) => self.b.ins().uload8x8(flags(), pointer, offset),
            Form::Widened(Signs::Vectors) => self.b.ins().sload8x8(flags(), pointer, offset),
        }
    }

    fn displaced(&mut self, pointer: ir::Value, offset: i64) -> (ir::Value, i32) {
        match i32::try_from(offset) {
            Ok(small) => (pointer, small),
            Err(_) => (self.b.ins().iadd_imm_s(pointer, offset), 0),
        }
    }

    /// Whether sums start from zero and the start values are added at the end: a unit is half a vector of sums.
    fn starts_late(&self) -> bool {
        matches!(self.shape.form, Form::Widened(_))
    }

    fn start(&mut self, pointers: Pointers, points: usize, along: &Axis) -> Vec<ir::Value> {
        let n = points * self.tile.units;
        if self.starts_late() || self.shape.start == Start::Zero {
            let zero = constant(&mut self.b, types::I32X4, &[0; 16]);
            return vec![zero; n];
        }
        self.initial(pointers, points, self.tile.units, along)
    }

    /// Start values, four lanes at a time.
    fn initial(
        &mut self,
        pointers: Pointers,
        points: usize,
        quarters: usize,
        along: &Axis,
    ) -> Vec<ir::Value> {
        let mut out = vec![];
        for p in 0..points {
            for quarter in 0..quarters {
                let at = 16 * quarter as i64;
                out.push(match self.shape.start {
                    Start::Zero => constant(&mut self.b, types::I32X4, &[0; 16]),
                    Start::PerVector if p > 0 => out[quarter],
                    Start::PerVector => self.load(pointers[INIT], at),
                    Start::Output => self.load(pointers[OUT], p as i64 * along.second + at),
                    Start::PerPoint if quarter > 0 => out[p * quarters],
                    Start::PerPoint => {
                        let (pointer, offset) = self.displaced(pointers[INIT], p as i64 * along.init);
                        let word = self.b.ins().load(types::I32, flags(), pointer, offset);
                        self.b.ins().splat(types::I32X4, word)
                    }
                });
            }
        }
        out
    }

    fn load(&mut self, pointer: ir::Value, offset: i64) -> ir::Value {
        let (pointer, offset) = self.displaced(pointer, offset);
        self.b.ins().load(types::I32X4, flags(), pointer, offset)
    }

    fn finish(&mut self, pointers: Pointers, sums: &[ir::Value], points: usize, along: &Axis) {
        let mut sums = sums.to_vec();
        if self.starts_late() {
            sums = sums.chunks(2).map(|halves| self.b.ins().iadd_pairwise(halves[0], halves[1])).collect();
            if self.shape.start != Start::Zero {
                let initial = self.initial(pointers, points, self.tile.units / 2, along);
                sums = sums.iter().zip(initial).map(|(&s, i)| self.b.ins().iadd(s, i)).collect();
            }
        }
        let quarters = sums.len() / points;
        for (i, &sum) in sums.iter().enumerate() {
            let (p, quarter) = (i / quarters, i % quarters);
            let offset = p as i64 * along.second + 16 * quarter as i64;
            let (pointer, offset) = self.displaced(pointers[OUT], offset);
            self.b.ins().store(flags(), sum, pointer, offset);
        }
    }
}

/// `sum + group·lanes`.
fn dot(
    b: &mut FunctionBuilder,
    form: Form,
    target: DotForm,
    sum: ir::Value,
    group: ir::Value,
    lanes: ir::Value,
) -> ir::Value {
    match form {
        Form::Dot(signs) | Form::Saturating(signs) => {
            let (signed, unsigned) = match signs {
                Signs::Points => (group, lanes),
                Signs::Vectors => (lanes, group),
            };
            if let Form::Dot(_) = form {
                return dot_bytes(b, target, sum, signed, unsigned);
            }
            let pairs = b.ins().x86_pmaddubsw(signed, unsigned);
            let ones = constant(b, types::I16X8, &[1, 0].repeat(8));
            let words = dot_pairs(b, pairs, ones);
            b.ins().iadd(sum, words)
        }
        Form::Widened(_) | Form::Pairs16 => {
            let products = dot_pairs(b, lanes, group);
            b.ins().iadd(sum, products)
        }
    }
}

/// The tree of operations that Cranelift folds into one instruction; the order of all operands matters.
fn dot_bytes(
    b: &mut FunctionBuilder,
    target: DotForm,
    sum: ir::Value,
    signed: ir::Value,
    unsigned: ir::Value,
) -> ir::Value {
    let product = |b: &mut FunctionBuilder, s, u| match target {
        DotForm::UnsignedFirst => b.ins().imul(u, s),
        DotForm::SignedFirst | DotForm::Pairs => b.ins().imul(s, u),
    };
    let (s, u) = (b.ins().swiden_low(signed), b.ins().uwiden_low(unsigned));
    let low = product(b, s, u);
    let (s, u) = (b.ins().swiden_high(signed), b.ins().uwiden_high(unsigned));
    let high = product(b, s, u);
    let pairs = [low, high].map(|x| {
        let (first, second) = (b.ins().swiden_low(x), b.ins().swiden_high(x));
        b.ins().iadd_pairwise(first, second)
    });
    let fours = b.ins().iadd_pairwise(pairs[0], pairs[1]);
    b.ins().iadd(fours, sum)
}
