//! Depthwise convolutions as lane code: forward, data gradient and weight gradient, for any stride and padding.
//!
//! A channel meets its own window only, so 16 channels are 16 independent sums and nothing is contracted across lanes. Two
//! taps (or, for the weight gradient, two pixels) are multiplied and added at once, by `dot2` into i32. Forward and data
//! gradient are one form: a [`Stencil`] says which pixels of the source an output sums, and with which taps. Borders hold
//! the source's zero code, and start values take away what it adds.

use super::affine::Source;
use super::codes::{Codes, GradientCodes, Zero};
use super::contract::{Conv, Parity, count};
use super::cx::{At, Coord, Cx, Kx, SUM, Shape, share};
use crate::diag::Diagnostic;
use crate::kernel::{Address, BufferId, DType, LANES, Range, Value};

/// Taps of a window at most: its sum is written out in full.
const MAX_TAPS: u32 = 64;

/// E0503 for what has no lane code.
pub(super) fn check(conv: &Conv, input: &Codes) -> Result<(), Diagnostic> {
    if matches!(input.zero, Zero::Image(_)) {
        return Err(Diagnostic::new("E0503", "a depthwise convolution reads the image")
            .help("images have few channels, and are stored so: put a convolution before it"));
    }
    if conv.taps() > MAX_TAPS {
        let message = format!("a depthwise convolution has a window of {} pixels", conv.taps());
        return Err(
            Diagnostic::new("E0503", message).help(format!("windows have at most {MAX_TAPS} pixels, as 8x8"))
        );
    }
    Ok(())
}

/// A tap, and the pixel that it meets for the first output of its stencil.
#[derive(Clone, Copy, Debug)]
struct Tap {
    number: u32,
    row: i64,
    column: i64,
}

/// Outputs `start + step·j` of both axes, which meet the same taps; the source moves by `advance` pixels a turn.
#[derive(Clone, Debug)]
struct Stencil {
    start: (u32, u32),
    step: u32,
    advance: u32,
    taps: Vec<Tap>,
    /// First pair of its taps in the packed weights.
    pair: u32,
}

impl Stencil {
    fn pairs(&self) -> u32 {
        (self.taps.len() as u32).div_ceil(2)
    }
}

/// What a pending depthwise convolution computes.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    source: Source,
    stencils: Vec<Stencil>,
    /// Taps in pairs: i16 `[block][pair][16][2]`.
    weights: BufferId,
    /// −zero·Σ taps: i32 `[block][stencil][16]`; absent if the zero code is 0.
    starts: Option<BufferId>,
    /// What a sum can be.
    pub(super) range: Range,
}

impl Depthwise {
    /// The forward pass; `weights` are codes `[tap][channel]`.
    pub(super) fn forward(
        cx: &mut Cx,
        path: &str,
        conv: Conv,
        input: &Codes,
        weights: BufferId,
    ) -> Depthwise {
        let p = conv.padding as i64;
        let taps = (0..conv.taps())
            .map(|k| Tap {
                number: k,
                row: (k / conv.kernel.1) as i64 - p,
                column: (k % conv.kernel.1) as i64 - p,
            })
            .collect();
        let stencil = Stencil { start: (0, 0), step: 1, advance: conv.stride, taps, pair: 0 };
        let zero = super::zero_code(&input.zero);
        Depthwise::new(cx, format!("{path}.taps"), conv, (input.nhwc, zero), weights, vec![stencil])
    }

    /// The gradient of its input: the flipped window, split by the parities of the input's rows and columns.
    pub(super) fn grad_input(
        cx: &mut Cx,
        path: &str,
        conv: Conv,
        gradient: &GradientCodes,
        weights: BufferId,
    ) -> Depthwise {
        let s = conv.stride;
        let mut stencils = vec![];
        for py in Parity::all(s, conv.padding, conv.kernel.0) {
            for px in Parity::all(s, conv.padding, conv.kernel.1) {
                let tap = |i: u32, j: u32| Tap {
                    number: (py.tap + s * i) * conv.kernel.1 + px.tap + s * j,
                    row: py.first - i as i64,
                    column: px.first - j as i64,
                };
                let taps = (0..py.taps).flat_map(|i| (0..px.taps).map(move |j| (i, j)));
                let taps = taps.map(|(i, j)| tap(i, j)).collect();
                stencils.push(Stencil { start: (py.start, px.start), step: s, advance: 1, taps, pair: 0 });
            }
        }
        let source = gradient.nhwc.expect("a data gradient reads codes in NHWC");
        Depthwise::new(
            cx,
            format!("{path}.gradient_taps"),
            conv,
            (Source { zero: 0, ..source }, source.zero),
            weights,
            stencils,
        )
    }

