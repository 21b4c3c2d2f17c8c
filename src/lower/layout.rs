//! Copies of codes in the layouts that contractions read, written by the kernels that produce the codes.
//!
//! Transposes are built from byte interleaves only: four stages of perfect shuffles turn 16 pixels of 16 channels into
//! 16 channels of 16 pixels, two stages turn four pixels into groups of four.

use super::affine::Source;
use super::codes::{Codes, GradientCodes, PARITY_SLACK, Planes};
use super::contract::Conv;
use super::cx::{Coord, Cx, Kx, Shape};
use crate::kernel::{Address, BufferId, DType, Index, Range, Value};

/// 16 vectors of 16 bytes, transposed.
pub(super) fn transpose16(kx: &mut Kx, rows: Vec<Value>) -> Vec<Value> {
    (0..4).fold(rows, |rows, _| {
        let half = rows.len() / 2;
        (0..half)
            .flat_map(|i| {
                let low = kx.interleave(rows[i], rows[i + half], false);
                let high = kx.interleave(rows[i], rows[i + half], true);
                [low, high]
            })
            .collect()
    })
}

/// Four vectors of 16 bytes as 16 groups of four: group j holds byte j of each.
pub(super) fn groups4(kx: &mut Kx, rows: [Value; 4]) -> [Value; 4] {
    let even = [kx.interleave(rows[0], rows[2], false), kx.interleave(rows[0], rows[2], true)];
    let odd = [kx.interleave(rows[1], rows[3], false), kx.interleave(rows[1], rows[3], true)];
    [
        kx.interleave(even[0], odd[0], false),
        kx.interleave(even[0], odd[0], true),
        kx.interleave(even[1], odd[1], false),
        kx.interleave(even[1], odd[1], true),
    ]
}

/// An NHWC tensor of bytes with a border.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bordered {
    pub(super) source: Source,
    /// Border: top, bottom, left, right.
    pub(super) border: (u32, u32, u32, u32),
}

impl Bordered {
    /// Allocates `[n][top + h + bottom][left + w + right][channels]` with 16 elements of slack.
    pub(super) fn new(
        cx: &mut Cx,
        name: String,
        shape: Shape,
        channels: u32,
        border: (u32, u32, u32, u32),
        dtype: DType,
        range: Range,
    ) -> Bordered {
        let (top, bottom, left, right) = border;
        let (rows, columns) = (shape.h + top + bottom, shape.w + left + right);
        let image = rows * columns * channels;
        let buffer = cx.temp(name, dtype, &[shape.n * image + 16], range);
        let row = (columns * channels) as i64;
        let strides = [image as i64, row, channels as i64];
        let offset = top as i64 * row + (left * channels) as i64;
        Bordered { source: Source { buffer, offset, strides, zero: 0, raised: 0 }, border }
    }

    /// Writes `value` (16 lanes) to the border of an image, one block of channels.
    pub(super) fn fill(&self, kx: &mut Kx, n: &Coord, block: &Coord, shape: Shape, value: Value) {
        let (top, bottom, left, right) = self.border;
        let p = kx.write(self.source.buffer);
        let [image, row, pixel] = self.source.strides;
        let corner = self.source.offset - top as i64 * row - left as i64 * pixel;
        let start = block.address(n.address(p.at(corner), image), 16);
        let columns = shape.w + left + right;
        let area = |kx: &mut Kx, y: u32, x: u32, height: u32, width: u32| {
            if height == 0 || width == 0 {
                return;
            }
            let start = start.clone().offset(y as i64 * row + x as i64 * pixel);
            kx.for_(height, |kx, i| {
                kx.for_(width, |kx, j| kx.store(start.clone().plus(i, row).plus(j, pixel), value));
            });
        };
        area(kx, 0, 0, top, columns);
        area(kx, top + shape.h, 0, bottom, columns);
        area(kx, top, 0, shape.h, left);
        area(kx, top, left + shape.w, shape.h, right);
    }
}

impl Planes {
    /// Allocates the planes of a tensor of `channels` channels for a stride.
    pub(super) fn new(
        cx: &mut Cx,
        name: String,
        shape: Shape,
        channels: u32,
        stride: u32,
        padding: u32,
    ) -> Planes {
        let columns = (shape.w + 2 * padding).div_ceil(stride);
        let (row, rows) = (Planes::row_elements(shape, stride, padding), shape.h + 2 * padding);
        let image = Planes::image_elements(shape, channels, stride, padding);
        let channel = image / channels as i64;
        let extents = [shape.n, channels, channel as u32];
        let buffer = cx.temp(name, DType::U8, &extents, DType::U8.range());
        Planes { buffer, stride, padding, image, channel, row, columns, rows }
    }

