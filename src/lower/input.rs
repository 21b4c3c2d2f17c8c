//! The image: raw planar pixels become codes in NHWC with four channels, and planes for the first weight gradient.
//!
//! A pixel is its own code; the zero code of a channel is its mean pixel, which is known only at run time. The border is
//! the mean pixel too: every buffer is filled with it before the pixels are written over it.

use std::collections::BTreeMap;

use super::affine::{Levels, Source};
use super::codes::{Codes, Planes, Zero};
use super::cx::{Coord, Cx, Kx, Shape};
use super::initial::Start;
use super::layout::groups4;
use crate::kernel::{BufferId, DType, Index, Kind, Value};

/// Channels of a pixel in NHWC: one group of a contraction.
pub(super) const IMAGE_CHANNELS: u32 = 4;
/// The unit of a pixel step: real = (pixel − mean)/64, about one standard deviation.
pub const IMAGE_SCALE: f64 = 1.0 / 64.0;

/// Buffers of the image that the runtime fills.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image {
    pub(super) pixels: BufferId,
    pub(super) mean: BufferId,
}

/// Declares them.
pub(super) fn declare(cx: &mut Cx, shape: Shape) -> Image {
    let n = shape.n * shape.c * shape.h * shape.w + 16;
    let pixels = cx.buffer("images".into(), DType::U8, &[n], DType::U8.range(), Kind::Input);
    let mean = cx.state("input.mean".into(), DType::U8, &[shape.c], DType::U8.range(), Start::Each(0));
    Image { pixels, mean }
}

/// Appends the copies: a border of `padding`, and planes by stride with their padding.
pub(super) fn codes(
    cx: &mut Cx,
    shape: Shape,
    image: Image,
    padding: u32,
    planes: &BTreeMap<u32, u32>,
) -> Codes {
    let (rows, columns) = (shape.h + 2 * padding, shape.w + 2 * padding);
    let row = (columns * IMAGE_CHANNELS) as i64;
    let size = (rows * columns * IMAGE_CHANNELS).next_multiple_of(16) + 16;
    let nhwc = cx.temp("image.nhwc".into(), DType::U8, &[shape.n, size], DType::U8.range());
    let strides = [size as i64, row, IMAGE_CHANNELS as i64];
    let offset = padding as i64 * (row + IMAGE_CHANNELS as i64);
    let source = Source { buffer: nhwc, offset, strides, zero: 0, raised: 0 };
    let scale = cx.table("image.scale".into(), DType::Dyadic, vec![crate::numbers::packed(IMAGE_SCALE)]);
    let planes: BTreeMap<u32, Planes> = planes
        .iter()
        .map(|(&stride, &padding)| {
            let name = format!("image.planes{stride}");
            (stride, Planes::new(cx, name, shape, shape.c, stride, padding))
        })
        .collect();
    let items = shape.items();
    let group = (shape.n / items) as i64;
    cx.call("image", items, |kx| {
        let item = kx.item();
        let mean: Vec<Value> = (0..4).map(|c| lanes_of(kx, image.mean, c, shape.c)).collect();
        let pattern = groups4(kx, [mean[0], mean[1], mean[2], mean[3]])[0];
        kx.for_(group as u32, |kx, i| {
            let n = Coord::default().plus(item, group).plus(i, 1);
            let to = kx.update(nhwc);
            let start = n.address(to.at(0), size as i64);
            kx.for_(size / 16, |kx, b| kx.store(start.clone().plus(b, 16), pattern));
            kx.for_(shape.h, |kx, y| {
                let y = Coord::index(y);
                pixels_to_nhwc(kx, shape, image, &source, &mean, (&n, &y));
            });
            for planes in planes.values() {
                copy_planes(kx, shape, image, planes, &mean, &n);
            }
        });
    });
    let levels = Levels::all(0, 255);
    Codes { shape, levels, zero: Zero::Image(image.mean), scale, nhwc: source, padding, planes }
}

fn lanes_of(kx: &mut Kx, mean: BufferId, channel: u32, channels: u32) -> Value {
    if channel >= channels {
        return kx.splat_const(DType::U8, 0);
    }
    let p = kx.read(mean);
    let v = kx.load_scalar(p.at(channel as i64));
    kx.splat(DType::U8, v)
}

