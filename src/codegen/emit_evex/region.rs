//! Regions: loops over lanes that become leaf functions in wide vectors, and what they take from around them.
//!
//! A region is a loop of a kernel, with everything in it, that computes on lanes only: no contraction, no dyadics, and
//! no scalars but those that it takes from outside. The code around it stays Cranelift's; it writes what the region
//! takes into a context in memory and passes its address. Instructions are chosen for 512 bits, and rewritten for 256
//! where the target has no more. What a region cannot express is refused, and stays Cranelift's too.

use super::allocate::allocate;
use super::asm::Result;
use super::encode::encode;
use super::narrow::narrow;
use super::select::Select;
use crate::kernel::{Address, Expr, Index, Kernel, Param, Range, Stmt, Value};
use crate::targets::Wide;
use std::collections::BTreeMap;

/// Turns of blocks below which a region is not worth a call.
const FEWEST_TURNS: u64 = 16;

/// A number or block that a region takes, at its place in the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::codegen) enum Capture {
    /// The address of an element, by the loops around the region.
    Address(Address),
    /// The position of random blocks by the loops around the region: `Σ index·stride`, in blocks.
    Position(Vec<(Index, i64)>),
    /// An Int.
    Scalar(Value),
    /// Lanes or pairs, in 64 bytes.
    Lanes(Value),
}

impl Capture {
    /// Bytes in the context.
    pub(in crate::codegen) fn bytes(&self) -> i64 {
        if matches!(self, Capture::Lanes(_)) { 64 } else { 8 }
    }
}

/// A region as a leaf function `(context)`.
pub(in crate::codegen) struct Region {
    pub(in crate::codegen) bytes: Vec<u8>,
    /// What the context holds, with offsets.
    pub(in crate::codegen) captures: Vec<(i64, Capture)>,
}

/// What is known of a kernel around a region.
#[derive(Clone, Copy)]
pub(in crate::codegen) struct Around<'a> {
    pub(in crate::codegen) kernel: &'a Kernel,
    /// Vectors of the target.
    pub(in crate::codegen) wide: &'a Wide,
    /// Proven ranges of the values.
    pub(in crate::codegen) ranges: &'a [Range],
    /// Where every value of the kernel is defined.
    pub(in crate::codegen) definitions: &'a BTreeMap<Value, &'a Expr>,
    /// Whether a call may pass one buffer for both parameters.
    pub(in crate::codegen) may_alias: &'a dyn Fn(Param, Param) -> bool,
}

/// The loop as a region, if it can be one. An error is internal.
pub(in crate::codegen) fn region(stmt: &Stmt, around: Around) -> Result<Option<Region>> {
    let mut select = Select::new(around, stmt);
    if turns(stmt) < FEWEST_TURNS || select.stmt(stmt).is_err() {
        return Ok(None);
    }
    let (mut code, captures) = select.finish();
    if around.wide.bytes < 64 {
        let Ok(narrowed) = narrow(&code) else { return Ok(None) };
        code = narrowed;
    }
    let Ok(homes) = allocate(&code, around.wide.registers) else { return Ok(None) };
    Ok(Some(Region { bytes: encode(&code, homes, around.wide)?, captures }))
}

/// How many statements on lanes run in all.
fn turns(stmt: &Stmt) -> u64 {
    match stmt {
        Stmt::For { count, body, .. } => *count as u64 * body.iter().map(turns).sum::<u64>(),
        Stmt::Store(..) | Stmt::Acc64(..) | Stmt::MaxInto(..) | Stmt::MinInto(..) => 1,
        Stmt::Let(..) | Stmt::Contract(_) => 0,
    }
}
