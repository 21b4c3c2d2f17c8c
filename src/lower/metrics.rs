//! Counters that make silent failure visible: codes at the end of their range, gradient codes that are zero, scales.
//!
//! They look at the first image of every batch, so that they cost next to nothing, and never change a result. Counters
//! survive steps without being state; the runtime reads and resets them.

use fqt_runtime::program::MetricKind;

use super::affine::Source;
use super::cx::{At, Coord, Cx, Shape};
use crate::kernel::{BufferId, DType, Range};

/// A counter.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Path of the layer.
    pub layer: String,
    /// What it counts.
    pub kind: MetricKind,
    /// How many elements a step looks at.
    pub elements: u64,
    /// Name of its buffer.
    pub buffer: String,
}

const COUNT: Range = Range::new(-(1 << 62), 1 << 62);

/// Appends the count of codes that are one of `codes`, in the first image.
pub(super) fn count(
    cx: &mut Cx,
    (layer, kind, name): (&str, MetricKind, String),
    (source, shape): (Source, Shape),
    codes: &[i32],
) -> Metric {
    let counter = cx.persistent(name.clone(), &[0], COUNT);
    let hits = shape.blocks() as i64 * shape.h as i64 * shape.w as i64 * codes.len() as i64;
    let lanes = cx.temp(format!("{name}.lanes"), DType::I64, &[16], Range::new(-hits, 0));
    let padding = if codes.contains(&source.zero) { (shape.cp() - shape.c) * shape.h * shape.w } else { 0 };
    cx.call("count", 1, |kx| {
        let (sum, total) = (kx.update(lanes), kx.update(counter));
        kx.fill(sum.at(0), 16, 0);
        kx.for_(shape.blocks(), |kx, block| {
            kx.for_(shape.h, |kx, y| {
                kx.for_(shape.w, |kx, x| {
                    let at = At {
                        n: Coord::default(),
                        y: Coord::index(y),
                        x: Coord::index(x),
                        block: Coord::index(block),
                    };
                    let address = source.address(kx, &at);
                    let v = kx.load(address);
                    let v = kx.widen(DType::I16, v);
                    for &code in codes {
                        let code = kx.splat_const(DType::I16, code);
                        let is = kx.eq(v, code);
                        kx.acc64(sum.at(0), is);
                    }
                });
            });
        });
        // Lanes hold minus the number of hits; padding lanes are always zero codes.
        let padding = kx.int(-(padding as i64));
        kx.acc64(total.at(0), padding);
        kx.for_(16, |kx, lane| {
            let v = kx.load_scalar(sum.at(0).plus(lane, 1));
            let zero = kx.int(0);
            let v = kx.sub(zero, v);
            kx.acc64(total.at(0), v);
        });
    });
    let elements = shape.h as u64 * shape.w as u64 * shape.c as u64;
    Metric { layer: layer.to_owned(), kind, elements, buffer: name }
}

/// Appends the range of the exponents of a scale (one dyadic or one a channel).
pub(super) fn scale_range(cx: &mut Cx, layer: &str, name: String, scale: BufferId, channels: u32) -> Metric {
    let range = cx.persistent(name.clone(), &[1024, -1024], Range::new(-1024, 1024));
    let n = channels.min(cx.program.get(scale).len() as u32);
    cx.call("scale_range", 1, |kx| {
        let (s, r) = (kx.read(scale), kx.update(range));
        kx.for_(n, |kx, c| {
            let v = kx.load_scalar(s.at(0).plus(c, 1));
            let e = kx.exponent(v);
            let e = kx.clamp(e, -1024, 1024);
            kx.min_into(r.at(0), e);
            kx.max_into(r.at(1), e);
        });
    });
    Metric { layer: layer.to_owned(), kind: MetricKind::ScaleRange, elements: 0, buffer: name }
}
