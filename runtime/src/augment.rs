//! Augmentation of training images, in integers: a random shift with padding, and a random mirror image.
//!
//! Keyed by seed, epoch and sample, so that neither order nor threads matter.

use crate::data::Shape;
use crate::random::hash_key;

/// Separates this stream from all others of a run.
const STREAM: u64 = 0x4155_474D_454E_5431;

/// What to do to each training image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Shift by up to this many pixels in both directions, as if the image were padded with the mean pixel and then
    /// cropped at a random place. At most 255.
    pub pad_crop: u8,
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
                let source = y.checked_add_signed(draw.down).filter(|&y| y < shape.height);
                match source {
                    Some(source) => {
                        shift_row(&image[source * shape.width..][..shape.width], row, draw.right, mean)
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

/// `out[x] = row[x + right]`, the fill value outside.
fn shift_row(row: &[u8], out: &mut [u8], right: isize, fill: u8) {
    let width = row.len();
    let by = right.unsigned_abs().min(width);
    if right >= 0 {
        out[..width - by].copy_from_slice(&row[by..]);
        out[width - by..].fill(fill);
    } else {
        out[by..].copy_from_slice(&row[..width - by]);
        out[..by].fill(fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { channels: 2, height: 5, width: 6 };

    /// The definition: pad explicitly, crop, mirror.
    fn reference(image: &[u8], mean: &[u8], pad: usize, draw: Draw) -> Vec<u8> {
        let (h, w) = (SHAPE.height, SHAPE.width);
        let mut out = Vec::new();
        for c in 0..SHAPE.channels {
            let mut padded = vec![vec![mean[c]; w + 2 * pad]; h + 2 * pad];
            for y in 0..h {
                for x in 0..w {
                    padded[y + pad][x + pad] = image[(c * h + y) * w + x];
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
        for (pad, flip) in [(0, false), (0, true), (2, true), (4, false), (9, true)] {
            let augmentation = Augmentation { pad_crop: pad, flip };
            for sample in 0..200 {
                let mut out = vec![0; 60];
                augmentation.apply(&image, &mut out, SHAPE, &mean, [3, 1, sample]);
                let draw = augmentation.draw(3, 1, sample);
                assert_eq!(out, reference(&image, &mean, pad as usize, draw), "{draw:?}");
            }
        }
    }

    #[test]
    fn shifts_and_mirrors_are_drawn_evenly() {
        let augmentation = Augmentation { pad_crop: 2, flip: true };
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
        let augmentation = Augmentation { pad_crop: 4, flip: true };
        let draws =
            |seed, epoch| (0..64).map(|sample| augmentation.draw(seed, epoch, sample)).collect::<Vec<_>>();
        assert_eq!(draws(0, 0), draws(0, 0));
        assert_ne!(draws(0, 0), draws(0, 1));
        assert_ne!(draws(0, 0), draws(1, 0));
    }
}
