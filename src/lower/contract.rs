//! Convolutions as contractions: forward and data gradient, for any kernel, stride and padding.
//!
//! A linear layer is a convolution whose kernel covers the whole image, so there is one kind of contraction. The points
//! side reads codes in NHWC with a border; the vectors side reads packed weights.

use super::codes::{Codes, GradientCodes, Zero};
use super::cx::{Coord, Cx, Kx, Shape};
use super::depthwise::Depthwise;
use super::weights::Weights;
use crate::diag::Diagnostic;
use crate::kernel::{BufferId, Contract, DType, Dim, Dot, Init, Range};

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conv {
    pub(super) input: Shape,
    pub(super) output: Shape,
    pub(super) kernel: (u32, u32),
    pub(super) stride: u32,
    pub(super) padding: u32,
    /// Whether the kernel covers the whole input: a linear layer.
    pub(super) whole: bool,
    /// Whether each output channel reads its own input channel only.
    pub(super) depthwise: bool,
}

impl Conv {
    pub(super) fn taps(&self) -> u32 {
        self.kernel.0 * self.kernel.1
    }

    /// Input channels that an output channel reads.
    pub(super) fn depth(&self) -> u32 {
        if self.depthwise { 1 } else { self.input.c }
    }

    /// Groups of four input channels.
    pub(super) fn in_groups(&self) -> u32 {
        self.input.c.div_ceil(4)
    }

    /// Groups of four output channels.
    pub(super) fn out_groups(&self) -> u32 {
        self.output.c.div_ceil(4)
    }

    /// Border of the gradient that the data gradient visits: (top, bottom, left, right).
    pub(super) fn gradient_border(&self) -> (u32, u32, u32, u32) {
        if self.whole {
            return (0, 0, 0, 0);
        }
        let axis = |extent: u32, kernel: u32, out: u32| {
            let (mut low, mut high) = (0i64, 0i64);
            for parity in Parity::all(self.stride, self.padding, kernel) {
                if parity.taps == 0 || parity.start >= extent {
                    continue;
                }
                let last = ((extent - 1 - parity.start) / self.stride) as i64;
                low = low.min(parity.first - (parity.taps as i64 - 1));
                high = high.max(last + parity.first - (out as i64 - 1));
            }
            (-low as u32, high as u32)
        };
        let (top, bottom) = axis(self.input.h, self.kernel.0, self.output.h);
        let (left, right) = axis(self.input.w, self.kernel.1, self.output.w);
        (top, bottom, left, right)
    }
}

/// Input positions `stride·j + start` of one axis: they meet the taps `tap + stride·i` at the outputs `j + first − i`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parity {
    pub(super) start: u32,
    pub(super) tap: u32,
    pub(super) taps: u32,
    pub(super) first: i64,
}

impl Parity {
    pub(super) fn all(stride: u32, padding: u32, kernel: u32) -> impl Iterator<Item = Parity> {
        (0..stride).map(move |start| {
            let tap = (start + padding) % stride;
            let taps = kernel.saturating_sub(tap).div_ceil(stride);
            Parity { start, tap, taps, first: ((start + padding - tap) / stride) as i64 }
        })
    }

    /// Where its last tap lies among `kernel` taps that are packed from the last to the first.
    fn packed(&self, stride: u32, kernel: u32) -> i64 {
        kernel as i64 - 1 - self.tap as i64 - stride as i64 * (self.taps as i64 - 1)
    }
}

impl Conv {
    /// Where the taps of a pair of parities begin in the transposed packing, of which each tap takes `tap` elements.
    fn packed(&self, py: &Parity, px: &Parity, tap: i64) -> i64 {
        let (y, x) = (py.packed(self.stride, self.kernel.0), px.packed(self.stride, self.kernel.1));
        (y * self.kernel.1 as i64 + x) * tap
    }
}

/// What a pending contraction computes.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Forward { input: Codes, weights: BufferId, init: Option<BufferId> },
    GradInput { gradient: GradientCodes, weights: BufferId, init: Vec<BufferId> },
    Depthwise(Depthwise),
}

impl Work {
    /// The output of a convolution.
    pub(super) fn forward(
        cx: &mut Cx,
        path: &str,
        conv: Conv,
        input: &Codes,
        weights: &Weights,
    ) -> Result<Work, Diagnostic> {
        if conv.depthwise {
            return Ok(Work::Depthwise(Depthwise::forward(cx, path, conv, input, weights.forward)));
        }
        let init = forward_correction(cx, path, conv, &input.zero, weights.forward)?;
        Ok(Work::Forward { input: input.clone(), weights: weights.forward, init })
    }

