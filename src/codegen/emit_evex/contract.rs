//! The contraction as a leaf function in wide vectors: a register tile inside a nest of loops.
//!
//! A block of 16 lanes is one vector of 512 bits or two of 256. The vectors side is cut outermost, so that its part
//! stays in cache while all points pass; inside, a tile runs through all of k with its sums in registers. The same nest
//! serves registers that hold matrices, by a shape that counts those.

use super::super::shape::{Axis, Form, Shape, Signs, Start, unrolled};
use super::asm::{Asm, Place, Result, Vector};
use super::tile::{Cut, Tile, choose, offsets, size};
use super::tiles::{self, Configuration};
use crate::targets::Wide;
use iced_x86::code_asm::{AsmRegister64, gpr64};
use std::collections::{BTreeMap, BTreeSet};

/// Arguments of a leaf, in the order of the convention.
const OUT: AsmRegister64 = gpr64::rdi;
const A: AsmRegister64 = gpr64::rsi;
const B: AsmRegister64 = gpr64::rdx;
const INIT: AsmRegister64 = gpr64::rcx;

/// Dot products in the unrolled body of the innermost loop, at most.
const UNROLLED: usize = 192;

/// Bytes of the vectors side that one pass over all points reads again and again: they stay in the first-level cache
/// beside the points' side.
const BLOCK: usize = 24 << 10;

/// Bytes of a cache line.
const LINE: i64 = 64;

struct Leaf {
    shape: Shape,
    /// Registers.
    registers: usize,
    /// Bytes of the vectors side in one of them.
    bytes: usize,
    /// Points in one of them, and how far apart they are in a.
    rows: (usize, i64),
    /// Axes of the vectors side in units of one register.
    vectors: Vec<Axis>,
    tile: Tile,
    /// What a tile starts from.
    start: Start,
    /// What a tile sums over; nothing while the output gets its start values.
    k: Option<Vec<Axis>>,
    asm: Asm,
}

/// The bytes of the function `(out, a, b, init)`, and how tiles must be configured where it runs, if it computes in
/// them. An error is internal.
pub(in crate::codegen) fn emit(shape: &Shape, wide: &Wide) -> Result<(Vec<u8>, Option<Configuration>)> {
    let mut vectors = shape.vectors.clone();
    let units = 64 / wide.bytes;
    if units > 1 {
        let bytes = wide.bytes as i64;
        let init = if shape.start == Start::PerVector { bytes } else { 0 };
        vectors.push(Axis { n: units, first: bytes, second: bytes, init });
    }
    let (cost, tile) = choose(shape, &vectors, wide);
    let Wide { registers, bytes, .. } = *wide;
    let (mut leaf, configuration) =
        match wide.tiles.and_then(|tiles| Some((tiles, tiles::plan(shape, &tiles)?))) {
            Some((tiles, plan)) if plan.cost < cost => {
                let configuration = tiles::configuration(&plan, tiles.registers);
                (in_tiles(plan, tiles.registers)?, Some(configuration))
            }
            _ => {
                let (shape, start, asm) = (shape.clone(), shape.start, Asm::new(wide)?);
                (Leaf { shape, registers, bytes, rows: (1, 0), vectors, tile, start, k: None, asm }, None)
            }
        };
    leaf.blocks()?;
    Ok((leaf.asm.finish()?, configuration))
}

/// The leaf of a plan for tiles. Start values have no stride: they are the same for all rows.
fn in_tiles(plan: tiles::Plan, registers: usize) -> Result<Leaf> {
    let strides = vec![
        (OUT, gpr64::r8, plan.rows.second),
        (A, gpr64::r9, plan.rows.first),
        (B, gpr64::r10, plan.depth.second),
        (INIT, gpr64::r11, 0),
    ];
    Ok(Leaf {
        registers,
        bytes: plan.depth.n * tiles::ROW,
        rows: (plan.rows.n, plan.rows.first),
        vectors: plan.shape.vectors.clone(),
        start: plan.shape.start,
        k: None,
        asm: Asm::tiles(strides)?,
        shape: plan.shape,
        tile: plan.tile,
    })
}

/// One loop of a nest: how often, and how far out, a, b and init move.
type Loop = (usize, [(AsmRegister64, i64); 4]);

fn moves(out: i64, a: i64, b: i64, init: i64) -> [(AsmRegister64, i64); 4] {
    [(OUT, out), (A, a), (B, b), (INIT, init)]
}