    /// Groups of four are read from any column, and the last group of outputs may reach beyond the border.
    fn row_elements(shape: Shape, stride: u32, padding: u32) -> i64 {
        ((shape.w + 2 * padding).div_ceil(stride) + 4).next_multiple_of(4) as i64
    }

    /// Elements of the planes of one image.
    pub(super) fn image_elements(shape: Shape, channels: u32, stride: u32, padding: u32) -> i64 {
        let rows = stride as i64 * (shape.h + 2 * padding) as i64;
        let slack = (stride as i64 - 1) * PARITY_SLACK + 32;
        channels as i64 * (rows * Planes::row_elements(shape, stride, padding) + slack)
    }

    /// Copies one image of NHWC codes, `start` being the first element of its planes, which hold the zero code or an
    /// image that was copied before: borders are not written.
    pub(super) fn copy_image(&self, kx: &mut Kx, from: &Source, n: &Coord, start: &Address, shape: Shape) {
        let zero = kx.splat_const(DType::U8, from.zero);
        let codes = kx.read(from.buffer);
        kx.for_(shape.blocks(), |kx, block| {
            let start = start.clone().plus(block, 16 * self.channel);
            kx.for_(shape.h, |kx, y| {
                let [image, row, pixel] = from.strides;
                let line = n.address(codes.at(from.offset), image).plus(y, row).plus(block, 16);
                let load = move |kx: &mut Kx, x: Coord| kx.load(x.address(line.clone(), pixel));
                self.copy_row(kx, &start, &Coord::index(y), shape.w, zero, &load);
            });
        });
    }

    /// Copies one row of 16 channels from NHWC.
    fn copy_row(
        &self,
        kx: &mut Kx,
        start: &Address,
        y: &Coord,
        width: u32,
        zero: Value,
        load: &dyn Fn(&mut Kx, Coord) -> Value,
    ) {
        let row = y.address(start.clone().offset(self.padding as i64 * self.row), self.row);
        for parity in 0..self.stride {
            let row = row.clone().offset(self.plane(parity));
            // Column j of the parity is pixel stride·j + parity − padding.
            let lead = self.padding.saturating_sub(parity).div_ceil(self.stride);
            let first = lead * self.stride + parity - self.padding;
            let pixels = if width > first { (width - first).div_ceil(self.stride) } else { 0 };
            if lead > 0 {
                self.store_columns(kx, &row, 0, &[zero; 16], true);
            }
            let at = |kx: &mut Kx, group: Option<Index>, base: u32, i: u32| {
                let x = Coord::default().offset(first as i64 + ((base + i) * self.stride) as i64);
                let x = group.map_or(x.clone(), |g| x.plus(g, 16 * self.stride as i64));
                load(kx, x)
            };
            if pixels >= 16 {
                kx.for_(pixels / 16, |kx, g| {
                    let lanes = (0..16).map(|i| at(kx, Some(g), 0, i)).collect();
                    let lanes = transpose16(kx, lanes);
                    self.store_columns(kx, &row.clone().plus(g, 16), lead, &lanes, false);
                });
            }
            let done = pixels / 16 * 16;
            if done < pixels {
                let lanes =
                    (0..16).map(|i| if done + i < pixels { at(kx, None, done, i) } else { zero }).collect();
                let lanes = transpose16(kx, lanes);
                self.store_columns(kx, &row, lead + done, &lanes, false);
            }
            let written = lead + pixels.next_multiple_of(16);
            if written < self.columns {
                self.store_columns(kx, &row, written, &[zero; 16], true);
            }
        }
    }

    /// Stores 16 columns of 16 channels.
    fn store_columns(&self, kx: &mut Kx, row: &Address, column: u32, lanes: &[Value], equal: bool) {
        let at = row.clone().offset(column as i64);
        if equal {
            kx.for_(16, |kx, c| kx.store(at.clone().plus(c, self.channel), lanes[0]));
            return;
        }
        for (c, &lane) in lanes.iter().enumerate() {
            kx.store(at.clone().offset(c as i64 * self.channel), lane);
        }
    }
}

