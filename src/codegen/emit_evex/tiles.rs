//! Contractions in tiles (AMX): which part of a shape becomes a matrix, and what it costs.
//!
//! Some points of one axis are the rows of a tile of `a`, and as many groups of k as lie side by side in `a` fill them;
//! the same groups are the rows of a tile of `b`, one vector of 16 lanes wide. What remains is a contraction over tiles
//! in place of vectors, with a nest and a choice of registers as any other. Extents divide exactly: a tile reads and
//! writes what its contraction does and nothing else. Where that leaves tiles too small, vectors are cheaper.

use super::super::shape::{Axis, Form, Shape, Start};
use super::asm::{Result, failed};
use super::tile::{AROUND, CYCLE, Machine, Part, Tile, choose, size};
use crate::targets::Tiles;
use iced_x86::code_asm::{CodeAssembler, ptr};

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
        // The last products, and the stores that wait for them, overlap little with the next tile.
        let around = points * vectors * (self.rows + self.rows / loads_per_cycle) + AROUND + 2 * self.rows;
        steps / run * (products.max(loads) + waits) + CYCLE * around
    }
}

/// What each register holds, as the instruction that says so reads it.
pub(in crate::codegen) type Configuration = [u8; 64];

/// The bytes of a function that configures the tiles.
pub(in crate::codegen) fn configure(configuration: &Configuration) -> Result<Vec<u8>> {
    let assembled = || {
        let mut code = CodeAssembler::new(64)?;
        let mut label = code.create_label();
        code.ldtilecfg(ptr(label))?;
        code.ret()?;
        code.set_label(&mut label)?;
        code.db(configuration)?;
        code.assemble(0)
    };
    assembled().map_err(failed)
}

/// The bytes of a function that gives the tiles back.
pub(in crate::codegen) fn release() -> Result<Vec<u8>> {
    let assembled = || {
        let mut code = CodeAssembler::new(64)?;
        code.tilerelease()?;
        code.ret()?;
        code.assemble(0)
    };
    assembled().map_err(failed)
}

