//! The loss: mean over the batch of −ln softmax(logits)[label]; infinite for a label that is no class.

use super::{Eval, Op, Read, Sample, Tensor, append_gradient, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Element, Module, Node, TensorType, Value};

pub(super) struct SoftmaxCrossEntropy;

/// Softmax of each row, shifted by its largest logit so that nothing overflows.
pub(super) fn softmax(logits: &Tensor) -> Tensor {
    let mut result = logits.clone();
    for row in result.data.chunks_mut(logits.dim(1)) {
        let largest = row.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z));
        row.iter_mut().for_each(|z| *z = (*z - largest).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|z| *z /= sum);
    }
    result
}

/// Shapes of (logits, labels) agree.
pub(super) fn check(op: &str, operands: &[&TensorType]) -> Result<(), Diagnostic> {
    shapes::arity(op, operands, 2..=2)?;
    let [n, _] = shapes::vectors(op, operands[0])?;
    shapes::labels(op, operands[1])?;
    shapes::expect(op, "labels", operands[1], &[n])
}

impl Op for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn doc(&self) -> &'static str {
        "mean cross entropy of softmax, from (logits, labels)"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        check("softmax_cross_entropy", operands)?;
        Ok(vec![TensorType::real([])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let (logits, labels) = (operands[0], operands[1]);
        let mut loss = 0.0;
        for (row, &label) in logits.data.chunks(logits.dim(1)).zip(&labels.data) {
            let largest = row.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z));
            let sum: f64 = row.iter().map(|z| (z - largest).exp()).sum();
            loss += sum.ln() + largest - row.get(label as usize).unwrap_or(&f64::NEG_INFINITY);
        }
        vec![Tensor::scalar(loss / logits.shape[0] as f64)]
    }

    /// The loss is where differentiation starts: its cotangent is 1, whatever is given.
    fn vjp(&self, module: &mut Module, node: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        let dlogits = append_gradient(module, node, "softmax_cross_entropy_grad", &node.operands, [])[0];
        vec![Some(dlogits), None]
    }

    fn reads(&self, operand: usize) -> Read {
        if operand == 0 { Read::Wide } else { Read::Real }
    }

    fn samples(&self) -> Vec<Sample> {
        let labels = TensorType { element: Element::Label, shape: vec![3] };
        vec![Sample { operands: vec![TensorType::real([3, 10]), labels], attrs: Attrs::new() }]
    }
}
