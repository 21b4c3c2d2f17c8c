//! The contraction as a leaf function: a register tile inside a nest of loops.
//!
//! A tile is some points × some units of the vectors side. Each step of k loads one unit after the other and combines
//! it with every point's group, which is broadcast from memory. What does not divide by a tile is done by a smaller
//! one.

use super::super::shape::{Axis, Form, Shape, Signs, Start, unrolled};
use super::body::flags;
use super::dot::dot;
use super::lanes::{cast, constant};
use super::tile::{Tile, choose};
use crate::targets::Target;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, BlockArg, ConstantData, InstBuilder, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilder;

/// Dot products in the unrolled body of the innermost loop, at most.
const UNROLLED: usize = 96;

/// The four pointers that move through the nest: output, points side, vectors side, start values.
type Pointers = [ir::Value; 4];

const OUT: usize = 0;
const A: usize = 1;
const B: usize = 2;
const INIT: usize = 3;

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
        unrolled(self.shape.k.clone(), (UNROLLED / (points * self.tile.units)).max(4))
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
            let mut rest = steps;
            while let [(in_a, in_b), others @ ..] = rest {
                rest = others;
                match others {
                    [(next_a, next_b), others @ ..] if self.widens() && *next_a == in_a + 4 => {
                        rest = others;
                        let [first, second] = self.two_groups(sums[0], *in_a, points, along);
                        self.step(&mut sums, *in_b, &first);
                        self.step(&mut sums, *next_b, &second);
                    }
                    _ => {
                        let groups = self.groups(sums[0], *in_a, points, along);
                        self.step(&mut sums, *in_b, &groups);
                    }
                }
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
    fn step(&mut self, sums: &mut [ir::Value], in_b: i64, groups: &[ir::Value]) {
        let width = 64 / self.shape.form.units() as i64;
        for unit in 0..self.tile.units {
            let (pointer, offset) = self.displaced(sums[1], in_b + width * unit as i64);
            let lanes = self.unit(pointer, offset);
            for (p, &group) in groups.iter().enumerate() {
                let sum = &mut sums[2 + p * self.tile.units + unit];
                *sum = dot(&mut self.b, self.shape.form, self.target.dot, *sum, group, lanes);
            }
        }
    }

    /// The group of every point, in all lanes, as the form multiplies it.
    fn groups(&mut self, a: ir::Value, in_a: i64, points: usize, along: &Axis) -> Vec<ir::Value> {
        let one = |leaf: &mut Self, p: i64| {
            let (pointer, offset) = leaf.displaced(a, in_a + p * along.first);
            let word = leaf.b.ins().load(types::I32, flags(), pointer, offset);
            let words = leaf.b.ins().splat(types::I32X4, word);
            match leaf.shape.form {
                Form::Pairs16 => cast(&mut leaf.b, types::I16X8, words),
                Form::Dot(_) | Form::Saturating(_) => cast(&mut leaf.b, types::I8X16, words),
                Form::Widened(signs) => {
                    let bytes = cast(&mut leaf.b, types::I8X16, words);
                    match signs {
                        Signs::Points => leaf.b.ins().swiden_low(bytes),
                        Signs::Vectors => leaf.b.ins().uwiden_low(bytes),
                    }
                }
            }
        };
        (0..points as i64).map(|p| one(self, p)).collect()
    }

    /// The widened groups of two neighbouring steps by one load: the first group of every point, and the second.
    fn two_groups(&mut self, a: ir::Value, in_a: i64, points: usize, along: &Axis) -> [Vec<ir::Value>; 2] {
        let mut out = [vec![], vec![]];
        for p in 0..points as i64 {
            let (pointer, offset) = self.displaced(a, in_a + p * along.first);
            let both = match self.shape.form {
                Form::Widened(Signs::Points) => self.b.ins().sload8x8(flags(), pointer, offset),
                _ => self.b.ins().uload8x8(flags(), pointer, offset),
            };
            let both = cast(&mut self.b, types::I8X16, both);
            for (half, out) in (0u8..).zip(&mut out) {
                let mask: [u8; 16] = std::array::from_fn(|i| 8 * half + i as u8 % 8);
                let mask = self.b.func.dfg.immediates.push(ConstantData::from(&mask[..]));
                let group = self.b.ins().shuffle(both, both, mask);
                out.push(cast(&mut self.b, types::I16X8, group));
            }
        }
        out
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

    /// Whether a unit is half a vector of sums: they start from zero, and the start values are added at the end.
    fn widens(&self) -> bool {
        matches!(self.shape.form, Form::Widened(_))
    }

    fn start(&mut self, pointers: Pointers, points: usize, along: &Axis) -> Vec<ir::Value> {
        let n = points * self.tile.units;
        if self.widens() || self.shape.start == Start::Zero {
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
        if self.widens() {
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
