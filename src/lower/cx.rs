//! What every part of lowering shares: the program under construction, kernels bound to buffers, and coordinates.
//!
//! Buffers are made here so that every range in the program has one origin. Nothing here knows an op.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use super::initial::Start;
use crate::kernel::build::{KernelBuilder, ProgramBuilder};
use crate::kernel::{
    Access, Address, Buffer, BufferId, DType, Index, Kind, LANES, Param, Program, Range, Value,
};
use crate::numbers;

/// Sums of values below 2^16 over fewer than 2^31 positions.
pub(super) const SUM: Range = Range::new(-(1 << 47), 1 << 47);
/// Sums of products below 2^30 over fewer than 2^31 positions.
pub(super) const DOT: Range = Range::new(-(1 << 61), 1 << 61);
/// What one of so many items adds to such a sum.
pub(super) const fn share(of: Range, items: u32) -> Range {
    Range::new(of.lo / items as i64, of.hi / items as i64)
}
/// Symmetric 16-bit codes: −32768 is excluded so that two squares fit 31 bits.
pub(super) const WIDE: Range = Range::new(-32767, 32767);
/// Dyadics carry no integer range.
pub(super) const ANY: Range = Range::new(i64::MIN, i64::MAX);
/// Shift amounts and exponents.
pub(super) const SHIFT: Range = Range::new(0, 31);

/// Initial contents of the buffers that survive steps, by name.
pub type Initial = BTreeMap<String, Start>;

/// The program under construction.
pub(super) struct Cx {
    pub(super) program: ProgramBuilder,
    pub(super) initial: Initial,
    /// Buffers that programs share, by name.
    named: BTreeMap<String, BufferId>,
    /// Buffers that some call writes.
    written: BTreeSet<BufferId>,
}

impl Cx {
    pub(super) fn new() -> Cx {
        Cx {
            program: ProgramBuilder::new(),
            initial: Initial::new(),
            named: BTreeMap::new(),
            written: BTreeSet::new(),
        }
    }

    pub(super) fn finish(self) -> (Program, Initial) {
        (self.program.finish(), self.initial)
    }

    /// A buffer within one step.
    pub(super) fn temp(&mut self, name: String, dtype: DType, extents: &[u32], range: Range) -> BufferId {
        self.buffer(name, dtype, extents, range, Kind::Temp)
    }

    /// Dyadics within one step.
    pub(super) fn dyadics(&mut self, name: String, n: u32) -> BufferId {
        self.temp(name, DType::Dyadic, &[n], ANY)
    }

    /// A buffer that survives steps and is part of checkpoints; the same name gives the same buffer.
    pub(super) fn state(
        &mut self,
        name: String,
        dtype: DType,
        extents: &[u32],
        range: Range,
        initial: Start,
    ) -> BufferId {
        self.lasting(name, dtype, extents, range, Kind::State, initial)
    }

    /// Integers that survive steps and are no part of checkpoints, with what they start from.
    pub(super) fn persistent(&mut self, name: String, start: &[i64], range: Range) -> BufferId {
        let extents = [start.len() as u32];
        self.lasting(name, DType::I64, &extents, range, Kind::Persistent, Start::Values(start.to_vec()))
    }

    fn lasting(
        &mut self,
        name: String,
        dtype: DType,
        extents: &[u32],
        range: Range,
        kind: Kind,
        initial: Start,
    ) -> BufferId {
        if let Some(&id) = self.named.get(&name) {
            return id;
        }
        let id = self.buffer(name.clone(), dtype, extents, range, kind);
        self.named.insert(name.clone(), id);
        self.initial.insert(name, initial);
        id
    }

    /// A constant table.
    pub(super) fn table(&mut self, name: String, dtype: DType, values: Vec<i64>) -> BufferId {
        if let Some(&id) = self.named.get(&name) {
            return id;
        }
        let (lo, hi) = values.iter().fold((i64::MAX, i64::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let range = if dtype == DType::Dyadic { ANY } else { Range::new(lo, hi) };
        let id = self.buffer(name.clone(), dtype, &[values.len() as u32], range, Kind::Const(values));
        self.named.insert(name, id);
        id
    }

    /// A buffer of any kind.
    pub(super) fn buffer(
        &mut self,
        name: String,
        dtype: DType,
        extents: &[u32],
        range: Range,
        kind: Kind,
    ) -> BufferId {
        self.program.buffer(Buffer { name, dtype, extents: extents.to_vec(), range, kind })
    }

    /// Appends a call of a new kernel with `items` items.
    pub(super) fn call(&mut self, name: &str, items: u32, body: impl FnOnce(&mut Kx)) {
        let kb = KernelBuilder::new(name, items);
        let mut kx = Kx { kb, program: &self.program, written: &self.written, params: vec![] };
        body(&mut kx);
        let args = kx.params.iter().map(|&(buffer, _, _)| buffer).collect();
        let written: Vec<BufferId> =
            kx.params.iter().filter(|p| p.2 != Access::Read).map(|&(buffer, _, _)| buffer).collect();
        let kernel = kx.kb.finish();
        self.written.extend(written);
        self.program.call(kernel, args);
    }
}

/// A kernel under construction, with its parameters bound to buffers.
pub(super) struct Kx<'a> {
    kb: KernelBuilder,
    program: &'a ProgramBuilder,
    written: &'a BTreeSet<BufferId>,
    params: Vec<(BufferId, Param, Access)>,
}

impl Deref for Kx<'_> {
    type Target = KernelBuilder;
    fn deref(&self) -> &KernelBuilder {
        &self.kb
    }
}

