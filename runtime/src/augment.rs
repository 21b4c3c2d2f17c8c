//! Augmentation of training images, in integers: a random shift with padding, and a random mirror image.
//!
//! Keyed by seed, epoch and sample, so that neither order nor threads matter.

use crate::data::Shape;
use crate::random::hash_key;
use serde::{Deserialize, Serialize};

/// Separates this stream from all others of a run.
const STREAM: u64 = 0x4155_474D_454E_5431;

/// What an image is padded with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// The image itself, mirrored at the middle of its outermost pixels. Training images then have the statistics of whole
    /// ones, and so have batch norm's running averages, which images are tested with.
    #[default]
    Reflect,
    /// The mean pixel of all training images, as a centred image is padded with zeros in most of the literature.
    Mean,
}

impl Padding {
    /// Which of a line's `n` pixels, at least 1, is seen at a place in or beside it; `None` is the mean pixel.
    fn source(self, at: isize, n: usize) -> Option<usize> {
        match self {
            Padding::Reflect => {
                let period = (2 * (n - 1)).max(1);
                let at = at.rem_euclid(period as isize) as usize;
                Some(at.min(period - at))
            }
            Padding::Mean => usize::try_from(at).ok().filter(|&at| at < n),
        }
    }

    /// `out[x] = row[x + right]`, what the row is padded with outside.
    fn shift(self, row: &[u8], out: &mut [u8], right: isize, mean: u8) {
        let width = row.len();
        let by = right.unsigned_abs().min(width);
        let padded = if right >= 0 {
            out[..width - by].copy_from_slice(&row[by..]);
            width - by..width
        } else {
            out[by..].copy_from_slice(&row[..width - by]);
            0..by
        };
        for x in padded {
            out[x] = self.source(x as isize + right, width).map_or(mean, |source| row[source]);
        }
    }
}

/// What to do to each training image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Shift by up to this many pixels in both directions, as if the image were padded and then cropped at a random place.
    /// At most 255.
    pub pad_crop: u8,
    /// What moves in.
    pub padding: Padding,
    /// Mirror left and right with probability one half.
    pub flip: bool,
}

/// What was drawn for one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draw {
    /// Row of the source that becomes row 0.
    down: isize,
    /// Column of the source that becomes column 0, before mirroring.
    right: isize,
    mirror: bool,
}

impl Augmentation {
    fn draw(&self, seed: u64, epoch: u64, sample: u64) -> Draw {
        let bits = hash_key(hash_key(seed, epoch, STREAM), sample, 0);
        let shift = |bits: u64| {
            let choices = 2 * self.pad_crop as u64 + 1;
            ((((bits & 0xFFFF_FFFF) >> 8) * choices) >> 24) as isize - self.pad_crop as isize
        };
        Draw { down: shift(bits), right: shift(bits >> 32), mirror: self.flip && bits & 1 == 1 }
    }