    fn new(
        cx: &mut Cx,
        name: String,
        conv: Conv,
        (source, zero): (Source, i32),
        weights: BufferId,
        mut stencils: Vec<Stencil>,
    ) -> Depthwise {
        let mut pairs = 0;
        for stencil in &mut stencils {
            stencil.pair = pairs;
            pairs += stencil.pairs();
        }
        let (codes, range) = (cx.program.get(source.buffer).range, cx.program.get(weights).range);
        let blocks = conv.output.blocks();
        let packed = cx.temp(name.clone(), DType::I16, &[blocks, pairs, 2 * LANES as u32], range);
        let starting = zero as i64 * conv.taps() as i64 * range.hi;
        let starts = (zero != 0).then(|| {
            let extents = [blocks, stencils.len() as u32, LANES as u32];
            cx.temp(format!("{name}_start"), DType::I32, &extents, Range::new(-starting, starting))
        });
        pack(cx, weights, (packed, pairs), (starts, zero), &stencils, conv);
        let most = conv.taps() as i64 * range.hi * codes.hi + starting;
        Depthwise { source, stencils, weights: packed, starts, range: Range::new(-most, most) }
    }

    /// Writes `rows` rows of an image from `y0` on, which is a multiple of the stencils' steps, to a panel `[row][column][channel]`.
    pub(super) fn emit(
        &self,
        kx: &mut Kx,
        out: &Address,
        shape: Shape,
        rows: u32,
        (n0, y0): (&Coord, &Coord),
    ) {
        let pairs = self.stencils.iter().map(Stencil::pairs).sum::<u32>();
        if self.stencils.len() > 1 {
            // Stencils interleave; that together they cover the panel is not seen without this.
            let zero = kx.splat_const(DType::I32, 0);
            kx.for_(rows * shape.w * shape.blocks(), |kx, v| kx.store(out.clone().plus(v, 16), zero));
        }
        kx.for_(shape.blocks(), |kx, block| {
            for (number, stencil) in self.stencils.iter().enumerate() {
                let (sy, sx) = stencil.start;
                let (ny, nx) = (count(rows, sy, stencil.step), count(shape.w, sx, stencil.step));
                if ny == 0 || nx == 0 {
                    continue;
                }
                let start = match self.starts {
                    Some(starts) => {
                        let p = kx.read(starts);
                        kx.load(p.at(number as i64 * 16).plus(block, self.stencils.len() as i64 * 16))
                    }
                    None => kx.splat_const(DType::I32, 0),
                };
                let weights = kx.read(self.weights);
                let weights = weights.at(stencil.pair as i64 * 32).plus(block, pairs as i64 * 32);
                let (row_out, cp) = ((shape.w * shape.cp()) as i64, shape.cp() as i64);
                let out = out.clone().offset(sy as i64 * row_out + sx as i64 * cp).plus(block, 16);
                kx.for_(ny, |kx, y| {
                    kx.for_(nx, |kx, x| {
                        let (advance, step) = (stencil.advance as i64, stencil.step as i64);
                        let terms = y0.terms.iter().map(|&(i, m)| (i, m / step * advance)).collect();
                        let y_in = Coord { terms, offset: 0 }.plus(y, advance);
                        let x_in = Coord::default().plus(x, advance);
                        let at = |tap: &Tap| At {
                            n: n0.clone(),
                            y: y_in.clone().offset(tap.row),
                            x: x_in.clone().offset(tap.column),
                            block: Coord::index(block),
                        };
                        let mut sum = start;
                        for (i, two) in stencil.taps.chunks(2).enumerate() {
                            let first = self.source.load(kx, &at(&two[0]));
                            let second = match two.get(1) {
                                Some(tap) => self.source.load(kx, &at(tap)),
                                None => kx.splat_const(DType::I16, 0),
                            };
                            let pixels = kx.pair(first, second);
                            let taps = kx.load_pairs(weights.clone().offset(i as i64 * 32));
                            let product = kx.dot2(pixels, taps);
                            sum = kx.add(sum, product);
                        }
                        kx.store(out.clone().plus(y, step * row_out).plus(x, step * cp), sum);
                    });
                });
            }
        });
    }
}

/// Appends the packing of taps into the pairs of all stencils, and the start values.
fn pack(
    cx: &mut Cx,
    codes: BufferId,
    (packed, pairs): (BufferId, u32),
    (starts, zero): (Option<BufferId>, i32),
    stencils: &[Stencil],
    conv: Conv,
) {
    let cp = conv.output.cp() as i64;
    cx.call("pack_taps", conv.output.blocks(), |kx| {
        let block = kx.item();
        let (w, o) = (kx.read(codes), kx.write(packed));
        let negated = kx.int(-zero as i64);
        let zeros = kx.splat_pair(negated, negated);
        for (number, stencil) in stencils.iter().enumerate() {
            let mut sum = kx.splat_const(DType::I32, 0);
            for (i, two) in stencil.taps.chunks(2).enumerate() {
                let lanes = |kx: &mut Kx, tap: &Tap| {
                    let codes = kx.load(w.at(tap.number as i64 * cp).plus(block, 16));
                    kx.widen(DType::I16, codes)
                };
                let first = lanes(kx, &two[0]);
                let second = match two.get(1) {
                    Some(tap) => lanes(kx, tap),
                    None => kx.splat_const(DType::I16, 0),
                };
                let pair = kx.pair(first, second);
                let at = (stencil.pair as i64 + i as i64) * 32;
                kx.store(o.at(at).plus(block, pairs as i64 * 32), pair);
                let part = kx.dot2(pair, zeros);
                sum = kx.add(sum, part);
            }
            if let Some(starts) = starts {
                let s = kx.write(starts);
                kx.store(s.at(number as i64 * 16).plus(block, stencils.len() as i64 * 16), sum);
            }
        }
    });
}

