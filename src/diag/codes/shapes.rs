//! E03: shapes, sizes and types of values.

use super::Code;

pub(super) static CODES: &[Code] = &[
    Code {
        code: "E0301",
        title: "shapes do not fit",
        explanation: "An operand has a shape that the layer cannot take, or the shapes of two operands do not fit \
                      together. Shapes are written batch, height, width, channels (or batch, features). The labels \
                      show where the operands come from.",
    },
    Code {
        code: "E0302",
        title: "wrong type of value",
        explanation: "A number stands where a tensor is needed or the reverse, or a condition is not a comparison. \
                      Layers and blocks take tensors first, then their arguments; `if` and arithmetic work on \
                      numbers that are known when the model is compiled.",
    },
    Code {
        code: "E0303",
        title: "size out of range",
        explanation: "Every extent is at least 1, and a tensor has at most 2^31 - 1 elements, the batch included: \
                      buffers are addressed with 32-bit offsets. An image has at most 65,536 pixels a side, and a \
                      model 2 to 65,536 classes. Reduce the batch, the image or the number of \
                      channels.",
    },
    Code {
        code: "E0304",
        title: "model too large",
        explanation: "A model may have 10,000 nodes after repetition and blocks are written out, 100 blocks and \
                      400 expressions inside each other, 100,000 evaluated calls and expressions, and 4,000 rules.",
    },
    Code {
        code: "E0305",
        title: "logits do not match the classes",
        explanation: "The result of the model is one number per class and image: shape `[batch, classes]`. End the \
                      model with `linear(classes)`, after `global_avg_pool` or `flatten`.",
    },
    Code {
        code: "E0306",
        title: "arithmetic fails",
        explanation: "A static computation divides by zero, does not divide evenly, or leaves the 64-bit range. \
                      Sizes are whole numbers, so `/` must divide evenly.",
    },
    Code {
        code: "E0307",
        title: "window does not fit",
        explanation: "The window of a convolution or pool is larger than its padded input, so that it has no place \
                      at all. Pools and strides before it have made the image small: use a smaller window or fewer \
                      of them, or more padding.",
    },
    Code {
        code: "E0308",
        title: "padding does not fit the window",
        explanation: "Padding is one number for all four sides. `padding = same` therefore needs a square kernel of \
                      odd size, and a max pool's padding is at most half of its window, so that every window has a \
                      pixel of the image in it.",
    },
];