/// Address of a pixel of a plane.
fn pixel(
    kx: &mut Kx,
    shape: Shape,
    image: Image,
    (n, y): (&Coord, &Coord),
    c: u32,
) -> crate::kernel::Address {
    let p = kx.read(image.pixels);
    let plane = (shape.h * shape.w) as i64;
    let at = n.address(p.at(c as i64 * plane), shape.c as i64 * plane);
    y.address(at, shape.w as i64)
}

/// One row, four pixels at a time; the last ones singly.
fn pixels_to_nhwc(
    kx: &mut Kx,
    shape: Shape,
    image: Image,
    to: &Source,
    mean: &[Value],
    place: (&Coord, &Coord),
) {
    let p = kx.update(to.buffer);
    let row = place.1.address(place.0.address(p.at(to.offset), to.strides[0]), to.strides[1]);
    if shape.w >= 4 {
        kx.for_(shape.w / 4, |kx, q| {
            let channels = std::array::from_fn(|c| {
                if (c as u32) < shape.c {
                    let at = pixel(kx, shape, image, place, c as u32);
                    kx.load(at.plus(q, 4))
                } else {
                    mean[c]
                }
            });
            let four = groups4(kx, channels)[0];
            kx.store(row.clone().plus(q, 16), four);
        });
    }
    for x in shape.w / 4 * 4..shape.w {
        for c in 0..shape.c {
            let at = pixel(kx, shape, image, place, c);
            let v = kx.load_scalar(at.offset(x as i64));
            kx.store(row.clone().offset((x * IMAGE_CHANNELS + c) as i64), v);
        }
    }
}

/// Planes: filled with the mean pixel, then every row.
fn copy_planes(kx: &mut Kx, shape: Shape, image: Image, planes: &Planes, mean: &[Value], n: &Coord) {
    let p = kx.update(planes.buffer);
    for c in 0..shape.c {
        let start = n.address(p.at(c as i64 * planes.channel), planes.image);
        kx.for_(planes.channel as u32 / 16, |kx, b| kx.store(start.clone().plus(b, 16), mean[c as usize]));
        kx.for_(shape.h, |kx, y| {
            let from = pixel(kx, shape, image, (n, &Coord::index(y)), c);
            let to = start.clone().offset(planes.padding as i64 * planes.row).plus(y, planes.row);
            if planes.stride == 1 && shape.w >= 16 {
                copy_row(kx, from, to.offset(planes.padding as i64), shape.w);
            } else {
                copy_singly(kx, planes, from, to, shape.w);
            }
        });
    }
}

/// 16 pixels at a time; the last 16 overlap.
fn copy_row(kx: &mut Kx, from: crate::kernel::Address, to: crate::kernel::Address, width: u32) {
    let copy = |kx: &mut Kx, from: crate::kernel::Address, to: crate::kernel::Address| {
        let v = kx.load(from);
        kx.store(to, v);
    };
    kx.for_(width / 16, |kx, x: Index| copy(kx, from.clone().plus(x, 16), to.clone().plus(x, 16)));
    if !width.is_multiple_of(16) {
        let last = width as i64 - 16;
        copy(kx, from.offset(last), to.offset(last));
    }
}

/// Pixel x of the padded row lies in the plane of its parity.
fn copy_singly(
    kx: &mut Kx,
    planes: &Planes,
    from: crate::kernel::Address,
    to: crate::kernel::Address,
    width: u32,
) {
    let s = planes.stride;
    for start in 0..s.min(width) {
        let column = start + planes.padding;
        let to = to.clone().offset(planes.plane(column % s) + (column / s) as i64);
        kx.for_((width - start).div_ceil(s), |kx, j| {
            let v = kx.load_scalar(from.clone().offset(start as i64).plus(j, s as i64));
            kx.store(to.clone().plus(j, 1), v);
        });
    }
}

/// The mean pixel as one group of four u8, zero for missing channels.
pub(super) fn mean_group(cx: &mut Cx, path: &str, mean: BufferId) -> BufferId {
    let channels = cx.program.get(mean).len() as u32;
    let group = cx.temp(format!("{path}.mean4"), DType::U8, &[4], DType::U8.range());
    cx.call("mean_group", 1, |kx| {
        let (from, to) = (kx.read(mean), kx.write(group));
        kx.fill(to.at(0), 4, 0);
        kx.for_(channels, |kx, c| {
            let v = kx.load_scalar(from.at(0).plus(c, 1));
            kx.store(to.at(0).plus(c, 1), v);
        });
    });
    group
}