fn times(steps: [(AsmRegister64, i64); 4], n: usize) -> [(AsmRegister64, i64); 4] {
    steps.map(|(r, by)| (r, by * n as i64))
}

impl Leaf {
    /// Loops, outermost first; the registers end where they began.
    fn nest(&mut self, loops: &[Loop], body: &mut dyn FnMut(&mut Self) -> Result) -> Result {
        let Some((&(n, steps), inner)) = loops.split_first() else { return body(self) };
        if n == 1 {
            return self.nest(inner, body);
        }
        self.turn(n, steps, &mut |leaf| leaf.nest(inner, body))?;
        self.advance(times(steps, n), -1)
    }

    /// A loop that leaves the registers behind its last turn.
    fn turn(
        &mut self,
        n: usize,
        steps: [(AsmRegister64, i64); 4],
        body: &mut dyn FnMut(&mut Self) -> Result,
    ) -> Result {
        let turns = self.asm.open(n)?;
        body(self)?;
        self.asm.close(turns, &steps)
    }

    fn advance(&mut self, steps: [(AsmRegister64, i64); 4], sign: i64) -> Result {
        steps.iter().try_for_each(|&(r, by)| self.asm.advance(r, sign * by))
    }

    /// All of k, in blocks whose vectors stay in cache while all points pass; the sums wait in the output.
    fn blocks(&mut self) -> Result {
        let (outer, inner) = self.block_k();
        if !outer.is_empty() && self.start != Start::Output {
            self.all_vectors()?;
            self.start = Start::Output;
        }
        self.k = Some(inner);
        let loops: Vec<Loop> = outer.iter().map(|k| (k.n, moves(0, k.first, k.second, 0))).collect();
        self.nest(&loops, &mut |leaf| leaf.all_vectors())
    }

    /// The parts of k around a block, and in it. No parts are around it if nothing is read twice.
    fn block_k(&self) -> (Vec<Axis>, Vec<Axis>) {
        let (mut outer, mut inner) = (vec![], self.shape.k.clone());
        let points = self.shape.points.iter().map(|a| a.n).product::<usize>();
        if points <= size(&self.tile.points) {
            return (outer, inner);
        }
        let run = self.tile.run.map(|r| self.shape.k[r.axis]);
        let step = self.bytes * size(&self.tile.vectors);
        while let Some(&axis) = inner.first() {
            let inside = inner[1..].iter().map(|a| a.n).product::<usize>() * step;
            let keep = (1..=axis.n).rev().find(|t| axis.n % t == 0 && t * inside <= BLOCK).unwrap_or(1);
            // The axis of a run stays whole.
            if keep == axis.n || Some(axis) == run {
                break;
            }
            let n = keep as i64;
            outer.push(Axis { n: axis.n / keep, first: axis.first * n, second: axis.second * n, init: 0 });
            if keep > 1 {
                inner[0].n = keep;
                break;
            }
            inner.remove(0);
        }
        (outer, inner)
    }

    fn all_vectors(&mut self) -> Result {
        let cut = |i: usize| self.tile.vectors.iter().find(|c| c.axis == i).map_or(1, |c| c.n);
        let turns =
            |(i, v): (usize, &Axis)| (v.n / cut(i), times(moves(v.second, 0, v.first, v.init), cut(i)));
        let loops: Vec<Loop> = self.vectors.iter().enumerate().map(turns).collect();
        self.nest(&loops, &mut |leaf| leaf.all_points())
    }

    /// All points, for the vectors at the pointers.
    fn all_points(&mut self) -> Result {
        let along = |a: &Axis| moves(a.second, a.first, 0, a.init);
        let cut = |i: &usize| self.tile.points.iter().any(|c| c.axis == *i);
        let axes = self.shape.points.iter().enumerate();
        let whole: Vec<Loop> = axes.filter(|(i, _)| !cut(i)).map(|(_, a)| (a.n, along(a))).collect();
        let cuts = self.tile.points.clone();
        self.nest(&whole, &mut |leaf| leaf.tiles(&cuts, vec![]))
    }

