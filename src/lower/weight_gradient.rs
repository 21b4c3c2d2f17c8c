//! Weight gradients as contractions.
//!
//! They read channel planes of the input (points) and the gradient in blocks of four pixels (vectors): the same form serves
//! three input channels and sixty-four, stride one and two, and any zero code, because the border of the input is visited.

use super::codes::{Codes, GradientCodes, Zero};
use super::contract::{Conv, push, result_range};
use super::cx::{Coord, Cx, Kx, SUM};
use super::planes::Copied;
use crate::diag::Diagnostic;
use crate::kernel::{BufferId, Contract, DType, Dim, Dot, Init, Value};

/// Bytes of planes that one group of images fills: they stay in cache beside the gradient while all points pass.
const PLANES_BYTES: i64 = 48 << 10;

/// How the images of a weight gradient are divided.
#[derive(Clone, Copy, Debug)]
struct Split {
    items: u32,
    /// Images of an item.
    images: u32,
    /// Images of one contraction.
    group: u32,
}

impl Split {
    /// An item sums over its images in i32, so they are few enough for that; and the sums of all items, which are added
    /// afterwards, are less to read than the gradient, unless eight items already exceed it.
    fn new(conv: Conv, largest_code: i32) -> Split {
        let Conv { input, output, .. } = conv;
        let quads = output.w.div_ceil(4) as i64 * output.h as i64;
        // The verifier adds up what the column parities write, though to different elements.
        let largest = conv.stride as i64 * quads * 4 * 255 * largest_code as i64;
        let most = (i32::MAX as i64 / largest).max(1);
        let sums = input.c as i64 * conv.taps() as i64 * 4;
        let fits = |d: &u32| output.n.is_multiple_of(*d) && (output.n / d) as i64 <= most;
        let small = |d: &u32| *d <= 8 || *d as i64 * sums <= output.n as i64 * quads * 4;
        let items = (1..=output.items()).rev().filter(fits).find(small);
        let items = items.or_else(|| (1..=output.n).find(fits)).unwrap_or(output.n);
        let images = output.n / items;
        Split { items, images, group: images }
    }

    /// Groups of images whose planes, of so many bytes each, stay in cache.
    fn grouped(self, planes: i64) -> Split {
        let fits = |g: &u32| self.images.is_multiple_of(*g) && *g as i64 * planes <= PLANES_BYTES;
        Split { group: (1..=self.images).rev().find(fits).unwrap_or(1), ..self }
    }
}

/// Appends the weight gradient: i64 `[in channels][taps][out channels]`, without the zero-code correction.
///
/// Items are images: each copies its activations into channel planes, group by group, and contracts them with its
/// gradients while both are in cache; so neither planes nor gradients are read twice from memory. What remains is to
/// add the items' sums. E0503 if those of one image can exceed 32 bits.
pub(super) fn grad_weight(
    cx: &mut Cx,
    path: &str,
    conv: Conv,
    input: &Codes,
    gradient: &GradientCodes,
) -> Result<BufferId, Diagnostic> {
    let (ci, cop, taps) = (conv.input.c, conv.output.cp(), conv.taps());
    let sums = cx.temp(format!("{path}.weight_grad"), DType::I64, &[ci, taps, cop], SUM);
    if conv.whole {
        whole_grad_weight(cx, path, conv, input, gradient, sums)?;
        return Ok(sums);
    }
    let blocked = gradient.blocked.expect("a weight gradient reads blocks");
    let (stored, codes) = (input.planes.get(&conv.stride).copied(), super::pool::source_of(input));
    let mut split = Split::new(conv, gradient.largest);
    let planes = match stored {
        Some(planes) => Copied::Parities(planes),
        None => {
            split = split.grouped(Copied::image_elements(&conv));
            Copied::new(cx, path, &conv, split.items * split.group)
        }
    };
    let Split { items, images, group } = split;
    let quads = conv.output.w.div_ceil(4);
    let size = (ci * taps * cop) as i64;
    let (buffer, image_size, channel, row) = planes.strides();
    let steps = [conv.stride, images, conv.output.h, quads].map(u64::from).into_iter().product();
    let range = result_range(cx, (buffer, blocked), steps, &[], i32::MAX.into())?;
    let panel = cx.temp(format!("{path}.weight_panel"), DType::I32, &[items, ci * taps, cop], range);
    let (kh, kw, s) = (conv.kernel.0, conv.kernel.1, conv.stride);
    cx.call("grad_weight", items, |kx| {
        let item = kx.item();
        let out = kx.update(panel);
        let none = kx.splat_const(DType::I32, 0);
        fill(kx, panel, size, none);
        if stored.is_none() {
            let border = kx.splat_const(DType::U8, codes.zero);
            fill(kx, buffer, group as i64 * image_size, border);
        }
        kx.for_(images / group, |kx, turn| {
            let first = Coord::default().plus(item, images as i64).plus(turn, group as i64);
            let (a, b) = (kx.read(buffer), kx.read(blocked));
            let image = match stored {
                Some(_) => first.clone(),
                None => {
                    let own = Coord::default().plus(item, group as i64);
                    let to = kx.update(buffer);
                    kx.for_(group, |kx, i| {
                        let start = own.clone().plus(i, 1).address(to.at(0), image_size);
                        planes.copy_image(kx, &codes, &first.clone().plus(i, 1), &start, input.shape);
                    });
                    own
                }
            };
            for columns in planes.columns(&conv) {
                let contract = Contract {
                    dot: Dot::U8I8,
                    out: out.at(columns.tap as i64 * cop as i64).plus(item, size),
                    a: image.address(a.at(columns.start), image_size),
                    b: first.address(b.at(0), gradient.blocked_image),
                    init: Init::Accumulate,
                    points: vec![
                        Dim::new(ci, channel, (taps * cop) as i64),
                        Dim::new(kh, row, (kw * cop) as i64),
                        Dim::new(columns.taps, columns.apart, (columns.every * cop) as i64),
                    ],
                    vectors: vec![Dim::new(cop / 16, 64, 16)],
                    k: vec![
                        Dim::new(group, image_size, gradient.blocked_image),
                        Dim::new(conv.output.h, row * s as i64, quads as i64 * cop as i64 * 4),
                        Dim::new(quads, 4, cop as i64 * 4),
                    ],
                };
                push(kx, contract);
            }
        });
    });
    sum_items(cx, panel, (items, ci, taps * cop), sums);
    Ok(sums)
}