    /// The gradient of its input.
    pub(super) fn grad_input(
        cx: &mut Cx,
        path: &str,
        conv: Conv,
        gradient: GradientCodes,
        weights: &Weights,
    ) -> Result<Work, Diagnostic> {
        if conv.depthwise {
            return Ok(Work::Depthwise(Depthwise::grad_input(cx, path, conv, &gradient, weights.forward)));
        }
        let weights = weights.transposed.expect("packed where a data gradient is live");
        let zero = gradient.nhwc.expect("a data gradient reads codes in NHWC").zero;
        let init = gradient_corrections(cx, path, conv, weights, zero)?;
        Ok(Work::GradInput { gradient, weights, init })
    }

    /// What a result can be.
    fn range(&self, cx: &Cx, conv: Conv) -> Result<Range, Diagnostic> {
        match self {
            Work::Forward { input, weights, init } => {
                let steps = conv.taps() as u64 * conv.in_groups() as u64;
                result_range(cx, (input.nhwc.buffer, *weights), steps, init.as_slice(), i32::MAX.into())
            }
            Work::GradInput { gradient, weights, init } => {
                let codes = gradient.nhwc.expect("a data gradient reads codes in NHWC").buffer;
                // Every pixel that a linear layer reads meets one output.
                let taps = if conv.whole { 1 } else { conv.taps() };
                let steps = taps as u64 * conv.out_groups() as u64;
                result_range(cx, (codes, *weights), steps, init, ROUNDED)
            }
            Work::Depthwise(work) => Ok(work.range),
        }
    }
}

/// A contraction that is computed panel by panel by the pass that reads it.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    conv: Conv,
    work: Work,
    /// Images in a panel.
    pub(super) images: u32,
    /// Rows in a panel.
    pub(super) rows: u32,
    /// I32 `[items][images][rows][w][channels]`.
    pub(super) buffer: BufferId,
    /// Right shift to 16 bits, i64.
    pub(super) shift: BufferId,
    /// Rounding of that shift: ties away, else down.
    pub(super) ties_away: bool,
    out: Shape,
}

/// Bytes of a panel that stay in the first-level cache beside the operands.
const PANEL_BYTES: u64 = 16 << 10;

impl Panel {
    /// The output of a convolution; accumulators are shifted down.
    pub(super) fn forward(
        cx: &mut Cx,
        path: &str,
        conv: Conv,
        work: Work,
        shift: BufferId,
    ) -> Result<Panel, Diagnostic> {
        Panel::new(cx, format!("{path}.panel"), conv, work, (conv.output, 1), shift, false)
    }

    /// The gradient of its input; accumulators are rounded, ties away.
    pub(super) fn grad_input(
        cx: &mut Cx,
        path: &str,
        conv: Conv,
        work: Work,
        shift: BufferId,
    ) -> Result<Panel, Diagnostic> {
        let out = (conv.input, conv.stride);
        Panel::new(cx, format!("{path}.grad_panel"), conv, work, out, shift, true)
    }

    fn new(
        cx: &mut Cx,
        name: String,
        conv: Conv,
        work: Work,
        (out, step): (Shape, u32),
        shift: BufferId,
        ties_away: bool,
    ) -> Result<Panel, Diagnostic> {
        let range = work.range(cx, conv)?;
        let items = out.items();
        let row_bytes = u64::from(out.w) * u64::from(out.cp()) * 4;
        let rows = (1..=out.h)
            .rev()
            .find(|r| {
                out.h.is_multiple_of(*r) && r.is_multiple_of(step) && u64::from(*r) * row_bytes <= PANEL_BYTES
            })
            .unwrap_or(if out.h.is_multiple_of(step) { step } else { out.h });
        let images = if conv.whole { out.n / items } else { 1 };
        let rows = if conv.whole { out.h } else { rows };
        let buffer = cx.temp(name, DType::I32, &[items, images, rows, out.w * out.cp()], range);
        Ok(Panel { conv, work, images, rows, buffer, shift, ties_away, out })
    }

    /// Whether one panel of every item is the whole result.
    pub(super) fn covers(&self) -> bool {
        self.images * self.out.items() == self.out.n && self.rows == self.out.h
    }

    /// Shape of the result.
    pub(super) fn shape(&self) -> Shape {
        self.out
    }

    /// Elements of one item's panel.
    pub(super) fn elements(&self) -> i64 {
        (self.images * self.rows * self.out.w) as i64 * self.out.cp() as i64
    }

