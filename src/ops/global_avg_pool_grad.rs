//! Derivative of a global average pool: the gradient of a channel, spread evenly over its pixels.

use super::{Eval, Op, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};
use crate::types::{Kind, ParamSpec, shape};

pub(super) struct GlobalAvgPoolGrad;

impl Op for GlobalAvgPoolGrad {
    fn name(&self) -> &'static str {
        "global_avg_pool_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of a global average pool, from dy"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] = &[ParamSpec::required("shape", Kind::Shape, "shape of the input")];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("global_avg_pool_grad", operands, 1..=1)?;
        let input = TensorType::real(shape(attrs, "shape"));
        let [n, _, _, c] = shapes::image("global_avg_pool_grad", &input)?;
        shapes::expect("global_avg_pool_grad", "a gradient", operands[0], &[n, c])?;
        Ok(vec![input])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let dy = operands[0];
        let mut dx = Tensor::zeros(shape(&cx.node.attrs, "shape"));
        let (pixels, channels) = (dx.dim(1) * dx.dim(2), dx.dim(3));
        for (image, dy) in dx.data.chunks_mut(pixels * channels).zip(dy.data.chunks(channels)) {
            for dx in image.chunks_mut(channels) {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / pixels as f64);
            }
        }
        vec![dx]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