/// Writes a value to all that an item has of a buffer, `size` elements.
fn fill(kx: &mut Kx, buffer: BufferId, size: i64, value: Value) {
    let (item, to) = (kx.item(), kx.update(buffer));
    kx.for_(size as u32 / 16, |kx, v| kx.store(to.at(0).plus(item, size).plus(v, 16), value));
}

/// Adds up the items of a panel `[items][channels][part]`.
fn sum_items(cx: &mut Cx, panel: BufferId, (items, channels, part): (u32, u32, u32), sums: BufferId) {
    let size = (channels * part) as i64;
    cx.call("sum_weight_grad", channels, |kx| {
        let (p, sum) = (kx.read(panel), kx.update(sums));
        let own = Coord::default().plus(kx.item(), 1);
        let (from, to) = (own.address(p.at(0), part.into()), own.address(sum.at(0), part.into()));
        kx.fill(to.clone(), part, 0);
        kx.for_(part / 16, |kx, v| {
            kx.for_(items, |kx, item| {
                let lanes = kx.load(from.clone().plus(item, size).plus(v, 16));
                kx.acc64(to.clone().plus(v, 16), lanes);
            });
        });
    });
}

/// A linear layer's weight gradient: the batch is the reduction.
fn whole_grad_weight(
    cx: &mut Cx,
    path: &str,
    conv: Conv,
    input: &Codes,
    gradient: &GradientCodes,
    sums: BufferId,
) -> Result<(), Diagnostic> {
    let (ci, cop, taps, n) = (conv.input.c, conv.output.cp(), conv.taps(), conv.output.n);
    let transposed = super::layout::transpose_batch(cx, path, conv, input);
    let blocked = super::layout::block_batch(cx, path, conv, gradient);
    let cpix = input.nhwc.strides[2];
    let quads = n.div_ceil(4);
    let range = result_range(cx, (transposed.0, blocked), quads.into(), &[], i32::MAX.into())?;
    let panel = cx.temp(format!("{path}.weight_panel"), DType::I32, &[taps, ci, cop], range);
    let row = transposed.1;
    cx.call("grad_weight", taps, |kx| {
        let item = kx.item();
        let (out, sum) = (kx.update(panel), kx.update(sums));
        let (a, b) = (kx.read(transposed.0), kx.read(blocked));
        let contract = Contract {
            dot: Dot::U8I8,
            out: out.at(0).plus(item, (ci * cop) as i64),
            a: a.at(0).plus(item, cpix * row),
            b: b.at(0),
            init: Init::Zero,
            points: vec![Dim::new(ci, row, cop as i64)],
            vectors: vec![Dim::new(cop / 16, 64, 16)],
            k: vec![Dim::new(quads, 4, cop as i64 * 4)],
        };
        push(kx, contract);
        kx.for_(ci, |kx, c| {
            let to = sum.at(0).plus(item, cop as i64).plus(c, (taps * cop) as i64);
            kx.fill(to.clone(), cop, 0);
            kx.for_(cop / 16, |kx, v| {
                let lanes = kx.load(out.at(0).plus(item, (ci * cop) as i64).plus(c, cop as i64).plus(v, 16));
                kx.acc64(to.clone().plus(v, 16), lanes);
            });
        });
    });
    Ok(())
}

/// Takes `zero·Σ gradient codes` from the sums of a weight gradient, where the input's zero code is not 0.
pub(super) fn correct_weight_gradient(cx: &mut Cx, conv: Conv, zero: &Zero, sums: BufferId, codes: BufferId) {
    let (ci, taps, cop) = (conv.depth(), conv.taps(), conv.output.cp());
    cx.call("correct_weight_gradient", ci, |kx| {
        let item = kx.item();
        let (s, q) = (kx.update(sums), kx.read(codes));
        let z = match *zero {
            Zero::Code(z) => kx.int(z as i64),
            Zero::Image(mean) => {
                let p = kx.read(mean);
                kx.load_scalar(p.at(0).plus(item, 1))
            }
        };
        kx.for_(taps, |kx, tap| {
            kx.for_(cop, |kx, c| {
                let q = kx.load_scalar(q.at(0).plus(c, 1));
                let part = kx.mul(z, q);
                let at = s.at(0).plus(item, (taps * cop) as i64).plus(tap, cop as i64).plus(c, 1);
                let v = kx.load_scalar(at.clone());
                let v = kx.sub(v, part);
                let v = super::weights::clamp(kx, v, SUM.hi);
                kx.store(at, v);
            });
        });
    });
}