    /// Writes the contraction of the panel that starts at an image and row.
    pub(super) fn emit(&self, kx: &mut Kx, n0: &Coord, y0: &Coord) {
        match &self.work {
            Work::Forward { input, weights, init } => self.emit_forward(kx, input, *weights, *init, n0, y0),
            Work::GradInput { gradient, weights, init } if self.conv.whole => {
                self.emit_whole_grad(kx, gradient, *weights, init[0], n0)
            }
            Work::GradInput { gradient, weights, init } => {
                self.emit_grad(kx, gradient, *weights, init, n0, y0)
            }
            Work::Depthwise(work) => {
                let out = self.out_start(kx);
                work.emit(kx, &out, self.out, self.rows, (n0, y0));
            }
        }
    }

    fn out_start(&self, kx: &mut Kx) -> crate::kernel::Address {
        let p = kx.update(self.buffer);
        p.at(0).plus(kx.item(), self.elements())
    }

    fn emit_forward(
        &self,
        kx: &mut Kx,
        input: &Codes,
        weights: BufferId,
        init: Option<BufferId>,
        n0: &Coord,
        y0: &Coord,
    ) {
        let Conv { stride, padding, kernel, output, .. } = self.conv;
        let grid = input.nhwc;
        let [image, row, pixel] = grid.strides;
        let a = kx.read(grid.buffer);
        let start = grid.offset - padding as i64 * (row + pixel);
        let a = y0.address(n0.address(a.at(start), image), row * stride as i64);
        let (groups, cp) = (self.conv.in_groups() as i64, output.cp() as i64);
        let taps = self.conv.taps() as i64;
        let b = kx.read(weights);
        let init = match init {
            Some(init) => Init::PerVector(kx.read(init).at(0), vec![16]),
            None => Init::Zero,
        };
        let row_out = output.w as i64 * cp;
        let contract = Contract {
            dot: Dot::U8I8,
            out: self.out_start(kx),
            a,
            b: b.at(0),
            init,
            points: vec![
                Dim::new(self.images, image, self.rows as i64 * row_out),
                Dim::new(self.rows, row * stride as i64, row_out),
                Dim::new(output.w, pixel * stride as i64, cp),
            ],
            vectors: vec![Dim::new(output.blocks(), taps * groups * 64, 16)],
            k: vec![
                Dim::new(kernel.0, row, kernel.1 as i64 * groups * 64),
                Dim::new(kernel.1, pixel, groups * 64),
                Dim::new(groups as u32, 4, 64),
            ],
        };
        push(kx, contract);
    }

    fn emit_grad(
        &self,
        kx: &mut Kx,
        gradient: &GradientCodes,
        weights: BufferId,
        init: &[BufferId],
        n0: &Coord,
        y0: &Coord,
    ) {
        let Conv { stride, padding, kernel, input, .. } = self.conv;
        let s = stride as i64;
        let source = gradient.nhwc.expect("a data gradient reads codes in NHWC");
        let [image, row, pixel] = source.strides;
        let (groups, cp) = (self.conv.out_groups() as i64, input.cp() as i64);
        let (tap, row_out) = (groups * 64, input.w as i64 * cp);
        if stride > 1 {
            // Parities without taps stay zero; the others are written over.
            let (zero, out) = (kx.splat_const(DType::I32, 0), self.out_start(kx));
            kx.for_(self.elements() as u32 / 16, |kx, v| kx.store(out.clone().plus(v, 16), zero));
        }
        let mut init = init.iter();
        for py in Parity::all(stride, padding, kernel.0) {
            for px in Parity::all(stride, padding, kernel.1) {
                let correction = init.next().copied();
                let (ny, nx) = (count(self.rows, py.start, stride), count(input.w, px.start, stride));
                if ny == 0 || nx == 0 {
                    continue;
                }
                let out = self.out_start(kx).offset(py.start as i64 * row_out + px.start as i64 * cp);
                let (Some(correction), true) = (correction, py.taps > 0 && px.taps > 0) else { continue };
                let a = kx.read(source.buffer);
                let (y, x) = (py.first - (py.taps as i64 - 1), px.first - (px.taps as i64 - 1));
                let a = n0.address(a.at(source.offset + y * row + x * pixel), image);
                // A panel starts at a multiple of the stride, or is the whole image.
                let a = y0.terms.iter().fold(a, |a, &(i, m)| a.plus(i, m / s * row));
                let b = kx.read(weights);
                let init = Init::PerVector(kx.read(correction).at(0), vec![16]);
                let contract = Contract {
                    dot: Dot::U8I8,
                    out,
                    a,
                    b: b.at(self.conv.packed(&py, &px, tap)),
                    init,
                    points: vec![Dim::new(ny, row, s * row_out), Dim::new(nx, pixel, s * cp)],
                    vectors: vec![Dim::new(input.blocks(), self.conv.taps() as i64 * tap, 16)],
                    k: vec![
                        Dim::new(py.taps, row, s * kernel.1 as i64 * tap),
                        Dim::new(px.taps, pixel, s * tap),
                        Dim::new(groups as u32, 4, 64),
                    ],
                };
                push(kx, contract);
            }
        }
    }

