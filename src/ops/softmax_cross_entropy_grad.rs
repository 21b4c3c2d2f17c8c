//! Derivative of the mean cross entropy by the logits: (softmax(logits) − one-hot(label)) / batch.

use super::softmax_cross_entropy::{check, softmax};
use super::{Eval, Op, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};

pub(super) struct SoftmaxCrossEntropyGrad;

impl Op for SoftmaxCrossEntropyGrad {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of the mean cross entropy by the logits, from (logits, labels)"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        check("softmax_cross_entropy_grad", operands)?;
        Ok(vec![shapes::like(operands[0])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let labels = operands[1];
        let mut gradient = softmax(operands[0]);
        let classes = gradient.dim(1);
        for (row, &label) in gradient.data.chunks_mut(classes).zip(&labels.data) {
            if let Some(target) = row.get_mut(label as usize) {
                *target -= 1.0;
            }
            row.iter_mut().for_each(|p| *p /= labels.data.len() as f64);
        }
        vec![gradient]
    }

    fn reads(&self, operand: usize) -> Read {
        if operand == 0 { Read::Wide } else { Read::Real }
    }
}
