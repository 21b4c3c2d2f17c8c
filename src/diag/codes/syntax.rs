//! E01: the text of a model file.

use super::Code;

pub(super) static CODES: &[Code] = &[
    Code {
        code: "E0101",
        title: "unexpected text",
        explanation: "The text does not follow the grammar at the marked place; the message says what could stand \
                      there. The language reference (grammar/README.md) shows every form. After an error the rest \
                      of the file is still read, leaving out the innermost braces around it, so that one run \
                      reports several errors.",
    },
    Code {
        code: "E0102",
        title: "file too large",
        explanation: "A model file may have at most 1 MiB. Repetition (`|> basic(16) * 3`) and blocks keep files \
                      small; data never belongs into a model file.",
    },
    Code {
        code: "E0103",
        title: "nested too deeply",
        explanation: "Parentheses and braces may nest 128 deep, and one expression may chain 64 operators or \
                      10,000 pipeline stages. Name parts of the expression with a binding (`half = channels / 2`) \
                      or move them into a block.",
    },
    Code {
        code: "E0104",
        title: "number out of range",
        explanation: "An integer must fit into 64 bits with sign, a side of a size such as `32x32x3` into 63 bits, \
                      and a real number must be finite.",
    },
    Code {
        code: "E0105",
        title: "not a text file",
        explanation: "A model file is UTF-8 text. The file contains bytes that are not; it may be an image, an \
                      archive, or saved in another encoding.",
    },
];
