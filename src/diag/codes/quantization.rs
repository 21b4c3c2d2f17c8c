//! E04: rules of quantization, rectification and replacement.

use super::Code;

pub(super) static CODES: &[Code] = &[
    Code {
        code: "E0401",
        title: "nothing says how to quantize",
        explanation: "Every step is integers, so weights, activations and gradients each need a rule: `quantize \
                      gradients with stochastic(bits = 8)`, in the model or in a recipe that it uses (`use recipe \
                      bn_rectified`, or `--recipe`). A flag such as `--gbits` changes a rule; it does not make \
                      one.",
    },
    Code {
        code: "E0402",
        title: "quantizer or rectifier unknown or unfit",
        explanation: "Each quantizer is made for weights, for activations or for gradients; `fqtc list quantizers` \
                      prints them, and `fqtc list rectifiers` those of batch norm. `none` leaves a tensor as it is.",
    },
    Code {
        code: "E0403",
        title: "bit-width out of range",
        explanation: "Codes have 2 to 8 bits: one bit leaves no code beside zero, and codes of more than eight \
                      bits do not fit the 8-bit multipliers that make the step fast. Some quantizers \
                      have narrow codes only: `fqtc explain logarithmic`.",
    },
    Code {
        code: "E0404",
        title: "condition depends on itself",
        explanation: "An `at gbits <= 4 { ... }` block is chosen by the bits of the broadest rule for gradients, \
                      so it cannot set these bits itself. Set them outside of the block.",
    },
    Code {
        code: "E0405",
        title: "nothing for a policy of bit-widths to move",
        explanation: "`train { precision cyclic(low = 3) }` moves the bits of weights and activations between `low` and \
                      those of their rules. Where none has more bits than `low`, nothing would move: give the rules \
                      more bits, `low` fewer, or leave the setting out.",
    },
];
