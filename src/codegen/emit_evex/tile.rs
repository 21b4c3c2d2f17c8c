//! Register tiles of wide contractions: which one is the cheapest, by the target's costs.
//!
//! What a register holds, a vector or a matrix, is a [`Machine`]'s affair. A tile is a rectangle of points × some vectors × a run of k steps whose vectors are all in registers. Where the
//! points move through `a` as the run of k does (rows of a convolution), points share their broadcasts: one word of `a`
//! serves every (point, step) that meets it. This is what keeps 16 channels, with one vector only, off the load ports.

use super::super::shape::{Axis, Shape};
use crate::targets::Wide;

/// A part of an axis: which one, and how many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) axis: usize,
    pub(super) n: usize,
}

/// The choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Up to two axes of the points, the inner one last. What does not divide is done by smaller tiles.
    pub(super) points: Vec<Cut>,
    /// Up to two axes of the vectors; they divide.
    pub(super) vectors: Vec<Cut>,
    /// The axis of k whose steps are held in registers; it divides.
    pub(super) run: Option<Cut>,
}

/// Cycles around a tile that are not dot products: loop and pointers.
pub(super) const AROUND: usize = 12;
/// Longest run of k.
const LONGEST_RUN: usize = 4;
/// Fractions of a cycle in which costs are counted.
pub(super) const CYCLE: usize = 60;

/// What is computed with one load of the vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) points: usize,
    pub(super) vectors: usize,
    /// Distinct words of `a`.
    pub(super) words: usize,
    /// Steps of k.
    pub(super) run: usize,
}

/// Registers to choose a tile for.
pub(super) trait Machine {
    /// How many there are.
    fn registers(&self) -> usize;
    /// Cost of a tile over all `steps` of k, in fractions of a cycle; not less with more words.
    fn cost(&self, part: Part, steps: usize) -> usize;
}

impl Machine for Wide {
    fn registers(&self) -> usize {
        self.registers
    }

    fn cost(&self, Part { points, vectors, words, run }: Part, steps: usize) -> usize {
        let costs = &self.costs;
        let dots = CYCLE * points * vectors * run / costs.dots_per_cycle;
        let loads = CYCLE * (words + run * vectors) / costs.loads_per_cycle;
        let chain = CYCLE * run * costs.latency;
        // Loads and dots overlap well but not wholly; of equals the one with fewer loads wins.
        let of_run = dots.max(loads).max(chain) + loads / 8;
        steps / run * of_run + CYCLE * (points * vectors * 3 / 2 + AROUND)
    }
}

/// Every way to cut one axis or two of `axes`, at most `most` in all; `divides` keeps exact cuts only.
fn cuts(axes: &[Axis], most: usize, divides: bool) -> Vec<Vec<Cut>> {
    let sizes = |a: &Axis| {
        let n = a.n;
        (1..=n.min(most)).filter(move |s| !divides || n.is_multiple_of(*s)).collect::<Vec<_>>()
    };
    let mut out = vec![vec![]];
    for (i, a) in axes.iter().enumerate() {
        out.extend(sizes(a).into_iter().filter(|&n| n > 1).map(|n| vec![Cut { axis: i, n }]));
        for (j, b) in axes.iter().enumerate().skip(i + 1) {
            for n in sizes(a).into_iter().filter(|&n| n > 1) {
                for m in sizes(b).into_iter().filter(|&m| m > 1 && n * m <= most) {
                    out.push(vec![Cut { axis: i, n }, Cut { axis: j, n: m }]);
                }
            }
        }
    }
    out
}

/// How many points, vectors or steps a list of cuts holds.
pub(super) fn size(cuts: &[Cut]) -> usize {
    cuts.iter().map(|c| c.n).product()
}

