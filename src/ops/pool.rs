//! What pools have in common: the arguments of their layers and the attributes of their ops.

use crate::ir::{Attr, Attrs};
use crate::types::{Kind, Literal, ParamSpec, int};

/// `size` of a pool and of its gradient.
pub(super) const SIZE: ParamSpec =
    ParamSpec::required("size", Kind::Int { lo: 1, hi: 64 }, "height and width of the window");
/// `stride` of a pool and of its gradient.
pub(super) const STRIDE: ParamSpec =
    ParamSpec::required("stride", Kind::Int { lo: 1, hi: 64 }, "step between windows");

/// `stride` of a pooling layer.
pub(super) const fn stride() -> ParamSpec {
    let kind = Kind::OneOf(&[Kind::Int { lo: 1, hi: 64 }, Kind::Word(&["size"])]);
    ParamSpec::optional(
        "stride",
        kind,
        Literal::Word("size"),
        "step between windows; by default its size, so that windows tile",
    )
}

/// The attributes of a pool from the arguments of its layer.
pub(super) fn attrs(args: &Attrs) -> Attrs {
    let mut attrs = args.clone();
    if let Some(Attr::Word(_)) = args.get("stride") {
        attrs.insert("stride".to_owned(), Attr::Int(int(args, "size")));
    }
    attrs
}