/// Appends the weight gradient: i64 `[tap][channel]`, without the zero-code correction.
pub(super) fn grad_weight(
    cx: &mut Cx,
    path: &str,
    conv: Conv,
    input: &Codes,
    gradient: &GradientCodes,
) -> BufferId {
    let (taps, cp, n) = (conv.taps(), conv.output.cp(), conv.output.n);
    // More items than threads, but partial sums that are small beside the images.
    let items = (1..=8.min(n)).rev().find(|&i| n.is_multiple_of(i)).unwrap_or(1);
    let partial =
        cx.temp(format!("{path}.weight_partial"), DType::I64, &[items, taps, cp], share(SUM, items));
    let sums = cx.temp(format!("{path}.weight_grad"), DType::I64, &[1, taps, cp], SUM);
    let codes = gradient.nhwc.expect("the weight gradient of a depthwise convolution reads codes in NHWC");
    let size = taps * cp;
    cx.call("depthwise_grad_weight", items, |kx| {
        let item = kx.item();
        let p = kx.update(partial);
        kx.fill(p.at(0).plus(item, size as i64), size, 0);
        kx.for_(n / items, |kx, image| {
            let n = Coord::default().plus(item, (n / items) as i64).plus(image, 1);
            kx.for_(conv.output.blocks(), |kx, block| {
                // A row of taps at a time: their sums stay in registers.
                for ky in 0..conv.kernel.0 {
                    kx.for_(conv.output.h, |kx, y| {
                        let at =
                            |x: Coord| At { n: n.clone(), y: Coord::index(y), x, block: Coord::index(block) };
                        let to =
                            p.at((ky * conv.kernel.1 * cp) as i64).plus(item, size as i64).plus(block, 16);
                        let rows = Rows { conv, input: input.nhwc, codes, ky, to };
                        if conv.output.w >= 2 {
                            kx.for_(conv.output.w / 2, |kx, x| {
                                rows.emit(kx, &at(Coord::default().plus(x, 2)), true)
                            });
                        }
                        if conv.output.w % 2 == 1 {
                            rows.emit(kx, &at(Coord::default().offset(conv.output.w as i64 - 1)), false);
                        }
                    });
                }
            });
        });
    });
    cx.call("depthwise_weight_sums", conv.output.blocks(), |kx| {
        let block = kx.item();
        let (p, s) = (kx.read(partial), kx.update(sums));
        kx.for_(taps, |kx, tap| {
            let to = s.at(0).plus(tap, cp as i64).plus(block, 16);
            kx.fill(to.clone(), 16, 0);
            kx.for_(items, |kx, item| {
                kx.for_(16, |kx, c| {
                    let from = p.at(0).plus(item, size as i64).plus(tap, cp as i64).plus(block, 16);
                    let v = kx.load_scalar(from.plus(c, 1));
                    kx.acc64(to.clone().plus(c, 1), v);
                });
            });
        });
    });
    sums
}

/// A row of taps of a weight gradient.
struct Rows {
    conv: Conv,
    input: Source,
    codes: Source,
    ky: u32,
    /// The sums of the row's first tap.
    to: Address,
}

impl Rows {
    /// Adds the products of one output pixel, or of two neighbours, with what each tap meets.
    fn emit(&self, kx: &mut Kx, at: &At, two: bool) {
        let Conv { stride, padding, kernel, .. } = self.conv;
        let none = kx.splat_const(DType::I16, 0);
        let first = self.codes.load(kx, at);
        let second = if two { self.codes.load(kx, &next(at, 1)) } else { none };
        let gradients = kx.pair(first, second);
        let mut pixels: std::collections::BTreeMap<i64, Value> = Default::default();
        for tap in 0..kernel.1 {
            let mut pixel = |kx: &mut Kx, column: i64| {
                *pixels.entry(column).or_insert_with(|| {
                    let scaled = |c: &Coord, by: i64| Coord {
                        terms: c.terms.iter().map(|&(i, m)| (i, m * stride as i64)).collect(),
                        offset: c.offset * stride as i64 + by,
                    };
                    let y = scaled(&at.y, self.ky as i64 - padding as i64);
                    let x = scaled(&at.x, column - padding as i64);
                    self.input.load(kx, &At { y, x, ..at.clone() })
                })
            };
            let a = pixel(kx, tap as i64);
            let b = if two { pixel(kx, (tap + stride) as i64) } else { none };
            let pair = kx.pair(a, b);
            let product = kx.dot2(pair, gradients);
            kx.acc64(self.to.clone().offset(tap as i64 * self.conv.output.cp() as i64), product);
        }
    }
}

fn next(at: &At, by: i64) -> At {
    At { x: at.x.clone().offset(by), ..at.clone() }
}
