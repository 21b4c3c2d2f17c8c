//! E02: names, arguments, and the parts of a file.

use super::Code;

pub(super) static CODES: &[Code] = &[
    Code {
        code: "E0201",
        title: "unknown name",
        explanation: "Nothing of this name is known here: no binding or parameter of the block, no block of the \
                      model, no layer, recipe, optimizer, schedule, precision policy, augmentation or setting, \
                      whichever the place asks for. `fqtc list` prints the built-in names.",
    },
    Code {
        code: "E0202",
        title: "unknown argument",
        explanation: "The layer, block, quantizer or other callee has no parameter of this name, or got more \
                      positional arguments than it has parameters. `fqtc explain <name>` prints its parameters.",
    },
    Code {
        code: "E0203",
        title: "missing argument",
        explanation: "A parameter without a default was not given. `fqtc explain <name>` prints the parameters and \
                      their defaults.",
    },
    Code {
        code: "E0204",
        title: "argument not accepted",
        explanation: "The value is of the wrong kind, outside the range of the parameter, or given twice. The help \
                      line says what the parameter is.",
    },
    Code {
        code: "E0205",
        title: "name defined twice",
        explanation: "A scope has each binding and parameter once, a model each block, and a file each recipe; blocks are \
                      not called like a layer, and parts of the model not `first`, `last` or `logits`, which are \
                      classes of layers in rules, nor `loss`, which every model has. Choose another name.",
    },
    Code {
        code: "E0206",
        title: "block calls itself",
        explanation: "Blocks cannot recurse, neither directly nor through other blocks: a model is a finite \
                      network whose size is known when it is compiled. Repeat a stage with `* n` instead.",
    },
    Code {
        code: "E0207",
        title: "no such layer",
        explanation: "A rule or a flag names a layer path that no layer of the model has. A path is the binding's \
                      name, else the layer's name and its ordinal, nested by block: `basic2.conv1`. `fqtc check` \
                      prints all paths. `*` in a path stands for any letters of one component; a block's path \
                      stands for all layers in it.",
    },
    Code {
        code: "E0208",
        title: "unknown key",
        explanation: "A `key=value` flag must name a setting of training (`train.epochs`, `optimizer.lr`, \
                      `schedule.warmup`), an argument of a rule (`gradients.bits`, `weights.per`, \
                      `rectify.strength`), a whole rule (`gradients=nearest(bits=4)`), one of them for a layer \
                      (`basic2.conv1.gradients.bits`) or an argument of a layer (`basic2.batch_norm2.gain`).",
    },
    Code {
        code: "E0209",
        title: "part missing or repeated",
        explanation: "A file has one model; a model has one `input`, one `classes` and one unnamed pipeline, its \
                      result; a block ends with one `return`.",
    },
];
