//! What contractions have in common: geometry of those that slide a window, a bias that may be there, what operands are
//! read as.

use super::{Read, append_gradient, sample_attrs};
use crate::diag::Diagnostic;
use crate::ir::{Attr, Attrs, Init, Module, Node, Role, TensorType, Value};
use crate::types::{Kind, Literal, ParamSpec, flag, ints};

/// `stride` and `padding`, as the gradient ops have them too.
pub(super) const GEOMETRY: &[ParamSpec] = &[
    ParamSpec::required("padding", Kind::Int { lo: 0, hi: 64 }, "width of the border of zeros"),
    ParamSpec::required("stride", Kind::Int { lo: 1, hi: 64 }, "step between windows"),
];

/// `stride` of a layer that convolves.
pub(super) const STRIDE: ParamSpec =
    ParamSpec::optional("stride", Kind::Int { lo: 1, hi: 64 }, Literal::Int(1), "step between windows");
/// `padding` of a layer that convolves.
pub(super) const PADDING: ParamSpec = ParamSpec::optional(
    "padding",
    Kind::OneOf(&[Kind::Int { lo: 0, hi: 64 }, Kind::Word(&["same", "valid"])]),
    Literal::Word("same"),
    "width of the border; `same` keeps the size at stride 1, `valid` has none",
);
/// `bias` of a layer.
pub(super) const BIAS: ParamSpec = ParamSpec::optional(
    "bias",
    Kind::OneOf(&[Kind::Bool, Kind::Word(&["auto"])]),
    Literal::Word("auto"),
    "whether a bias is added; `auto`: where no batch norm follows",
);

/// Height and width of the window that `kernel` asks for.
pub(super) fn kernel(args: &Attrs) -> [u64; 2] {
    [0, 1].map(|i| ints(args, "kernel").get(i).map_or(1, |&k| k as u64))
}

/// The attributes that are [`GEOMETRY`], of a layer's arguments.
pub(super) fn geometry(args: &Attrs, padding: i64) -> Attrs {
    sample_attrs(GEOMETRY, &[("stride", args["stride"].clone()), ("padding", Attr::Int(padding))])
}

/// Input and weight of a layer, and a bias for so many outputs if it has one.
pub(super) fn operands(
    module: &mut Module,
    path: &str,
    [input, weight]: [Value; 2],
    outputs: u64,
    args: &Attrs,
) -> Vec<Value> {
    let mut values = vec![input, weight];
    // `auto` is the elaborator's to decide, which sees what follows; undecided it is a bias.
    if flag(args, "bias") || matches!(args.get("bias"), Some(Attr::Word(_))) {
        values.push(module.param(path, "bias", TensorType::real([outputs]), Init::Constant(0.0)));
    }
    values
}

/// Codes of activations, codes of weights, and a bias in real numbers.
pub(super) fn reads(operand: usize) -> Read {
    match operand {
        0 => Read::Codes { role: Role::Activations, per_channel: false },
        1 => Read::Codes { role: Role::Weights, per_channel: true },
        _ => Read::Real,
    }
}

/// The gradients of all operands, from those of input and weight and that of the result.
pub(super) fn gradients(
    module: &mut Module,
    node: &Node,
    dy: Value,
    [dx, dw]: [Value; 2],
) -> Vec<Option<Value>> {
    let mut result = vec![Some(dx), Some(dw)];
    if node.operands.len() == 3 {
        result.push(Some(append_gradient(module, node, "bias_grad", &[dy], [])[0]));
    }
    result
}

/// The border that `padding` asks for, or E0308.
pub(super) fn padding(args: &Attrs, [kh, kw]: [u64; 2]) -> Result<i64, Diagnostic> {
    match &args["padding"] {
        Attr::Int(n) => Ok(*n),
        Attr::Word(word) if word == "valid" => Ok(0),
        _ if kh == kw && kh % 2 == 1 => Ok((kh as i64 - 1) / 2),
        _ => Err(Diagnostic::new(
            "E0308",
            format!("`padding = same` needs a square kernel of odd size, but it is {kh}x{kw}"),
        )
        .help("give the padding as a number, which is the same on all sides, or `valid`")),
    }
}
