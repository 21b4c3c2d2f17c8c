//! Derivative of the rectified linear unit: dy where its input was positive, else 0 (0 at 0).

use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};

pub(super) struct ReluGrad;

impl Op for ReluGrad {
    fn name(&self) -> &'static str {
        "relu_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of relu, from (dy, x)"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("relu_grad", operands, 2..=2)?;
        shapes::expect("relu_grad", "the input", operands[1], &operands[0].shape)?;
        Ok(vec![shapes::like(operands[0])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        vec![operands[0].zip(operands[1], |dy, x| if x > 0.0 { dy } else { 0.0 })]
    }

    fn part(&self) -> Part {
        Part::Mask
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
