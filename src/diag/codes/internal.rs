//! Codes of broken invariants: the compiler checks itself after every step, and what it finds is its own fault.

use super::Code;

pub(super) static CODES: &[Code] = &[
    Code {
        code: "I0101",
        title: "not the text of a module",
        explanation: "The text of a training module does not follow `grammar/ir.pest`. Text that the compiler \
                      printed always reads back; if it does not, this is a bug, otherwise the text was edited.",
    },
    Code {
        code: "I0102",
        title: "value defined twice, or read before its definition",
        explanation: "In the training IR every value is defined once, before all that read it. A pass has broken \
                      this; the note names it.",
    },
    Code {
        code: "I0103",
        title: "parameters of a module disagree",
        explanation: "Two parameters share a name, or a parameter and its value differ in type. A pass has broken \
                      this; the note names it.",
    },
    Code {
        code: "I0104",
        title: "group in pieces",
        explanation: "The nodes of a group must follow one another, and its number must be known. A pass has \
                      broken this; the note names it.",
    },
    Code {
        code: "I0201",
        title: "unknown op",
        explanation: "A node of the training IR names an op that is not in the table; `fqtc list ops` prints it.",
    },
    Code {
        code: "I0202",
        title: "types of a node are not those that its op infers",
        explanation: "Each op infers the types of its results from its operands, and a module states them. A pass \
                      has made them differ; the note names it.",
    },
    Code {
        code: "I0203",
        title: "loss, logits or gradients are not what they are taken for",
        explanation: "The loss is a scalar, the logits are one number a class, and a gradient has the shape of its \
                      parameter. A pass has broken this; the note names it.",
    },
    Code {
        code: "I0204",
        title: "wrong number of operands",
        explanation: "A node of the training IR gives its op more or fewer values than the op takes.",
    },
    Code {
        code: "I0205",
        title: "labels expected",
        explanation: "An op of the training IR reads class numbers, but is given real numbers.",
    },
    Code {
        code: "I0206",
        title: "unknown scheme",
        explanation: "A node or a rule names a quantization scheme that the module does not declare.",
    },
    Code {
        code: "I0207",
        title: "quantizer node does not fit its scheme",
        explanation: "The scheme of a quantizer says what it quantizes, with or without a sign, per channel or per \
                      tensor, learned or not; the node says otherwise.",
    },
    Code {
        code: "I0208",
        title: "state of a quantizer has two owners, or none",
        explanation: "A quantizer of activations owns its range, and a stochastic one its random stream: paths and \
                      streams are distinct, and a derivative finds the quantizer that it belongs to.",
    },
    Code {
        code: "I0301",
        title: "pass at the wrong stage",
        explanation: "Each pass takes modules of one stage; `fqtc list passes` prints the order.",
    },
    Code {
        code: "I0501",
        title: "kernel program refused",
        explanation: "Every kernel program is verified before code is made of it: accesses lie inside their buffers, \
                      and interval analysis proves that no integer overflows. Lowering has written a program without \
                      that proof. Nothing was run. Please report the model; fewer bits, channels or images a step \
                      often avoid it.",
    },
    Code {
        code: "I0502",
        title: "memory plan refused",
        explanation: "An independent checker replays every memory plan, and has found two buffers that are needed at \
                      the same time in one place. Nothing was run. Please report the model.",
    },
];
