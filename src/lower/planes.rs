//! The channel planes that weight gradients read, and which kind of them a convolution gets.
//!
//! In general columns lie by their parity in the stride ([`Planes`]). Small images get a plane for every column of taps
//! ([`TapPlanes`]), in which the pixels that it meets lie as the outputs do: rows follow each other without a border, so
//! that the reduction is one run over all of them, which is worth the copies where rows are short.

use super::affine::Source;
use super::codes::Planes;
use super::contract::Conv;
use super::cx::{Coord, Cx, Kx, Shape};
use super::layout::transpose16;
use crate::kernel::{Address, BufferId, DType};

/// The channel planes that a weight gradient reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Copied {
    Parities(Planes),
    Taps(TapPlanes),
}

/// Columns of taps that one contraction meets.
pub(super) struct Columns {
    /// The first, how many, and the distance from one to the next.
    pub(super) tap: u32,
    pub(super) taps: u32,
    pub(super) every: u32,
    /// Where the first lies in the planes of an image, and from one to the next.
    pub(super) start: i64,
    pub(super) apart: i64,
}

impl Copied {
    pub(super) fn image_elements(conv: &Conv) -> i64 {
        match TapPlanes::fit(conv) {
            true => TapPlanes::image_elements(conv),
            false => Planes::image_elements(conv.input, conv.input.cp(), conv.stride, conv.padding),
        }
    }

    /// Allocates the planes of `n` images.
    pub(super) fn new(cx: &mut Cx, path: &str, conv: &Conv, n: u32) -> Copied {
        if TapPlanes::fit(conv) {
            return Copied::Taps(TapPlanes::new(cx, path, conv, n));
        }
        let shape = Shape { n, ..conv.input };
        let (name, channels) = (format!("{path}.planes"), shape.cp());
        Copied::Parities(Planes::new(cx, name, shape, channels, conv.stride, conv.padding))
    }

    /// The buffer, and elements from one image, channel and row to the next.
    pub(super) fn strides(&self) -> (BufferId, i64, i64, i64) {
        match self {
            Copied::Parities(p) => (p.buffer, p.image, p.channel, p.row),
            Copied::Taps(p) => (p.buffer, p.image, p.channel, p.row),
        }
    }

    pub(super) fn copy_image(&self, kx: &mut Kx, from: &Source, n: &Coord, start: &Address, shape: Shape) {
        match self {
            Copied::Parities(p) => p.copy_image(kx, from, n, start, shape),
            Copied::Taps(p) => p.copy_image(kx, from, n, start, shape),
        }
    }

    pub(super) fn columns(&self, conv: &Conv) -> Vec<Columns> {
        let (taps, s) = (conv.kernel.1, conv.stride);
        let planes = match self {
            Copied::Taps(p) => return vec![Columns { tap: 0, taps, every: 1, start: 0, apart: p.plane }],
            Copied::Parities(planes) => planes,
        };
        // Columns of a parity of the padded input meet the taps with (tap + shift) mod s = parity.
        let shift = planes.padding - conv.padding;
        let of_parity = |parity: u32| {
            let tap = (0..taps.min(s)).find(|k| (k + shift) % s == parity)?;
            let column = ((tap + shift) / s) as i64;
            let start = planes.plane(parity) + shift as i64 * planes.row + column;
            Some(Columns { tap, taps: (taps - tap).div_ceil(s), every: s, start, apart: 1 })
        };
        (0..s).filter_map(of_parity).collect()
    }
}

/// `[image][channel][tap column][row][column]`, with the zero code where a tap lies outside of the image. A plane ends
/// with slack: rows are written in ascending order, each by a store of 16 that may reach into its neighbours, with the
/// zero code that they have there or until they are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct TapPlanes {
    buffer: BufferId,
    /// Elements from one image, channel, tap column, row to the next.
    image: i64,
    channel: i64,
    plane: i64,
    row: i64,
    padding: u32,
    taps: u32,
    /// For each column of taps 16 times 255 or 0: the pixels that it meets.
    masks: BufferId,
}

/// Columns of a plane: whole groups of four outputs.
fn columns(conv: &Conv) -> u32 {
    conv.output.w.next_multiple_of(4)
}

fn plane_elements(conv: &Conv) -> i64 {
    let rows = conv.input.h + 2 * conv.padding;
    (rows * columns(conv) + 16).next_multiple_of(64) as i64
}

impl TapPlanes {
    /// Whether the input of a convolution can be copied so.
    fn fit(conv: &Conv) -> bool {
        conv.stride == 1 && conv.input.w <= columns(conv) && columns(conv) <= 16 && conv.kernel.1 <= 16
    }

    /// Elements of the planes of one image.
    pub(super) fn image_elements(conv: &Conv) -> i64 {
        conv.input.cp() as i64 * conv.kernel.1 as i64 * plane_elements(conv)
    }

    /// Allocates the planes of `n` images.
    pub(super) fn new(cx: &mut Cx, path: &str, conv: &Conv, n: u32) -> TapPlanes {
        let (taps, padding, row) = (conv.kernel.1, conv.padding, columns(conv) as i64);
        let (plane, image) = (plane_elements(conv), TapPlanes::image_elements(conv));
        let channel = taps as i64 * plane;
        let extents = [n, conv.input.cp(), channel as u32];
        let buffer = cx.temp(format!("{path}.planes"), DType::U8, &extents, DType::U8.range());
        let met = (0..taps as i64).flat_map(|tap| (0..16).map(move |x| x + padding as i64 - tap));
        let met = met.map(|column| if (0..row).contains(&column) { 255 } else { 0 }).collect();
        let masks = cx.table(format!("taps_{taps}_{padding}_{row}"), DType::U8, met);
        TapPlanes { buffer, image, channel, plane, row, padding, taps, masks }
    }

    /// Copies one image of NHWC codes, `start` being the first element of its planes, which hold the zero code or an
    /// image that was copied before.
    pub(super) fn copy_image(&self, kx: &mut Kx, from: &Source, n: &Coord, start: &Address, shape: Shape) {
        let zero = kx.splat_const(DType::U8, from.zero);
        let (codes, masks) = (kx.read(from.buffer), kx.read(self.masks));
        let masks: Vec<_> = (0..self.taps as i64).map(|tap| kx.load(masks.at(16 * tap))).collect();
        let [image, row, pixel] = from.strides;
        kx.for_(shape.blocks(), |kx, block| {
            let start = start.clone().plus(block, 16 * self.channel).offset(self.padding as i64 * self.row);
            kx.for_(shape.h, |kx, y| {
                let line = n.address(codes.at(from.offset), image).plus(y, row).plus(block, 16);
                let pixels = (0..16).map(|x| match x < shape.w {
                    true => kx.load(line.clone().offset(x as i64 * pixel)),
                    false => zero,
                });
                let pixels = pixels.collect();
                let channels = transpose16(kx, pixels);
                for (tap, &mask) in masks.iter().enumerate() {
                    let tap = tap as i64;
                    let to =
                        start.clone().plus(y, self.row).offset(tap * self.plane + self.padding as i64 - tap);
                    for (c, &codes) in channels.iter().enumerate() {
                        let met = match (tap == self.padding as i64, from.zero) {
                            (true, _) => codes,
                            (false, 0) => kx.and(codes, mask),
                            (false, _) => {
                                let apart = kx.xor(codes, zero);
                                let met = kx.and(apart, mask);
                                kx.xor(met, zero)
                            }
                        };
                        kx.store(to.clone().offset(c as i64 * self.channel), met);
                    }
                }
            });
        });
    }
}
