//! Checks that ops share: number of operands, ranks, agreement of extents.

use crate::diag::Diagnostic;
use crate::ir::{Element, TensorType};

/// Elements that a tensor may have: offsets in the arena are 32 bits wide.
const MAX_ELEMENTS: u64 = 1 << 31;

/// `[8, 32, 32, 16]`.
pub(super) fn show(shape: &[u64]) -> String {
    format!("{shape:?}")
}

/// I0204 unless the op has one of these numbers of operands.
pub(super) fn arity(
    op: &str,
    operands: &[&TensorType],
    accepted: std::ops::RangeInclusive<usize>,
) -> Result<(), Diagnostic> {
    if accepted.contains(&operands.len()) {
        return Ok(());
    }
    let (lo, hi) = (accepted.start(), accepted.end());
    let wants = if lo == hi { lo.to_string() } else { format!("{lo} to {hi}") };
    Err(Diagnostic::new("I0204", format!("`{op}` takes {wants} values, but {} were given", operands.len())))
}

/// The extents of an image tensor, or E0301.
pub(super) fn image(op: &str, ty: &TensorType) -> Result<[u64; 4], Diagnostic> {
    <[u64; 4]>::try_from(&ty.shape[..]).map_err(|_| {
        let given = show(&ty.shape);
        Diagnostic::new(
            "E0301",
            format!("`{op}` needs an image [batch, height, width, channels], but is given {given}"),
        )
        .help("pooled and flattened tensors have no height and width: put this layer before them")
    })
}

/// The extents of a batch of vectors, or E0301.
pub(super) fn vectors(op: &str, ty: &TensorType) -> Result<[u64; 2], Diagnostic> {
    <[u64; 2]>::try_from(&ty.shape[..]).map_err(|_| {
        let given = show(&ty.shape);
        Diagnostic::new("E0301", format!("`{op}` needs vectors [batch, features], but is given {given}"))
            .help("put `flatten` or `global_avg_pool` before it")
    })
}

/// The last extent of an image or a batch of vectors, or E0301.
pub(super) fn channels(op: &str, ty: &TensorType) -> Result<u64, Diagnostic> {
    match ty.shape[..] {
        [_, _, _, c] | [_, c] => Ok(c),
        _ => Err(Diagnostic::new(
            "E0301",
            format!("`{op}` needs an image or vectors, but is given {}", show(&ty.shape)),
        )),
    }
}

/// E0301 unless the tensor has this shape.
pub(super) fn expect(op: &str, what: &str, ty: &TensorType, shape: &[u64]) -> Result<(), Diagnostic> {
    if ty.shape == shape {
        return Ok(());
    }
    let (want, given) = (show(shape), show(&ty.shape));
    Err(Diagnostic::new("E0301", format!("`{op}` needs {what} of shape {want}, but is given {given}")))
}

/// The type, unless it has more elements than an arena can hold (E0303).
pub(super) fn bounded(ty: TensorType) -> Result<TensorType, Diagnostic> {
    match ty.elements() {
        Some(n) if n < MAX_ELEMENTS => Ok(ty),
        _ => Err(Diagnostic::new(
            "E0303",
            format!("a tensor of shape {} has 2^31 elements or more", show(&ty.shape)),
        )
        .help("a smaller batch, image or number of channels")),
    }
}

/// A real tensor of the shape of another.
pub(super) fn like(ty: &TensorType) -> TensorType {
    TensorType::real(ty.shape.clone())
}

/// I0205 unless the tensor holds class numbers.
pub(super) fn labels(op: &str, ty: &TensorType) -> Result<(), Diagnostic> {
    match ty.element {
        Element::Label => Ok(()),
        _ => Err(Diagnostic::new("I0205", format!("`{op}` needs labels, but is given numbers"))),
    }
}
