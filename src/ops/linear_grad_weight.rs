//! Derivative of a fully connected layer by its weight: dw[o,i] = Σ_n dy[n,o]·x[n,i].

use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Role, TensorType};

pub(super) struct LinearGradWeight;

impl Op for LinearGradWeight {
    fn name(&self) -> &'static str {
        "linear_grad_weight"
    }

    fn doc(&self) -> &'static str {
        "derivative of a fully connected layer by its weight, from (x, dy)"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("linear_grad_weight", operands, 2..=2)?;
        let [n, inputs] = shapes::vectors("linear_grad_weight", operands[0])?;
        let [_, outputs] = shapes::vectors("linear_grad_weight", operands[1])?;
        shapes::expect("linear_grad_weight", "a gradient", operands[1], &[n, outputs])?;
        Ok(vec![TensorType::real([outputs, inputs])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let (x, dy) = (operands[0], operands[1]);
        let mut dw = Tensor::zeros([dy.shape[1], x.shape[1]]);
        for (x, dy) in x.data.chunks(x.dim(1)).zip(dy.data.chunks(dy.dim(1))) {
            for (dw, dy) in dw.data.chunks_mut(x.len()).zip(dy) {
                dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += dy * x);
            }
        }
        vec![dw]
    }

    fn part(&self) -> Part {
        Part::ContractionGrad
    }

    fn reads(&self, operand: usize) -> Read {
        match operand {
            0 => Read::Codes { role: Role::Activations, per_channel: false },
            _ => Read::Codes { role: Role::Gradients, per_channel: true },
        }
    }
}