    /// A linear layer: every pixel of the input meets the one output.
    fn emit_whole_grad(
        &self,
        kx: &mut Kx,
        gradient: &GradientCodes,
        weights: BufferId,
        init: BufferId,
        n0: &Coord,
    ) {
        let Conv { input, .. } = self.conv;
        let source = gradient.nhwc.expect("a data gradient reads codes in NHWC");
        let (groups, cp, taps) = (self.conv.out_groups() as i64, input.cp() as i64, self.conv.taps());
        let a = kx.read(source.buffer);
        let b = kx.read(weights);
        let contract = Contract {
            dot: Dot::U8I8,
            out: self.out_start(kx),
            a: n0.address(a.at(source.offset), source.strides[0]),
            b: b.at(0),
            init: Init::PerVector(kx.read(init).at(0), vec![cp, 16]),
            points: vec![Dim::new(self.images, source.strides[0], taps as i64 * cp)],
            vectors: vec![
                Dim::new(taps, groups * 64, cp),
                Dim::new(input.blocks(), taps as i64 * groups * 64, 16),
            ],
            k: vec![Dim::new(groups as u32, 4, 64)],
        };
        push(kx, contract);
    }
}

/// Sums at most to which half of what a shift drops can be added.
const ROUNDED: i64 = 1 << 30;

/// What a contraction of two buffers over `steps` groups of four can give, also before its corrections. E0503 if that is
/// more than `most`.
pub(super) fn result_range(
    cx: &Cx,
    (a, b): (BufferId, BufferId),
    steps: u64,
    init: &[BufferId],
    most: i64,
) -> Result<Range, Diagnostic> {
    let largest = |id: BufferId| {
        let range = cx.program.get(id).range;
        range.lo.unsigned_abs().max(range.hi.unsigned_abs()) as i64
    };
    let start = init.iter().map(|&i| largest(i)).max().unwrap_or(0);
    let products = largest(a) * largest(b);
    let bound = products.saturating_mul(4).saturating_mul(steps as i64).saturating_add(start);
    if bound > most {
        let message =
            format!("a layer adds up {} products of up to {products}, which can exceed 32 bits", 4 * steps);
        return Err(Diagnostic::new("E0503", message)
            .help("use fewer channels or features, fewer or smaller images, or fewer bits"));
    }
    Ok(Range::new(-bound, bound))
}

/// How many of `0..extent` are `start + stride·j`.
pub(super) fn count(extent: u32, start: u32, stride: u32) -> u32 {
    extent.saturating_sub(start).div_ceil(stride)
}

/// Appends a contraction with its dimensions merged and trivial ones dropped.
pub(super) fn push(kx: &mut Kx, mut contract: Contract) {
    let fixed_vectors = matches!(&contract.init, Init::PerVector(_, strides) if strides.len() > 1);
    contract.points = merged(contract.points);
    contract.k = merged(contract.k);
    if !fixed_vectors {
        contract.vectors = merged(contract.vectors);
        if let Init::PerVector(_, strides) = &mut contract.init {
            strides.resize(contract.vectors.len(), 16);
        }
    }
    kx.contract(contract);
}

/// Drops dimensions of one turn, and merges an outer dimension that continues its inner one. At least one is kept.
fn merged(dims: Vec<Dim>) -> Vec<Dim> {
    let mut out: Vec<Dim> = vec![];
    for dim in dims.iter().rev().filter(|d| d.n > 1) {
        match out.last_mut() {
            Some(inner)
                if dim.first == inner.first * inner.n as i64
                    && dim.second == inner.second * inner.n as i64 =>
            {
                inner.n *= dim.n
            }
            _ => out.push(*dim),
        }
    }
    if out.is_empty() {
        return dims.into_iter().rev().take(1).collect();
    }
    out.reverse();
    out
}

