//! Pooling on codes, and its gradients.
//!
//! A sum over a window becomes a 16-bit tensor with its own unit; the following quantizer gives it a grid. A maximum
//! stays on the grid of its input; its gradient goes to the first maximum in raster order.

use super::affine::Source;
use super::codes::{Codes, Zero};
use super::cx::{At, Coord, Cx, Kx, Shape, WIDE};
use crate::diag::Diagnostic;
use crate::kernel::{DType, Value};

/// Windows of a pooling: size, stride, padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) size: (u32, u32),
    pub(super) stride: u32,
    pub(super) padding: u32,
}

/// Pixels of a window at most: they are written out in the kernels.
pub(super) const MAX_TAPS: u64 = 4096;

impl Window {
    /// This window, if it has at most so many pixels.
    pub(super) fn limited(self, most: u64) -> Result<Window, Diagnostic> {
        let (h, w) = self.size;
        if u64::from(h) * u64::from(w) <= most {
            return Ok(self);
        }
        let message = format!("a pooling window of {h}x{w} is more than the {most} pixels of one here");
        Err(Diagnostic::new("E0503", message).help("pool in two steps, or use a stride before"))
    }

    /// Whether windows share pixels, leave some out, or reach over the border.
    pub(super) fn is_irregular(self) -> bool {
        self.size != (self.stride, self.stride) || self.padding > 0
    }
}

/// Refuses the image for ops that take no mean pixel off, as batch norms and contractions do.
pub(super) fn not_the_image(op: &str, codes: &Codes) -> Result<(), Diagnostic> {
    match codes.zero {
        Zero::Code(_) => Ok(()),
        Zero::Image(_) => Err(Diagnostic::new("E0503", format!("`{op}` reads the image"))
            .help("put a convolution or a batch norm before it: they take the mean pixel off")),
    }
}

/// The I16 lanes of codes, above their zero code.
pub(super) fn source_of(codes: &Codes) -> Source {
    let zero = match codes.zero {
        Zero::Code(z) => z,
        Zero::Image(_) => 0,
    };
    Source { zero, ..codes.nhwc }
}

/// Calls `body` for every output place of a tensor, one block at a time.
fn positions(cx: &mut Cx, name: &str, out: Shape, body: impl Fn(&mut Kx, &At)) {
    let items = out.items();
    let group = (out.n / items) as i64;
    cx.call(name, items, |kx| {
        let item = kx.item();
        kx.for_(group as u32, |kx, i| {
            let n = Coord::default().plus(item, group).plus(i, 1);
            kx.for_(out.blocks(), |kx, block| {
                kx.for_(out.h, |kx, y| {
                    kx.for_(out.w, |kx, x| {
                        let at = At {
                            n: n.clone(),
                            y: Coord::index(y),
                            x: Coord::index(x),
                            block: Coord::index(block),
                        };
                        body(kx, &at);
                    });
                });
            });
        });
    });
}

/// The place of tap (i, j) of the window at `at`.
pub(super) fn tap(at: &At, window: Window, i: u32, j: u32) -> At {
    let scaled = |c: &Coord, by: i64| Coord {
        terms: c.terms.iter().map(|&(index, m)| (index, m * window.stride as i64)).collect(),
        offset: c.offset * window.stride as i64 + by,
    };
    let p = window.padding as i64;
    At { y: scaled(&at.y, i as i64 - p), x: scaled(&at.x, j as i64 - p), ..at.clone() }
}

/// Mean over windows: 16-bit sums (shifted if they need it) and the factor of their unit to the input's.
pub(super) fn average(cx: &mut Cx, path: &str, input: &Codes, out: Shape, window: Window) -> (Source, f64) {
    let source = source_of(input);
    let count = window.size.0 as i64 * window.size.1 as i64;
    let bits = 64 - (count * 255).leading_zeros() as i64;
    let shift = (bits - 15).max(0);
    let buffer = cx.temp(format!("{path}.sum"), DType::I16, &out.extents(), WIDE);
    let store = Source::dense(buffer, out);
    positions(cx, "average_pool", out, |kx, at| {
        let mut sum: Option<Value> = None;
        for i in 0..window.size.0 {
            for j in 0..window.size.1 {
                let v = source.load(kx, &tap(at, window, i, j));
                let v = kx.widen(DType::I32, v);
                sum = Some(sum.map_or(v, |s| kx.add(s, v)));
            }
        }
        let sum = sum.expect("a window has taps");
        let v = kx.shift_right_round(sum, shift as u8);
        let v = super::gather::narrow_wide(kx, v);
        let p = kx.write(buffer);
        let to = store.of(p, at);
        kx.store(to, v);
    });
    (store, (1i64 << shift) as f64 / count as f64)
}