impl DerefMut for Kx<'_> {
    fn deref_mut(&mut self) -> &mut KernelBuilder {
        &mut self.kb
    }
}

impl Kx<'_> {
    /// The parameter for a buffer that this kernel only reads.
    pub(super) fn read(&mut self, buffer: BufferId) -> Param {
        self.bind(buffer, Access::Read)
    }

    /// The parameter for a buffer whose former contents do not matter.
    pub(super) fn write(&mut self, buffer: BufferId) -> Param {
        self.bind(buffer, Access::Write)
    }

    /// The parameter for a buffer that is read and written.
    pub(super) fn update(&mut self, buffer: BufferId) -> Param {
        self.bind(buffer, Access::ReadWrite)
    }

    fn bind(&mut self, buffer: BufferId, wanted: Access) -> Param {
        // Before its first call writes it, a buffer of one step holds nothing to update.
        let fresh = matches!(self.program.get(buffer).kind, Kind::Temp | Kind::Output)
            && !self.written.contains(&buffer);
        let wanted = if fresh && wanted == Access::ReadWrite { Access::Write } else { wanted };
        if let Some(at) = self.params.iter().position(|p| p.0 == buffer) {
            let (_, param, known) = self.params[at];
            let access = match (known, wanted) {
                (Access::Read, Access::Read) => Access::Read,
                (Access::Read, _) if fresh => Access::Write,
                (Access::Read, _) | (_, Access::ReadWrite) => Access::ReadWrite,
                (known, _) => known,
            };
            self.kb.set_access(param, access);
            self.params[at].2 = access;
            return param;
        }
        let param = self.kb.param_of(self.program.get(buffer), wanted);
        self.params.push((buffer, param, wanted));
        param
    }

    /// The buffer behind an id.
    pub(super) fn info(&self, buffer: BufferId) -> &Buffer {
        self.program.get(buffer)
    }

    /// `for index in 0..count`.
    pub(super) fn for_(&mut self, count: u32, body: impl FnOnce(&mut Self, Index)) {
        let index = self.kb.open_loop();
        body(self, index);
        self.kb.close_loop(index, count);
    }

    /// Writes `value` to `n` elements of a scalar buffer from `at`.
    pub(super) fn fill(&mut self, at: Address, n: u32, value: i64) {
        let v = self.int(value);
        self.for_(n, |kx, i| kx.store(at.plus(i, 1), v));
    }

    /// Element 0 of a one-element buffer.
    pub(super) fn scalar(&mut self, buffer: BufferId) -> Value {
        let p = self.read(buffer);
        self.load_scalar(p.at(0))
    }

    /// A compile-time real number as constant dyadic.
    pub(super) fn real(&mut self, x: f64) -> Value {
        let d = numbers::dyadic(x);
        self.dyadic(d.m, d.e)
    }

    /// Element `index` of a dyadic buffer that holds one for all channels, or one each.
    pub(super) fn per_channel(&mut self, buffer: BufferId, index: Index) -> Value {
        let stride = (self.info(buffer).len() > 1) as i64;
        let p = self.read(buffer);
        self.load_scalar(p.at(0).plus(index, stride))
    }
}

/// A coordinate: `Σ index·multiple + offset`.
#[derive(Clone, Debug, Default)]
pub(super) struct Coord {
    pub(super) terms: Vec<(Index, i64)>,
    pub(super) offset: i64,
}

impl Coord {
    pub(super) fn index(index: Index) -> Coord {
        Coord { terms: vec![(index, 1)], offset: 0 }
    }

    pub(super) fn plus(mut self, index: Index, multiple: i64) -> Coord {
        self.terms.push((index, multiple));
        self
    }

    pub(super) fn offset(mut self, by: i64) -> Coord {
        self.offset += by;
        self
    }

    /// `at + self·stride`.
    pub(super) fn address(&self, at: Address, stride: i64) -> Address {
        let at = at.offset(self.offset * stride);
        self.terms.iter().fold(at, |at, &(index, multiple)| at.plus(index, multiple * stride))
    }
}

/// A place in an image tensor: image, row, column, and block of 16 channels.
#[derive(Clone, Debug, Default)]
pub(super) struct At {
    pub(super) n: Coord,
    pub(super) y: Coord,
    pub(super) x: Coord,
    pub(super) block: Coord,
}

/// Extents of an image tensor; a vector is an image of one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) n: u32,
    pub(super) h: u32,
    pub(super) w: u32,
    pub(super) c: u32,
}

impl Shape {
    /// Channels rounded up to whole blocks.
    pub(super) fn cp(self) -> u32 {
        self.c.next_multiple_of(LANES as u32)
    }

    /// Blocks of 16 channels.
    pub(super) fn blocks(self) -> u32 {
        self.cp() / LANES as u32
    }

    /// Elements of a channel.
    pub(super) fn positions(self) -> i64 {
        self.n as i64 * self.h as i64 * self.w as i64
    }

    /// Images are shared out to at most 32 items: enough for many threads, few enough for cheap partial sums.
    pub(super) fn items(self) -> u32 {
        (1..=32.min(self.n)).rev().find(|&i| self.n.is_multiple_of(i)).unwrap_or(1)
    }

    /// Extents of a dense tensor of this shape.
    pub(super) fn extents(self) -> [u32; 4] {
        [self.n, self.h, self.w, self.cp()]
    }
}