/// Σ over the reduction of `a·code`, negated: what a zero code adds to a contraction, taken away. `a` holds one group of
/// four u8, read at every step.
fn correction(
    cx: &mut Cx,
    name: String,
    a: BufferId,
    weights: BufferId,
    (start, vectors, k): (i64, &[Dim], &[Dim]),
) -> Result<BufferId, Diagnostic> {
    let n = vectors.iter().map(|d| d.n).product::<u32>() * 16;
    let steps = k.iter().map(|d| d.n as u64).product();
    let range = result_range(cx, (a, weights), steps, &[], i32::MAX.into())?;
    let sum = cx.temp(format!("{name}_sum"), DType::I32, &[n], range);
    let out = cx.temp(name, DType::I32, &[n], range);
    cx.call("correction", 1, |kx| {
        let (a, b, s, o) = (kx.read(a), kx.read(weights), kx.update(sum), kx.write(out));
        let contract = Contract {
            dot: Dot::U8I8,
            out: s.at(0),
            a: a.at(0),
            b: b.at(start),
            init: Init::Zero,
            points: vec![Dim::new(1, 0, 0)],
            vectors: vectors.to_vec(),
            k: k.iter().map(|d| Dim::new(d.n, 0, d.second)).collect(),
        };
        push(kx, contract);
        let zero = kx.splat_const(DType::I32, 0);
        kx.for_(n / 16, |kx, v| {
            let lanes = kx.load(s.at(0).plus(v, 16));
            let lanes = kx.sub(zero, lanes);
            kx.store(o.at(0).plus(v, 16), lanes);
        });
    });
    Ok(out)
}

/// What the zero code of the input adds to a forward contraction, or None where it is 0.
fn forward_correction(
    cx: &mut Cx,
    path: &str,
    conv: Conv,
    zero: &Zero,
    weights: BufferId,
) -> Result<Option<BufferId>, Diagnostic> {
    let a = match *zero {
        Zero::Code(0) => return Ok(None),
        Zero::Code(z) => cx.table(format!("four_{z}"), DType::U8, vec![z as i64; 4]),
        Zero::Image(mean) => super::input::mean_group(cx, path, mean),
    };
    let (taps, groups) = (conv.taps(), conv.in_groups() as i64);
    let vectors = [Dim::new(conv.output.blocks(), taps as i64 * groups * 64, 16)];
    let k = [Dim::new(taps * groups as u32, 0, 64)];
    correction(cx, format!("{path}.init"), a, weights, (0, &vectors, &k)).map(Some)
}

/// What the biased gradient codes add to a data gradient, for each pair of parities.
fn gradient_corrections(
    cx: &mut Cx,
    path: &str,
    conv: Conv,
    weights: BufferId,
    zero: i32,
) -> Result<Vec<BufferId>, Diagnostic> {
    let bias = i64::from(zero);
    let a = cx.table(format!("four_{bias}"), DType::U8, vec![bias; 4]);
    let (taps, groups) = (conv.taps() as i64, conv.out_groups() as i64);
    let tap = groups * 64;
    let sum = |cx: &mut Cx, i: usize, start: i64, vectors: &[Dim], k: &[Dim]| {
        correction(cx, format!("{path}.gradient_init{i}"), a, weights, (start, vectors, k))
    };
    let blocks = conv.input.blocks();
    if conv.whole {
        let cp = conv.input.cp() as i64;
        let vectors = [Dim::new(taps as u32, tap, cp), Dim::new(blocks, taps * tap, 16)];
        return Ok(vec![sum(cx, 0, 0, &vectors, &[Dim::new(groups as u32, 0, 64)])?]);
    }
    let s = conv.stride as i64;
    let vectors = [Dim::new(blocks, taps * tap, 16)];
    let mut out = vec![];
    for py in Parity::all(conv.stride, conv.padding, conv.kernel.0) {
        for px in Parity::all(conv.stride, conv.padding, conv.kernel.1) {
            let k = [
                Dim::new(py.taps, 0, s * conv.kernel.1 as i64 * tap),
                Dim::new(px.taps, 0, s * tap),
                Dim::new(groups as u32, 0, 64),
            ];
            let live = py.taps > 0 && px.taps > 0;
            // A pair of parities without taps reads no correction; its place in the list is kept.
            let k: &[Dim] = if live { &k } else { &[Dim { n: 1, first: 0, second: 64 }] };
            let start = if live { conv.packed(&py, &px, tap) } else { 0 };
            out.push(sum(cx, out.len(), start, &vectors, k)?);
        }
    }
    Ok(out)
}