    /// Tiles along the axes that are cut, `done` of them with their extents already.
    fn tiles(&mut self, cuts: &[Cut], done: Vec<Cut>) -> Result {
        let Some((&cut, inner)) = cuts.split_first() else { return self.one_tile(&done) };
        let axis = self.shape.points[cut.axis];
        let step = moves(axis.second, axis.first, 0, axis.init);
        let with = |n| [done.clone(), vec![Cut { axis: cut.axis, n }]].concat();
        let (full, rest) = (axis.n / cut.n, axis.n % cut.n);
        if rest == 0 {
            return self.nest(&[(full, times(step, cut.n))], &mut |leaf| leaf.tiles(inner, with(cut.n)));
        }
        self.turn(full, times(step, cut.n), &mut |leaf| leaf.tiles(inner, with(cut.n)))?;
        self.tiles(inner, with(rest))?;
        self.advance(times(step, full * cut.n), -1)
    }

    /// One register tile: start, all of k, store.
    fn one_tile(&mut self, points: &[Cut]) -> Result {
        let sums = Sums { points: size(points), vectors: size(&self.tile.vectors) };
        self.start(points, &sums)?;
        if let Some(k) = self.k.clone() {
            self.prefetch_points(points)?;
            let (loops, steps) = self.split_k(k, sums.count());
            self.nest(&loops, &mut |leaf| steps.iter().try_for_each(|&at| leaf.run(points, &sums, at)))?;
        }
        let out = offsets(&self.shape.points, points, |a| a.second);
        let lanes = offsets(&self.vectors, &self.tile.vectors, |a| a.second);
        for (p, to) in out.iter().enumerate() {
            for (v, lane) in lanes.iter().enumerate() {
                self.asm.store(Place { base: OUT, at: to + lane }, sums.register(p, v))?;
            }
        }
        Ok(())
    }

    /// Asks for what the next contraction reads of the points side where this tile lies: it goes on where the
    /// outermost points end, as panels follow each other.
    fn prefetch_points(&mut self, points: &[Cut]) -> Result {
        let (true, Some(outer)) = (self.shape.streams, self.shape.points.first()) else { return Ok(()) };
        let next = outer.n as i64 * outer.first;
        let (rows, apart) = self.rows;
        let points = offsets(&self.shape.points, points, |a| a.first).into_iter();
        let mut lines: Vec<i64> =
            points.flat_map(|at| (0..rows as i64).map(move |row| at + row * apart)).collect();
        lines.sort_unstable();
        lines.dedup_by_key(|at| *at / LINE);
        lines.into_iter().try_for_each(|at| self.asm.prefetch(Place { base: A, at: at + next }))
    }

    fn start(&mut self, points: &[Cut], sums: &Sums) -> Result {
        let shape = &self.shape;
        let out = offsets(&shape.points, points, |a| a.second);
        let lanes = offsets(&self.vectors, &self.tile.vectors, |a| a.second);
        let per_point = offsets(&shape.points, points, |a| a.init);
        let per_vector = offsets(&self.vectors, &self.tile.vectors, |a| a.init);
        for p in 0..sums.points {
            for v in 0..sums.vectors {
                let to = sums.register(p, v);
                let init = |at| Place { base: INIT, at };
                match self.start {
                    Start::Zero => self.asm.zero(to)?,
                    Start::Output => self.asm.load(to, Place { base: OUT, at: out[p] + lanes[v] })?,
                    Start::PerVector if p > 0 && !self.asm.has_tiles() => {
                        self.asm.copy(to, sums.register(0, v))?
                    }
                    Start::PerVector => self.asm.load(to, init(per_vector[v]))?,
                    Start::PerPoint if v > 0 => self.asm.copy(to, sums.register(p, 0))?,
                    Start::PerPoint => self.asm.broadcast(to, init(per_point[p]))?,
                }
            }
        }
        Ok(())
    }

    /// The loops of k, and where (in a, in b) the runs begin that are unrolled inside.
    fn split_k(&self, mut axes: Vec<Axis>, sums: usize) -> (Vec<Loop>, Vec<(i64, i64)>) {
        let mut most = (UNROLLED / sums).max(4);
        if let Some(run) = self.tile.run {
            let axis = axes.iter_mut().find(|a| **a == self.shape.k[run.axis]).expect("a run is not split");
            let n = run.n as i64;
            *axis = Axis { n: axis.n / run.n, first: axis.first * n, second: axis.second * n, init: 0 };
            most = (most / run.n).max(1);
        }
        axes.retain(|a| a.n > 1);
        let (axes, steps) = unrolled(axes, most);
        (axes.iter().map(|k| (k.n, moves(0, k.first, k.second, 0))).collect(), steps)
    }

