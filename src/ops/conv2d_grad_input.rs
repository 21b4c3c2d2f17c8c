//! Derivative of a convolution by its input: dx[i] = Σ over the windows that read pixel i of w[c,k]·dy[o,c].

use super::contraction::GEOMETRY;
use super::window::Window;
use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Role, TensorType};
use crate::types::{Kind, ParamSpec, shape};

pub(super) struct Conv2dGradInput;

impl Op for Conv2dGradInput {
    fn name(&self) -> &'static str {
        "conv2d_grad_input"
    }

    fn doc(&self) -> &'static str {
        "derivative of a convolution by its input, from (dy, w)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] =
            &[GEOMETRY[0], ParamSpec::required("shape", Kind::Shape, "shape of the input"), GEOMETRY[1]];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("conv2d_grad_input", operands, 2..=2)?;
        let input = TensorType::real(shape(attrs, "shape"));
        let [n, h, w, ci] = shapes::image("conv2d_grad_input", &input)?;
        let [co, kh, kw, _] = shapes::image("conv2d_grad_input", operands[1])?;
        shapes::expect("conv2d_grad_input", "a weight", operands[1], &[co, kh, kw, ci])?;
        let [oh, ow] = Window::conv([kh, kw], attrs).output("conv2d_grad_input", [h, w])?;
        shapes::expect("conv2d_grad_input", "a gradient", operands[0], &[n, oh, ow, co])?;
        Ok(vec![input])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (dy, w) = (operands[0], operands[1]);
        let window = Window::conv([w.shape[1], w.shape[2]], &cx.node.attrs);
        let mut dx = Tensor::zeros(shape(&cx.node.attrs, "shape"));
        let (ci, co, taps) = (dx.dim(3), w.dim(0), w.dim(1) * w.dim(2));
        let (pixels, outputs) = (dx.dim(1) * dx.dim(2), dy.dim(1) * dy.dim(2));
        for n in 0..dy.dim(0) {
            window.each([dx.shape[1], dx.shape[2]], [dy.shape[1], dy.shape[2]], |o, i, k| {
                let dx = &mut dx.data[(n * pixels + i) * ci..][..ci];
                for (c, dy) in dy.data[(n * outputs + o) * co..][..co].iter().enumerate() {
                    let w = &w.data[(c * taps + k) * ci..][..ci];
                    dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dy * w);
                }
            });
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
