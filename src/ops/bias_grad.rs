//! Derivative by a bias: the sum of the gradient over all axes but the last. Reads the gradient before it is quantized.

use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};

pub(super) struct BiasGrad;

impl Op for BiasGrad {
    fn name(&self) -> &'static str {
        "bias_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative by a bias: the gradient summed per channel"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("bias_grad", operands, 1..=1)?;
        Ok(vec![TensorType::real([shapes::channels("bias_grad", operands[0])?])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let dy = operands[0];
        let mut sums = Tensor::zeros([dy.shape[dy.shape.len() - 1]]);
        for pixel in dy.data.chunks(sums.data.len()) {
            sums.data.iter_mut().zip(pixel).for_each(|(sum, dy)| *sum += dy);
        }
        vec![sums]
    }

    fn part(&self) -> Part {
        Part::ContractionGrad
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