    /// A run of k from (in a, in b): its vectors in registers, then every word of a with all that it meets.
    fn run(&mut self, points: &[Cut], sums: &Sums, (in_a, in_b): (i64, i64)) -> Result {
        if self.asm.has_tiles() {
            return self.run_in_tiles(points, sums, (in_a, in_b));
        }
        let run = self.tile.run;
        let in_run = offsets(&self.shape.k, run.as_slice(), |a| a.second);
        let lanes = offsets(&self.vectors, &self.tile.vectors, |a| a.first);
        let held = |k: usize, v: usize| sums.count() + k * lanes.len() + v;
        for (k, step) in in_run.iter().enumerate() {
            for (v, lane) in lanes.iter().enumerate() {
                self.asm.load(held(k, v), Place { base: B, at: in_b + step + lane })?;
            }
        }
        let word = held(in_run.len(), 0);
        let spare = self.registers - word;
        for (i, (at, meets)) in self.words(points).iter().enumerate() {
            let word = word + i % spare;
            self.asm.broadcast(word, Place { base: A, at: in_a + at })?;
            for &(p, k) in meets {
                for v in 0..lanes.len() {
                    self.dot(sums.register(p, v), word, held(k, v))?;
                }
            }
        }
        Ok(())
    }

    /// The words of a that points meet in a run, each with the points and steps that it serves.
    fn words(&self, points: &[Cut]) -> BTreeMap<i64, Vec<(usize, usize)>> {
        let mut words: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        let in_run = offsets(&self.shape.k, self.tile.run.as_slice(), |a| a.first);
        for (p, point) in offsets(&self.shape.points, points, |a| a.first).iter().enumerate() {
            for (k, step) in in_run.iter().enumerate() {
                words.entry(point + step).or_default().push((p, k));
            }
        }
        words
    }

    /// A run in tiles: each is loaded before its first use. Registers keep their shapes where there are fewer points.
    fn run_in_tiles(&mut self, points: &[Cut], sums: &Sums, (in_a, in_b): (i64, i64)) -> Result {
        let Form::Dot(signs) = self.shape.form else { return Err("tiles multiply bytes only".into()) };
        let lanes = offsets(&self.vectors, &self.tile.vectors, |a| a.first);
        let in_run = offsets(&self.shape.k, self.tile.run.as_slice(), |a| a.second);
        let first = size(&self.tile.points) * lanes.len();
        let held = |k: usize, v: usize| first + k * lanes.len() + v;
        let word = held(in_run.len(), 0);
        let spare = self.registers - word;
        let words = self.words(points);
        let (mut products, mut places) = (vec![], vec![]);
        for (i, (at, meets)) in words.into_iter().enumerate() {
            places.push(at);
            let all = meets.iter().flat_map(|&(p, k)| (0..lanes.len()).map(move |v| (i, p, k, v)));
            products.extend(all);
        }
        if places.len() <= spare {
            // A product is faster if its second operand is that of the one before.
            products.sort_by_key(|&(i, _, k, v)| (k, v, i));
        }
        let mut loaded = BTreeSet::new();
        for (i, p, k, v) in products {
            let (a, b) = (word + i % spare, held(k, v));
            if loaded.insert((a, i)) {
                self.asm.broadcast(a, Place { base: A, at: in_a + places[i] })?;
            }
            if loaded.insert((b, 0)) {
                self.asm.load(b, Place { base: B, at: in_b + in_run[k] + lanes[v] })?;
            }
            self.asm.dot_tiles(sums.register(p, v), a, b, signs)?;
        }
        Ok(())
    }

    fn dot(&mut self, sum: Vector, point: Vector, lanes: Vector) -> Result {
        match self.shape.form {
            Form::Dot(Signs::Vectors) => self.asm.dot_bytes(sum, point, lanes),
            Form::Dot(Signs::Points) => self.asm.dot_bytes(sum, lanes, point),
            Form::Pairs16 => self.asm.dot_words(sum, point, lanes),
            Form::Saturating(_) | Form::Widened(_) => Err("a target without dot products is not wide".into()),
        }
    }
}

/// Registers of the sums: the first ones.
struct Sums {
    points: usize,
    vectors: usize,
}

impl Sums {
    fn register(&self, point: usize, vector: usize) -> Vector {
        point * self.vectors + vector
    }

    fn count(&self) -> usize {
        self.points * self.vectors
    }
}