/// The tile with the least work, remainders included, and that work.
pub(super) fn choose(shape: &Shape, vectors: &[Axis], machine: &dyn Machine) -> (usize, Tile) {
    let runs = std::iter::once(None).chain(shape.k.iter().enumerate().flat_map(|(axis, k)| {
        let longest = LONGEST_RUN.min(k.n);
        (2..=longest).filter(|n| k.n % n == 0).map(move |n| Some(Cut { axis, n }))
    }));
    let runs: Vec<_> = runs.collect();
    let most = machine.registers() - 2;
    let mut tiles = vec![];
    for vectors_cut in cuts(vectors, most, true) {
        let v = size(&vectors_cut);
        for points_cut in cuts(&shape.points, most / v, false) {
            for &run in &runs {
                let held = v * run.map_or(1, |r| r.n);
                if size(&points_cut) * v + held < machine.registers() {
                    tiles.push(Tile { points: points_cut.clone(), vectors: vectors_cut.clone(), run });
                }
            }
        }
    }
    // Large tiles first: they are good, and most others are then found worse without counting their words.
    tiles.sort_by_key(|t| std::cmp::Reverse(size(&t.points) * size(&t.vectors)));
    let mut best = (usize::MAX, Tile { points: vec![], vectors: vec![], run: None });
    for tile in tiles {
        let least = |points: &[Cut], _: Option<Cut>| size(points);
        if work(shape, vectors, machine, &tile, &least) < best.0 {
            let words = |points: &[Cut], run| words(shape, points, run);
            let work = work(shape, vectors, machine, &tile, &words);
            if work < best.0 {
                best = (work, tile);
            }
        }
    }
    best
}

/// How many words of `a` some points meet in a run.
type Words<'a> = &'a dyn Fn(&[Cut], Option<Cut>) -> usize;

/// Cost of the whole contraction.
fn work(shape: &Shape, vectors: &[Axis], machine: &dyn Machine, tile: &Tile, words: Words) -> usize {
    let v = size(&tile.vectors);
    let turns = vectors.iter().map(|a| a.n).product::<usize>() / v;
    let steps: usize = shape.k.iter().map(|k| k.n).product();
    let cut = |i: usize| tile.points.iter().any(|c| c.axis == i);
    let others = shape.points.iter().enumerate().filter(|&(i, _)| !cut(i)).map(|(_, a)| a.n);
    let of_class = |(times, points): &(usize, Vec<Cut>)| {
        let words = words(points, tile.run);
        let run = tile.run.map_or(1, |r| r.n);
        times * machine.cost(Part { points: size(points), vectors: v, words, run }, steps)
    };
    turns * others.product::<usize>() * classes(shape, &tile.points).iter().map(of_class).sum::<usize>()
}

/// Full and remaining extents of each cut axis, in all combinations, and how often there are such tiles.
fn classes(shape: &Shape, cuts: &[Cut]) -> Vec<(usize, Vec<Cut>)> {
    let mut out = vec![(1, vec![])];
    for cut in cuts {
        let n = shape.points[cut.axis].n;
        let parts = [(n / cut.n, cut.n), (1, n % cut.n)].into_iter().filter(|p| p.0 > 0 && p.1 > 0);
        let with = |(times, part): (usize, usize), (all, done): &(usize, Vec<Cut>)| {
            (all * times, [&done[..], &[Cut { axis: cut.axis, n: part }]].concat())
        };
        out = parts.flat_map(|p| out.iter().map(move |class| with(p, class)).collect::<Vec<_>>()).collect();
    }
    out
}

/// Offsets in `a` of the points of a tile, in bytes.
pub(super) fn offsets(axes: &[Axis], cuts: &[Cut], stride: fn(&Axis) -> i64) -> Vec<i64> {
    let mut out = vec![0];
    for cut in cuts {
        let step = stride(&axes[cut.axis]);
        out = out.iter().flat_map(|&o| (0..cut.n as i64).map(move |i| o + i * step)).collect();
    }
    out
}

/// The distinct words of `a` that a tile meets in one run.
fn words(shape: &Shape, points: &[Cut], run: Option<Cut>) -> usize {
    let run = offsets(&shape.k, run.as_slice(), |a| a.first);
    let points = offsets(&shape.points, points, |a| a.first);
    let mut words: Vec<i64> = points.iter().flat_map(|p| run.iter().map(move |k| p + k)).collect();
    words.sort_unstable();
    words.dedup();
    words.len()
}
