//! Derivative of a fully connected layer by its input: dx[n,i] = Σ_o dy[n,o]·w[o,i].

use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Role, TensorType};

pub(super) struct LinearGradInput;

impl Op for LinearGradInput {
    fn name(&self) -> &'static str {
        "linear_grad_input"
    }

    fn doc(&self) -> &'static str {
        "derivative of a fully connected layer by its input, from (dy, w)"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("linear_grad_input", operands, 2..=2)?;
        let [n, outputs] = shapes::vectors("linear_grad_input", operands[0])?;
        let [_, inputs] = shapes::vectors("linear_grad_input", operands[1])?;
        shapes::expect("linear_grad_input", "a weight", operands[1], &[outputs, inputs])?;
        Ok(vec![TensorType::real([n, inputs])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let (dy, w) = (operands[0], operands[1]);
        let mut dx = Tensor::zeros([dy.shape[0], w.shape[1]]);
        for (dx, dy) in dx.data.chunks_mut(w.dim(1)).zip(dy.data.chunks(w.dim(0))) {
            for (dy, w) in dy.iter().zip(w.data.chunks(w.dim(1))) {
                dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dy * w);
            }
        }
        vec![dx]
    }

    fn part(&self) -> Part {
        Part::ContractionGrad
    }

    fn reads(&self, operand: usize) -> Read {
        let role = if operand == 0 { Role::Gradients } else { Role::Weights };
        Read::Codes { role, per_channel: false }
    }
}
