//! E05: targets, memory and the limits of this compiler.

use super::Code;

pub(super) static CODES: &[Code] = &[
    Code {
        code: "E0502",
        title: "arena too large",
        explanation: "All buffers of a step lie in one arena, addressed in units of 64 bytes by 32 bits: 256 GiB at \
                      most. Activations are kept for the backward pass, so that memory grows with batch, image and \
                      depth; `fqtc plan` shows where it goes.",
    },
    Code {
        code: "E0503",
        title: "no integer form",
        explanation: "The model means something, but this compiler has no integer kernels for it: images of more than \
                      four channels, a loss over something other than the result of `linear`, a depthwise \
                      convolution of the image or with a window of more than 64 pixels, `relu` or a pool that reads the \
                      image, batch norm or `relu` after `flatten`, batch norm of a convolution that something else reads \
                      unquantized, a pool whose window has too many pixels, a padded max pool of signed values, a tensor that both a \
                      linear layer and a padded convolution read, more than 16 `relu` between layers with weights, \
                      2^32 elements with their borders, more than 2^28 weights, a tensor \
                      that reaches a multiplication without a quantizer (`quantize ... with none`), sums that could \
                      exceed 32 bits, or an extent of 2^28 and more. \
                      The message says which, the label where; `fqtc list layers` shows what there is instead.",
    },
];
