//! Quantized tensors as they lie in memory: codes, their copies, and their scale.

use std::collections::BTreeMap;

use super::affine::{Levels, Source};
use super::cx::Shape;
use crate::kernel::BufferId;

/// The code of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    /// A constant.
    Code(i32),
    /// The mean pixel: one u8 per channel, known at run time.
    Image(BufferId),
}

/// Elements between the rows of one parity and those of the next.
pub(super) const PARITY_SLACK: i64 = 16;

/// Channel planes of a padded image: `[image][channel][row][column parity][column]`.
///
/// Rows are written in ascending order, each by stores of 16 that may run into the next row, with the zero code; a parity
/// and a channel end with slack, because what follows them is written before their last row is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planes {
    pub(super) buffer: BufferId,
    pub(super) stride: u32,
    pub(super) padding: u32,
    /// Elements from one image, channel, row to the next.
    pub(super) image: i64,
    pub(super) channel: i64,
    pub(super) row: i64,
    /// Columns of one parity.
    pub(super) columns: u32,
    pub(super) rows: u32,
}

impl Planes {
    /// First element of the plane of a column parity.
    pub(super) fn plane(&self, parity: u32) -> i64 {
        parity as i64 * (self.rows as i64 * self.row + PARITY_SLACK)
    }
}

/// Activation codes.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) shape: Shape,
    pub(super) levels: Levels,
    pub(super) zero: Zero,
    /// One dyadic.
    pub(super) scale: BufferId,
    /// The codes in NHWC; the border of `padding` lies before element (0, 0, 0).
    pub(super) nhwc: Source,
    pub(super) padding: u32,
    /// Planes of the image for weight gradients, by stride. Those of activations are made where they are read.
    pub(super) planes: BTreeMap<u32, Planes>,
}

/// Gradient codes of a convolution's accumulators.
#[derive(Clone, Debug)]
pub(super) struct GradientCodes {
    /// Largest code.
    pub(super) largest: i32,
    /// U8 codes above `2^(bits−1)`, NHWC with a border of that zero code: for the data gradient.
    pub(super) nhwc: Option<Source>,
    /// I8 codes `[image][row][column/4][channel][4]`: for the weight gradient. Missing columns are zero.
    pub(super) blocked: Option<BufferId>,
    /// Elements of an image in `blocked`. A linear layer's codes are dense: it blocks samples, not pixels.
    pub(super) blocked_image: i64,
    /// What a code of 1 stands for, in units of dL/d accumulator: one dyadic, or one a channel where no data gradient reads
    /// the codes.
    pub(super) step: BufferId,
    /// Σ codes per channel of the weight gradient's encoding, i64, where the input's zero code needs it.
    pub(super) sums: Option<BufferId>,
}
