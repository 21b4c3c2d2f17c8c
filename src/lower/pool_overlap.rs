//! Gradients of pools whose windows overlap or reach into the border.
//!
//! A pixel lies in several windows, so its gradient is a sum, gathered by the pixel: of all windows around it (average), or
//! of those that it won (maximum). Winners are found once, as tap numbers, beside a copy of `dy`, both with a border of
//! windows that do not exist. Pixels of equal parity meet the same taps. The sum is shifted by what the largest `dy` asks
//! for, so that it stays in 16 bits and usually keeps every bit.

use super::affine::Source;
use super::codes::Codes;
use super::contract::{Conv, Parity, count};
use super::cx::{At, Coord, Cx, Kx, SHIFT, Shape, WIDE};
use super::gather::narrow_wide;
use super::layout::Bordered;
use super::nodes::shift_to_wide;
use super::pool::Window;
use crate::kernel::{BufferId, DType, Range};

/// Outputs of one axis whose windows have the same taps inside the image.
struct Segment {
    first: u32,
    n: u32,
    taps: std::ops::Range<u32>,
}

fn segments(out: u32, extent: u32, size: u32, window: Window) -> Vec<Segment> {
    let mut all: Vec<Segment> = vec![];
    for o in 0..out {
        let base = o * window.stride;
        let taps = window.padding.saturating_sub(base)..size.min(extent + window.padding - base);
        match all.last_mut() {
            Some(last) if last.taps == taps => last.n += 1,
            _ => all.push(Segment { first: o, n: 1, taps }),
        }
    }
    all
}

/// The gradient by the input of shape `shape`, and the shift that its unit has over that of `dy`. `largest` is that of |dy|;
/// `input` is what a maximum pool has read.
pub(super) fn gradient(
    cx: &mut Cx,
    path: &str,
    shape: Shape,
    (dy, largest): (Source, BufferId),
    out: Shape,
    window: Window,
    input: Option<&Codes>,
) -> (Source, BufferId) {
    let conv = Conv {
        input: shape,
        output: out,
        kernel: window.size,
        stride: window.stride,
        padding: window.padding,
        whole: false,
        depthwise: true,
    };
    let border = conv.gradient_border();
    let mut bordered = |what: &str, dtype, range| {
        Bordered::new(cx, format!("{path}.{what}"), out, out.cp(), border, dtype, range)
    };
    let spread = bordered("overlapping", DType::I16, WIDE);
    let winners = input.map(|_| bordered("winners", DType::U8, Range::new(0, 255)));
    copy(cx, conv, dy, spread, window, winners.zip(input));
    let shift = cx.temp(format!("{path}.overlap_shift"), DType::I64, &[1], SHIFT);
    let overlap = window.size.0.div_ceil(window.stride) * window.size.1.div_ceil(window.stride);
    cx.call("overlap_shift", 1, |kx| {
        let most = kx.scalar(largest);
        let windows = kx.int(overlap as i64);
        let most = kx.mul(most, windows);
        let v = shift_to_wide(kx, most);
        let p = kx.write(shift);
        kx.store(p.at(0), v);
    });
    let buffer = cx.temp(format!("{path}.pool_grad"), DType::I16, &shape.extents(), WIDE);
    let store = Source::dense(buffer, shape);
    gather(cx, conv, spread.source, winners.map(|w| w.source), shift, store);
    (store, shift)
}

/// Pixels of a window at most: the one that won is stored as a byte.
pub(super) const MAX_TAPS: u64 = 256;

/// For every image of a call and block of channels.
fn blocks(cx: &mut Cx, name: &str, shape: Shape, body: impl Fn(&mut Kx, &Coord, &Coord)) {
    let items = shape.items();
    let group = shape.n / items;
    cx.call(name, items, |kx| {
        let item = kx.item();
        kx.for_(group, |kx, image| {
            let n = Coord::default().plus(item, group as i64).plus(image, 1);
            kx.for_(shape.blocks(), |kx, block| body(kx, &n, &Coord::index(block)));
        });
    });
}

