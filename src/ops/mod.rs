//! Ops: what a layer computes, its derivative, and how it lowers. One file and one table line each.
//!
//! An op's file answers every question about it; passes ask for facts here and never for names. Ops know nothing of
//! each other's files.

use crate::diag::Diagnostic;
use crate::ir::{Attrs, Module, Node, TensorType, Value};
pub use crate::tensor::Tensor;

/// An op of the training IR.
pub trait Op: Sync {
    /// Its name in the IR.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list` and `fqtc explain`.
    fn doc(&self) -> &'static str;

    /// Result types from operand types; the error says both sides of a mismatch.
    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic>;

    /// The real-valued meaning.
    fn eval_f64(&self, operands: &[&Tensor], attrs: &Attrs) -> Vec<Tensor>;

    /// Appends the gradient of `node` to `module`: from the cotangents of the results (None: zero) those of the
    /// operands (None: not differentiable or zero). Source of each formula in the op's file.
    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>>;
}
