//! Derivative of a quantizer that clips: dy where the surrogate passes it, and the gradient of a learned clip.
//!
//! The mask and the clip's derivative are the quantizer's own (`Quantizer::slope`); the range is that of the `quantize`
//! node with the same path. The clip's gradient includes the derivative of its penalty.

use super::quantize::{ATTRS, Grid};
use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};
use crate::types::ParamSpec;

pub(super) struct QuantizeGrad;

impl Op for QuantizeGrad {
    fn name(&self) -> &'static str {
        "quantize_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of a clipping quantizer, from (dy, x) or (dy, x, clip)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("quantize_grad", operands, 2..=3)?;
        shapes::expect("quantize_grad", "the input", operands[1], &operands[0].shape)?;
        let mut results = vec![shapes::like(operands[0])];
        if let Some(clip) = operands.get(2) {
            shapes::expect("quantize_grad", "a clip", clip, &[])?;
            results.push(shapes::like(clip));
        }
        Ok(results)
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let clip = operands.get(2).copied();
        let grid = Grid::new(cx, operands[1], clip);
        let mut dx = operands[0].clone();
        let mut dclip = clip.map_or(0.0, |clip| grid.quantizer.penalty_slope(clip.data[0], grid.params));
        for (index, (dx, &x)) in dx.data.iter_mut().zip(&operands[1].data).enumerate() {
            let slope = grid.quantizer.slope(grid.scaled(index, x), grid.levels);
            dclip += *dx * slope.learned;
            *dx *= slope.x;
        }
        let dclip = clip.map(|_| Tensor::scalar(dclip));
        [dx].into_iter().chain(dclip).collect()
    }

    fn part(&self) -> Part {
        Part::Mask
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