    /// Writes the augmented image of a sample. `mean` has one pixel per channel.
    pub fn apply(
        &self,
        image: &[u8],
        out: &mut [u8],
        shape: Shape,
        mean: &[u8],
        [seed, epoch, sample]: [u64; 3],
    ) {
        let draw = self.draw(seed, epoch, sample);
        let plane = shape.height * shape.width;
        for (c, &mean) in mean.iter().enumerate() {
            let image = &image[c * plane..][..plane];
            let rows = out[c * plane..][..plane].chunks_exact_mut(shape.width);
            for (y, row) in rows.enumerate() {
                match self.padding.source(y as isize + draw.down, shape.height) {
                    Some(source) => {
                        let source = &image[source * shape.width..][..shape.width];
                        self.padding.shift(source, row, draw.right, mean);
                    }
                    None => row.fill(mean),
                }
                if draw.mirror {
                    row.reverse();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { channels: 2, height: 5, width: 6 };

    /// The definition, one reflection after the other.
    fn seen(padding: Padding, at: isize, n: usize) -> Option<usize> {
        let last = n as isize - 1;
        match at {
            _ if (0..=last).contains(&at) => Some(at as usize),
            _ if padding == Padding::Mean => None,
            ..0 => seen(padding, -at, n),
            _ => seen(padding, 2 * last - at, n),
        }
    }

    /// The definition: pad explicitly, crop, mirror.
    fn reference(image: &[u8], mean: &[u8], padding: Padding, pad: usize, draw: Draw) -> Vec<u8> {
        let (h, w) = (SHAPE.height, SHAPE.width);
        let mut out = Vec::new();
        for c in 0..SHAPE.channels {
            let mut padded = vec![vec![mean[c]; w + 2 * pad]; h + 2 * pad];
            for (y, row) in padded.iter_mut().enumerate() {
                for (x, pixel) in row.iter_mut().enumerate() {
                    let inside = |at: usize, n| seen(padding, at as isize - pad as isize, n);
                    if let (Some(y), Some(x)) = (inside(y, h), inside(x, w)) {
                        *pixel = image[(c * h + y) * w + x];
                    }
                }
            }
            for y in 0..h {
                for x in 0..w {
                    let x = if draw.mirror { w - 1 - x } else { x };
                    out.push(
                        padded[(y + pad).strict_add_signed(draw.down)]
                            [(x + pad).strict_add_signed(draw.right)],
                    );
                }
            }
        }
        out
    }

    #[test]
    fn images_are_crops_of_the_padded_original() {
        let image: Vec<u8> = (100..160).collect();
        let mean = [1, 2];
        let paddings = [Padding::Reflect, Padding::Mean];
        for (pad_crop, flip) in [(0, false), (0, true), (2, true), (4, false), (16, true)] {
            for augmentation in paddings.map(|padding| Augmentation { pad_crop, padding, flip }) {
                for sample in 0..200 {
                    let mut out = vec![0; 60];
                    augmentation.apply(&image, &mut out, SHAPE, &mean, [3, 1, sample]);
                    let draw = augmentation.draw(3, 1, sample);
                    let expected = reference(&image, &mean, augmentation.padding, pad_crop as usize, draw);
                    assert_eq!(out, expected, "{augmentation:?} {draw:?}");
                }
            }
        }
    }

    /// A line of one pixel has nothing to be mirrored but itself.
    #[test]
    fn images_of_one_pixel_stay_as_they_are() {
        let shape = Shape { channels: 1, height: 1, width: 1 };
        let augmentation = Augmentation { pad_crop: 4, ..Augmentation::default() };
        for sample in 0..50 {
            let mut out = [0];
            augmentation.apply(&[7], &mut out, shape, &[1], [0, 0, sample]);
            assert_eq!(out, [7]);
        }
    }

    #[test]
    fn shifts_and_mirrors_are_drawn_evenly() {
        let augmentation = Augmentation { pad_crop: 2, flip: true, ..Augmentation::default() };
        let mut counts = [[[0u32; 2]; 5]; 5];
        let n = 50_000;
        for sample in 0..n {
            let draw = augmentation.draw(0, sample % 7, sample);
            counts[(draw.down + 2) as usize][(draw.right + 2) as usize][draw.mirror as usize] += 1;
        }
        let expected = n as f64 / 50.0;
        let chi2: f64 =
            counts.iter().flatten().flatten().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
        assert!((20.0..100.0).contains(&chi2), "chi-square {chi2} with 49 degrees of freedom");
    }

    #[test]
    fn draws_depend_on_seed_epoch_and_sample() {
        let augmentation = Augmentation { pad_crop: 4, flip: true, ..Augmentation::default() };
        let draws =
            |seed, epoch| (0..64).map(|sample| augmentation.draw(seed, epoch, sample)).collect::<Vec<_>>();
        assert_eq!(draws(0, 0), draws(0, 0));
        assert_ne!(draws(0, 0), draws(0, 1));
        assert_ne!(draws(0, 0), draws(1, 0));
    }
}