/// Copies one row of 16 channels into blocks of four pixels; missing pixels are `zero`.
pub(super) fn copy_blocked(
    kx: &mut Kx,
    row: &Address,
    shape: Shape,
    zero: Value,
    load: &dyn Fn(&mut Kx, Coord) -> Value,
) {
    let quad = shape.cp() as i64 * 4;
    let store = |kx: &mut Kx, at: Address, pixels: [Value; 4]| {
        for (i, lanes) in groups4(kx, pixels).into_iter().enumerate() {
            kx.store(at.clone().offset(16 * i as i64), lanes);
        }
    };
    if shape.w >= 4 {
        kx.for_(shape.w / 4, |kx, q| {
            let pixels = std::array::from_fn(|i| load(kx, Coord::default().plus(q, 4).offset(i as i64)));
            store(kx, row.clone().plus(q, quad), pixels);
        });
    }
    let (done, rest) = (shape.w / 4 * 4, shape.w % 4);
    if rest > 0 {
        let pixels = std::array::from_fn(|i| {
            if (i as u32) < rest { load(kx, Coord::default().offset((done + i as u32) as i64)) } else { zero }
        });
        store(kx, row.clone().offset((done / 4) as i64 * quad), pixels);
    }
}

/// Codes of a linear layer's input as `[feature][sample]`: the buffer and its row length.
pub(super) fn transpose_batch(cx: &mut Cx, path: &str, conv: Conv, input: &Codes) -> (BufferId, i64) {
    let n = conv.input.n;
    let features = (conv.taps() as i64 * input.nhwc.strides[2]) as u32;
    let blocks = features.div_ceil(16);
    let row = n.next_multiple_of(16) as i64;
    let out =
        cx.temp(format!("{path}.input_by_feature"), DType::U8, &[blocks * 16, row as u32], DType::U8.range());
    cx.call("transpose_batch", blocks, |kx| {
        let item = kx.item();
        let (a, o) = (kx.read(input.nhwc.buffer), kx.write(out));
        let zero = kx.splat_const(DType::U8, 0);
        let group = |kx: &mut Kx, index: Option<Index>, first: u32| {
            let lanes = (0..16)
                .map(|i| {
                    if index.is_none() && first + i >= n {
                        return zero;
                    }
                    let sample = Coord::default().offset((first + i) as i64);
                    let sample = index.map_or(sample.clone(), |g| sample.plus(g, 16));
                    let at = sample.address(a.at(input.nhwc.offset), input.nhwc.strides[0]);
                    kx.load(at.plus(item, 16))
                })
                .collect();
            for (f, lane) in transpose16(kx, lanes).into_iter().enumerate() {
                let at = o.at(f as i64 * row + first as i64).plus(item, 16 * row);
                let at = index.map_or(at.clone(), |g| at.plus(g, 16));
                kx.store(at, lane);
            }
        };
        if n >= 16 {
            kx.for_(n / 16, |kx, g| group(kx, Some(g), 0));
        }
        if !n.is_multiple_of(16) {
            group(kx, None, n / 16 * 16);
        }
    });
    (out, row)
}

/// Gradient codes of a linear layer in blocks of four samples: `[sample/4][channel][4]`, i8, missing samples zero.
pub(super) fn block_batch(cx: &mut Cx, path: &str, conv: Conv, gradient: &GradientCodes) -> BufferId {
    let shape = Shape { n: 1, h: 1, w: conv.output.n, c: conv.output.c };
    let len = shape.w.div_ceil(4) * shape.cp() * 4;
    let largest = gradient.largest as i64;
    let out = cx.temp(format!("{path}.gradient_by_four"), DType::I8, &[len], Range::new(-largest, largest));
    cx.call("block_batch", shape.blocks(), |kx| {
        let block = Coord::index(kx.item());
        let (g, o) = (kx.read(gradient.blocked.expect("a weight gradient reads blocks")), kx.write(out));
        let zero = kx.splat_const(DType::I8, 0);
        let image = gradient.blocked_image;
        let load = move |kx: &mut Kx, n: Coord| {
            let at = block.address(n.address(g.at(0), image), 16);
            kx.load(at)
        };
        let row = Coord::index(kx.item()).address(o.at(0), 64);
        copy_blocked(kx, &row, shape, zero, &load);
    });
    out
}