/// The configuration of a plan.
pub(super) fn configuration(plan: &Plan, registers: usize) -> Configuration {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::super::shape::Signs;
    use super::*;
    use crate::targets;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
    use std::collections::{BTreeMap, BTreeSet};

    /// All bytes that blocks of so many bytes touch when they move along axes.
    fn touched(axes: &[Axis], stride: fn(&Axis) -> i64, bytes: i64) -> BTreeSet<i64> {
        let mut starts = BTreeSet::from([0]);
        for axis in axes {
            let along = |start: i64| (0..axis.n as i64).map(move |i| start + i * stride(axis));
            starts = starts.into_iter().flat_map(along).collect();
        }
        starts.into_iter().flat_map(|start| start..start + bytes).collect()
    }

    fn first(axis: &Axis) -> i64 {
        axis.first
    }

    fn second(axis: &Axis) -> i64 {
        axis.second
    }

    fn axis(n: usize, first: i64, second: i64) -> Axis {
        Axis { n, first, second, init: 0 }
    }

    /// Layers forward, a weight gradient, a flat one; with extents that are no multiples of a tile.
    fn shapes() -> Vec<Shape> {
        let shape = |points: &[Axis], vectors: &[Axis], k: &[Axis]| Shape {
            form: Form::Dot(Signs::Vectors),
            start: Start::Zero,
            points: points.to_vec(),
            vectors: vectors.to_vec(),
            k: k.to_vec(),
            streams: false,
        };
        let forward = |w: usize, c: i64| {
            let (row, groups) = ((w as i64 + 2) * c, 3 * c as usize / 4);
            let points = [axis(6, row, 64 * w as i64 * c / 16), axis(w, c, 4 * c)];
            let k = [axis(3, row, 64 * groups as i64), axis(groups, 4, 64)];
            shape(&points, &[axis(c as usize / 16, 3 * 64 * groups as i64, 64)], &k)
        };
        let planes = [axis(24, 36 * 34, 9 * 128), axis(3, 36, 3 * 128), axis(3, 1, 128)];
        let rows = [axis(32, 36, 8 * 128), axis(8, 4, 128)];
        let flat = shape(&[axis(60, -80, 256)], &[axis(4, 64, 64)], &[axis(20, 4, 256)]);
        let layers = [forward(32, 16), forward(28, 16), forward(14, 32), forward(8, 64)];
        layers.into_iter().chain([shape(&planes, &[axis(2, 64, 64)], &rows), flat]).collect()
    }

    #[test]
    fn registers_have_the_shapes_that_a_plan_uses() {
        let tiles = targets::by_name("x86_64_amx").unwrap().wide.unwrap().tiles.unwrap();
        for shape in shapes() {
            let plan = plan(&shape, &tiles).unwrap();
            let bytes = configuration(&plan, tiles.registers);
            let registers: Vec<(u8, u8)> = (0..8).map(|i| (bytes[48 + i], bytes[16 + 2 * i])).collect();
            let (rows, depth) = (plan.rows.n as u8, plan.depth.n as u8);
            let [sum, a, b] = [(rows, 64), (rows, 4 * depth), (depth, 64)];
            assert!(registers.iter().all(|r| [sum, a, b].contains(r)), "{registers:?}");
            assert_eq!((registers[0], registers[7]), (sum, a));
            assert!(rows <= 16 && depth <= 16 && bytes[0] == 1);
        }
    }

    /// Far apart: where the output, both sides and the start values lie when a leaf is followed.
    const BASES: [i64; 4] = [1 << 40, 2 << 40, 3 << 40, 4 << 40];

    /// Runs the emitted bytes of a leaf as far as addresses go: every byte that it reads, and that it writes.
    fn followed(code: &[u8], shapes: &Configuration) -> (BTreeSet<i64>, BTreeSet<i64>) {
        let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
        let arguments = [Register::RDI, Register::RSI, Register::RDX, Register::RCX];
        let mut registers: BTreeMap<Register, i64> = arguments.into_iter().zip(BASES).collect();
        let (mut slots, mut zero, mut at) = (BTreeMap::new(), false, 0);
        let shape = |tile: Register| {
            let tile = tile as usize - Register::TMM0 as usize;
            (shapes[48 + tile] as i64, shapes[16 + 2 * tile] as i64)
        };
        loop {
            let one = Decoder::with_ip(64, &code[at..], at as u64, DecoderOptions::NONE).decode();
            at += one.len();
            let (slot, value) = (one.memory_displacement64(), || one.immediate(1) as i64);
            match one.mnemonic() {
                Mnemonic::Mov if one.op0_kind() == OpKind::Memory => drop(slots.insert(slot, value())),
                Mnemonic::Mov => drop(registers.insert(one.op0_register(), value())),
                Mnemonic::Add => *registers.get_mut(&one.op0_register()).unwrap() += value(),
                Mnemonic::Dec => {
                    let turns: &mut i64 = slots.get_mut(&slot).unwrap();
                    *turns -= 1;
                    zero = *turns == 0;
                }
                Mnemonic::Jne if !zero => at = one.near_branch_target() as usize,
                Mnemonic::Tileloadd | Mnemonic::Tilestored => {
                    let load = one.mnemonic() == Mnemonic::Tileloadd;
                    let (rows, columns) = shape(one.op_register(if load { 0 } else { 1 }));
                    let start = registers[&one.memory_base()] + slot as i64;
                    let touched = if load { &mut read } else { &mut written };
                    for row in (0..rows).map(|row| start + row * registers[&one.memory_index()]) {
                        touched.extend(row..row + columns);
                    }
                }
                Mnemonic::Tdpbusd => {
                    let [sum, a, b] = [0, 1, 2].map(|i| shape(one.op_register(i)));
                    assert_eq!((sum.0, sum.1, a.1), (a.0, b.1, 4 * b.0), "shapes that do not multiply");
                }
                Mnemonic::Ret => return (read, written),
                Mnemonic::Jne | Mnemonic::Tilezero | Mnemonic::Prefetcht1 => {}
                other => panic!("a leaf in tiles has no {other:?}"),
            }
        }
    }

    #[test]
    fn emitted_leaves_touch_the_bytes_of_their_shapes() {
        let wide = targets::by_name("x86_64_amx").unwrap().wide.unwrap();
        for (shape, start) in shapes().into_iter().zip([Start::Zero, Start::Output].into_iter().cycle()) {
            let shape = Shape { start, streams: true, ..shape };
            let (code, shapes) = super::super::contract(&shape, &wide).unwrap();
            let (read, written) = followed(&code, &shapes.expect("it is cheaper in tiles"));
            let of = |base: i64| -> BTreeSet<i64> {
                read.iter().map(|at| at - base).filter(|at| at.abs() < 1 << 39).collect()
            };
            let flipped = shape.k.iter().map(|k| Axis { first: k.second, ..*k });
            let b: Vec<Axis> = shape.vectors.iter().copied().chain(flipped).collect();
            let [points, k] = [&shape.points[..], &shape.k];
            let out = touched(&[points, &shape.vectors].concat(), second, 64);
            let at_out: BTreeSet<i64> = out.iter().map(|at| at + BASES[0]).collect();
            assert!(written == at_out, "the output");
            // Sums over parts of k wait in the output, too.
            let again = of(BASES[0]);
            assert!(again.is_subset(&out) && (start == Start::Zero || again == out), "the output, read");
            assert!(of(BASES[1]) == touched(&[points, k].concat(), first, GROUP), "the points' side");
            assert!(of(BASES[2]) == touched(&b, first, 64), "the vectors' side");
        }
    }
}
