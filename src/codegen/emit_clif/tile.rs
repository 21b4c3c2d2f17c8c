//! Register tiles of contractions: which one is the cheapest, by the target's costs.

use super::super::shape::{Axis, Form, Shape};
use crate::targets::Target;

/// A choice of tile: along which axis of the points, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Which axis of the points is cut.
    pub(super) axis: usize,
    /// Points.
    pub(super) points: usize,
    /// Units of the vectors side.
    pub(super) units: usize,
}

impl Form {
    /// Units of a block of 16 lanes: as many as accumulators for one point.
    pub(super) fn units(self) -> usize {
        if matches!(self, Form::Widened(_)) { 8 } else { 4 }
    }

    /// Registers that a tile of that many points needs beside its accumulators: broadcasts and temporaries.
    fn others(self, points: usize) -> usize {
        match self {
            Form::Dot(_) => points + 1,
            Form::Pairs16 => points + 2,
            Form::Saturating(_) => points + 3,
            // Two steps at a time.
            Form::Widened(_) => 2 * points + 2,
        }
    }
}

/// The tile with the least work, remainders included.
pub(super) fn choose(shape: &Shape, target: &Target) -> Tile {
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
                if points * size + shape.form.others(points) > target.registers {
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