/// Maximum over windows, as 16-bit codes above the zero code.
pub(super) fn maximum(cx: &mut Cx, path: &str, input: &Codes, out: Shape, window: Window) -> Source {
    let source = source_of(input);
    let buffer = cx.temp(format!("{path}.maximum"), DType::I16, &out.extents(), WIDE);
    let store = Source::dense(buffer, out);
    positions(cx, "max_pool", out, |kx, at| {
        let mut best: Option<Value> = None;
        for i in 0..window.size.0 {
            for j in 0..window.size.1 {
                let v = source.load(kx, &tap(at, window, i, j));
                best = Some(best.map_or(v, |b| kx.max(b, v)));
            }
        }
        let best = best.expect("a window has taps");
        let p = kx.write(buffer);
        let to = store.of(p, at);
        kx.store(to, best);
    });
    store
}

/// Gradient of the maximum for windows that do not overlap: `dy` at the first maximum of each window, zero elsewhere.
pub(super) fn maximum_grad(
    cx: &mut Cx,
    path: &str,
    input: &Codes,
    dy: Source,
    out: Shape,
    window: Window,
) -> Source {
    let shape = input.shape;
    let buffer = cx.temp(format!("{path}.pool_grad"), DType::I16, &shape.extents(), WIDE);
    let store = Source::dense(buffer, shape);
    let covered = (out.h * window.stride >= shape.h) && (out.w * window.stride >= shape.w);
    if !covered || window.size != (window.stride, window.stride) {
        positions(cx, "clear", shape, |kx, at| {
            let p = kx.write(buffer);
            let zero = kx.splat_const(DType::I16, 0);
            let to = store.of(p, at);
            kx.store(to, zero);
        });
    }
    positions(cx, "max_pool_grad", out, |kx, at| {
        let g = dy.load(kx, at);
        let places: Vec<At> = (0..window.size.0)
            .flat_map(|i| (0..window.size.1).map(move |j| (i, j)))
            .map(|(i, j)| tap(at, window, i, j))
            .collect();
        let values: Vec<Value> = places
            .iter()
            .map(|place| {
                let address = input.nhwc.address(kx, place);
                let v = kx.load(address);
                kx.widen(DType::I16, v)
            })
            .collect();
        let best = values[1..].iter().fold(values[0], |b, &v| kx.max(b, v));
        // `free` is −1 until the first maximum is found.
        let mut free = kx.splat_const(DType::I16, -1);
        for (place, &v) in places.iter().zip(&values) {
            let is = kx.eq(v, best);
            let here = kx.and(is, free);
            let g = kx.and(g, here);
            free = kx.xor(free, here);
            let p = kx.update(buffer);
            let to = store.of(p, place);
            kx.store(to, g);
        }
    });
    store
}

/// Gradient of the mean over windows that do not overlap, spread: every pixel of a window has its window's `dy`.
pub(super) fn average_grad(
    cx: &mut Cx,
    path: &str,
    shape: Shape,
    dy: Source,
    out: Shape,
    window: Window,
) -> Source {
    let buffer = cx.temp(format!("{path}.pool_grad"), DType::I16, &shape.extents(), WIDE);
    let store = Source::dense(buffer, shape);
    if out.h * window.stride < shape.h || out.w * window.stride < shape.w {
        positions(cx, "clear", shape, |kx, at| {
            let p = kx.write(buffer);
            let zero = kx.splat_const(DType::I16, 0);
            let to = store.of(p, at);
            kx.store(to, zero);
        });
    }
    positions(cx, "average_pool_grad", out, |kx, at| {
        let g = dy.load(kx, at);
        for i in 0..window.size.0 {
            for j in 0..window.size.1 {
                let p = kx.update(buffer);
                let to = store.of(p, &tap(at, window, i, j));
                kx.store(to, g);
            }
        }
    });
    store
}
