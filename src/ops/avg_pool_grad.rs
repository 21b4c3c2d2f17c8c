//! Derivative of an average pool: each gradient is spread evenly over the pixels of its window.

use super::pool::{SIZE, STRIDE};
use super::window::Window;
use super::{Eval, Op, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};
use crate::types::{Kind, ParamSpec, shape};

pub(super) struct AvgPoolGrad;

impl Op for AvgPoolGrad {
    fn name(&self) -> &'static str {
        "avg_pool_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of an average pool, from dy"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] =
            &[ParamSpec::required("shape", Kind::Shape, "shape of the input"), SIZE, STRIDE];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("avg_pool_grad", operands, 1..=1)?;
        let input = TensorType::real(shape(attrs, "shape"));
        let [n, h, w, c] = shapes::image("avg_pool_grad", &input)?;
        let [oh, ow] = Window::pool(attrs).output("avg_pool_grad", [h, w])?;
        shapes::expect("avg_pool_grad", "a gradient", operands[0], &[n, oh, ow, c])?;
        Ok(vec![input])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let dy = operands[0];
        let window = Window::pool(&cx.node.attrs);
        let mut dx = Tensor::zeros(shape(&cx.node.attrs, "shape"));
        let (channels, pixels, outputs) = (dx.dim(3), dx.dim(1) * dx.dim(2), dy.dim(1) * dy.dim(2));
        let area = (window.kernel[0] * window.kernel[1]) as f64;
        for n in 0..dy.dim(0) {
            window.each([dx.shape[1], dx.shape[2]], [dy.shape[1], dy.shape[2]], |o, i, _| {
                let dx = &mut dx.data[(n * pixels + i) * channels..][..channels];
                let dy = &dy.data[(n * outputs + o) * channels..][..channels];
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy / area);
            });
        }
        vec![dx]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