/// Copies `dy` and finds the tap that won each window: the first of the largest inside the image.
fn copy(
    cx: &mut Cx,
    conv: Conv,
    dy: Source,
    spread: Bordered,
    window: Window,
    winners: Option<(Bordered, &Codes)>,
) {
    let out = conv.output;
    let rows = segments(out.h, conv.input.h, window.size.0, window);
    let columns = segments(out.w, conv.input.w, window.size.1, window);
    blocks(cx, "pool_winners", out, |kx, n, block| {
        let none = kx.splat_const(DType::I16, 0);
        spread.fill(kx, n, block, out, none);
        if let Some((winners, _)) = winners {
            let none = kx.splat_const(DType::U8, 0);
            winners.fill(kx, n, block, out, none);
        }
        for (ys, xs) in rows.iter().flat_map(|ys| columns.iter().map(move |xs| (ys, xs))) {
            kx.for_(ys.n, |kx, y| {
                kx.for_(xs.n, |kx, x| {
                    let y = Coord::index(y).offset(ys.first as i64);
                    let x = Coord::index(x).offset(xs.first as i64);
                    let at = At { n: n.clone(), y, x, block: block.clone() };
                    let v = dy.load(kx, &at);
                    let p = kx.write(spread.source.buffer);
                    kx.store(spread.source.of(p, &at), v);
                    if let Some((winners, input)) = winners {
                        let taps = ys.taps.clone().flat_map(|i| xs.taps.clone().map(move |j| (i, j)));
                        let won = winner(kx, input, &at, window, taps);
                        let won = kx.narrow(DType::U8, won);
                        let p = kx.write(winners.source.buffer);
                        kx.store(winners.source.of(p, &at), won);
                    }
                });
            });
        }
    });
}

/// The number of the first tap with the largest code, I16 lanes.
fn winner(
    kx: &mut Kx,
    input: &Codes,
    at: &At,
    window: Window,
    taps: impl Iterator<Item = (u32, u32)>,
) -> crate::kernel::Value {
    let mut best = None;
    for (i, j) in taps {
        let v = input.nhwc.load(kx, &super::pool::tap(at, window, i, j));
        let number = kx.splat_const(DType::I16, (i * window.size.1 + j) as i32);
        best = Some(match best {
            None => (v, number),
            Some((most, won)) => {
                let larger = kx.lt(most, v);
                (kx.max(most, v), kx.select(larger, number, won))
            }
        });
    }
    best.expect("every window has a pixel inside the image").1
}

/// Sums by pixel.
fn gather(cx: &mut Cx, conv: Conv, dy: Source, winners: Option<Source>, shift: BufferId, store: Source) {
    let Conv { input, kernel, stride, padding, .. } = conv;
    blocks(cx, "pool_grad", input, |kx, n, block| {
        let shift = kx.scalar(shift);
        for py in Parity::all(stride, padding, kernel.0) {
            for px in Parity::all(stride, padding, kernel.1) {
                let (ny, nx) = (count(input.h, py.start, stride), count(input.w, px.start, stride));
                if ny == 0 || nx == 0 {
                    continue;
                }
                kx.for_(ny, |kx, y| {
                    kx.for_(nx, |kx, x| {
                        let mut sum = kx.splat_const(DType::I32, 0);
                        for (i, j) in (0..py.taps).flat_map(|i| (0..px.taps).map(move |j| (i, j))) {
                            let at = At {
                                n: n.clone(),
                                y: Coord::index(y).offset(py.first - i as i64),
                                x: Coord::index(x).offset(px.first - j as i64),
                                block: block.clone(),
                            };
                            let mut v = dy.load(kx, &at);
                            if let Some(winners) = winners {
                                let tap = (py.tap + stride * i) * kernel.1 + px.tap + stride * j;
                                let won = winners.load(kx, &at);
                                let tap = kx.splat_const(DType::I16, tap as i32);
                                let is = kx.eq(won, tap);
                                v = kx.and(v, is);
                            }
                            let v = kx.widen(DType::I32, v);
                            sum = kx.add(sum, v);
                        }
                        let v = kx.shift_right_round(sum, shift);
                        let v = narrow_wide(kx, v);
                        let at = At {
                            n: n.clone(),
                            y: Coord::default().plus(y, stride as i64).offset(py.start as i64),
                            x: Coord::default().plus(x, stride as i64).offset(px.start as i64),
                            block: block.clone(),
                        };
                        let p = kx.write(store.buffer);
                        kx.store(store.of(p, &at), v);
                    });
                });
            }
        }
    });
}
