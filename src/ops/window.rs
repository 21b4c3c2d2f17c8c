//! The geometry of convolutions and pools: which input pixels a window reads.

use crate::diag::Diagnostic;
use crate::types::{Attrs, int};

/// A window that slides over an image with a border of `padding` on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the window.
    pub kernel: [u64; 2],
    /// Step between windows.
    pub stride: u64,
    /// Width of the border.
    pub padding: u64,
}

impl Window {
    /// The window of a convolution with these attributes: `stride`, `padding`.
    pub fn conv(kernel: [u64; 2], attrs: &Attrs) -> Window {
        Window {
            kernel,
            stride: int(attrs, "stride").max(1) as u64,
            padding: int(attrs, "padding").max(0) as u64,
        }
    }

    /// The window of a pool with these attributes: `size`, `stride`, and `padding` if it has one.
    pub fn pool(attrs: &Attrs) -> Window {
        let size = int(attrs, "size").max(1) as u64;
        Window::conv([size, size], attrs)
    }

    /// Extents of the output, or E0307 if the window does not fit.
    pub fn output(&self, op: &str, [height, width]: [u64; 2]) -> Result<[u64; 2], Diagnostic> {
        let [kh, kw] = self.kernel;
        let (h, w) = (height.saturating_add(2 * self.padding), width.saturating_add(2 * self.padding));
        if kh > h || kw > w {
            let message =
                format!("`{op}` has a window of {kh}x{kw}, but its padded input has {h}x{w} pixels");
            return Err(Diagnostic::new("E0307", message).help("a smaller window, or more padding"));
        }
        Ok([(h - kh) / self.stride + 1, (w - kw) / self.stride + 1])
    }

    /// Calls `f(output pixel, input pixel, tap)` for each pixel that a window reads inside the image: outputs in raster
    /// order, and the taps of an output in raster order.
    pub fn each(&self, input: [u64; 2], output: [u64; 2], mut f: impl FnMut(usize, usize, usize)) {
        let [kh, kw] = self.kernel;
        let inside = |o: u64, k: u64, extent: u64| {
            (o * self.stride + k).checked_sub(self.padding).filter(|&i| i < extent)
        };
        for oy in 0..output[0] {
            for ox in 0..output[1] {
                for ky in 0..kh {
                    let Some(iy) = inside(oy, ky, input[0]) else { continue };
                    for kx in 0..kw {
                        let Some(ix) = inside(ox, kx, input[1]) else { continue };
                        f(
                            (oy * output[1] + ox) as usize,
                            (iy * input[1] + ix) as usize,
                            (ky * kw + kx) as usize,
                        );
                    }
                }
            }
        }
    }
}
