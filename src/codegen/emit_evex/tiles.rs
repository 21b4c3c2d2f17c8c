//! Contractions in tiles (AMX): which part of a shape becomes a matrix, and what it costs.
//!
//! Some points of one axis are the rows of a tile of `a`, and as many groups of k as lie side by side in `a` fill them;
//! the same groups are the rows of a tile of `b`, one vector of 16 lanes wide. What remains is a contraction over tiles
//! in place of vectors, with a nest and a choice of registers as any other. Extents divide exactly: a tile reads and
//! writes what its contraction does and nothing else. Where that leaves tiles too small, vectors are cheaper.

use super::super::shape::{Axis, Form, Shape, Start};
use super::tile::{AROUND, CYCLE, Machine, Part, Tile, choose, size};
use crate::targets::Tiles;

/// Bytes of a row.
pub(super) const ROW: usize = 64;
/// Bytes of a group of k.
const GROUP: i64 = 4;

/// A contraction in tiles.
pub(super) struct Plan {
    /// The shape with whole tiles in place of points and groups of k.
    pub(super) shape: Shape,
    /// Which tiles are in registers together.
    pub(super) tile: Tile,
    /// What all of it costs, as [`Machine`] counts.
    pub(super) cost: usize,
    /// The points of a tile.
    pub(super) rows: Axis,
    /// The groups of k of a tile.
    pub(super) depth: Axis,
}

/// The best plan for a shape, or nothing where tiles do not fit.
pub(super) fn plan(shape: &Shape, tiles: &Tiles) -> Option<Plan> {
    if !matches!(shape.form, Form::Dot(_)) || shape.start == Start::PerPoint {
        return None;
    }
    let depths: Vec<(usize, Axis)> = parts(&shape.k, tiles.rows).filter(|(_, k)| k.first == GROUP).collect();
    parts(&shape.points, tiles.rows)
        .flat_map(|rows| depths.iter().map(move |&depth| (rows, depth)))
        .map(|(rows, depth)| {
            let shape = in_tiles(shape, rows, depth);
            let unit = Unit::new(&shape, tiles, &rows.1, &depth.1);
            let (work, tile) = choose(&shape, &shape.vectors, &unit);
            Plan { shape, tile, cost: work + CYCLE * tiles.configure, rows: rows.1, depth: depth.1 }
        })
        .min_by_key(|plan| plan.cost)
}

/// Each axis cut short, in every way that divides it, and which one it is.
fn parts(axes: &[Axis], most: usize) -> impl Iterator<Item = (usize, Axis)> {
    axes.iter().enumerate().flat_map(move |(i, axis)| {
        let sizes = (2..=axis.n.min(most)).filter(|n| axis.n.is_multiple_of(*n));
        sizes.map(move |n| (i, Axis { n, ..*axis }))
    })
}

/// The shape whose steps along two axes are tiles.
fn in_tiles(shape: &Shape, rows: (usize, Axis), depth: (usize, Axis)) -> Shape {
    let mut shape = shape.clone();
    for (axes, (i, part)) in [(&mut shape.points, rows), (&mut shape.k, depth)] {
        let n = part.n as i64;
        axes[i] = Axis {
            n: axes[i].n / part.n,
            first: part.first * n,
            second: part.second * n,
            init: part.init * n,
        };
    }
    shape
}

/// One tile in each register: the machine by which they are chosen.
struct Unit<'a> {
    tiles: &'a Tiles,
    rows: usize,
    /// Costs of loading a tile of each side.
    load_a: usize,
    load_b: usize,
}

impl Unit<'_> {
    fn new<'a>(shape: &Shape, tiles: &'a Tiles, rows: &Axis, depth: &Axis) -> Unit<'a> {
        // Rows begin at multiples of this in a cache line.
        let along = shape.points.iter().chain(&shape.k).chain([rows]).filter(|a| a.n > 1).map(|a| a.first);
        let grain = along.fold(ROW as i64, gcd) as usize;
        let crossing = (depth.n * GROUP as usize).saturating_sub(grain) * CYCLE / ROW;
        Unit {
            tiles,
            rows: rows.n,
            load_a: rows.n * (CYCLE / tiles.loads_per_cycle + crossing * tiles.crossing),
            load_b: depth.n * CYCLE / tiles.loads_per_cycle,
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

impl Machine for Unit<'_> {
    fn registers(&self) -> usize {
        self.tiles.registers
    }

    fn cost(&self, Part { points, vectors, words, run }: Part, steps: usize) -> usize {
        let Tiles { registers, product, new_product, loads_per_cycle, .. } = *self.tiles;
        let spare = registers - points * vectors - vectors * run;
        let (again, anew) = (product.max(self.rows), new_product.max(self.rows));
        // Products follow each other by their second operand where all words are in registers.
        let of_operand = if words <= spare { anew + (points - 1) * again } else { points * anew };
        let products = CYCLE * vectors * run * of_operand;
        let loads = words * self.load_a + run * vectors * self.load_b;
        // With one register for words, a load waits for the products of the one before.
        let waits = if spare == 1 { loads / 2 } else { loads / 8 };
        let around = points * vectors * (self.rows + self.rows / loads_per_cycle) + AROUND;
        steps / run * (products.max(loads) + waits) + CYCLE * around
    }
}

/// What each register holds, as the instruction that says so reads it.
pub(super) fn configuration(plan: &Plan, registers: usize) -> [u8; 64] {
    let vectors = size(&plan.tile.vectors);
    let sums = size(&plan.tile.points) * vectors;
    let held = vectors * plan.tile.run.map_or(1, |r| r.n);
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for register in 0..registers {
        let (rows, columns) = match register {
            r if r < sums => (plan.rows.n, ROW),
            r if r < sums + held => (plan.depth.n, ROW),
            _ => (plan.rows.n, plan.depth.n * GROUP as usize),
        };
        bytes[16 + 2 * register] = columns as u8;
        bytes[48 + register] = rows as u8;
    }
    bytes
}
