//! Derivative of a depthwise convolution by its input: dx[i,c] = Σ over the windows that read pixel i of w[c,k]·dy[o,c].

use super::contraction::GEOMETRY;
use super::depthwise_conv2d::expect_weight;
use super::window::Window;
use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Role, TensorType};
use crate::types::{Kind, ParamSpec, shape};

pub(super) struct DepthwiseConv2dGradInput;

impl Op for DepthwiseConv2dGradInput {
    fn name(&self) -> &'static str {
        "depthwise_conv2d_grad_input"
    }

    fn doc(&self) -> &'static str {
        "derivative of a depthwise convolution by its input, from (dy, w)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] =
            &[GEOMETRY[0], ParamSpec::required("shape", Kind::Shape, "shape of the input"), GEOMETRY[1]];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("depthwise_conv2d_grad_input", operands, 2..=2)?;
        let input = TensorType::real(shape(attrs, "shape"));
        let [n, h, w, c] = shapes::image("depthwise_conv2d_grad_input", &input)?;
        let kernel = expect_weight("depthwise_conv2d_grad_input", operands[1], c)?;
        let [oh, ow] = Window::conv(kernel, attrs).output("depthwise_conv2d_grad_input", [h, w])?;
        shapes::expect("depthwise_conv2d_grad_input", "a gradient", operands[0], &[n, oh, ow, c])?;
        Ok(vec![input])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (dy, w) = (operands[0], operands[1]);
        let window = Window::conv([w.shape[1], w.shape[2]], &cx.node.attrs);
        let mut dx = Tensor::zeros(shape(&cx.node.attrs, "shape"));
        let (channels, taps) = (dx.dim(3), w.dim(1) * w.dim(2));
        let (pixels, outputs) = (dx.dim(1) * dx.dim(2), dy.dim(1) * dy.dim(2));
        for n in 0..dy.dim(0) {
            window.each([dx.shape[1], dx.shape[2]], [dy.shape[1], dy.shape[2]], |o, i, k| {
                for c in 0..channels {
                    dx.data[(n * pixels + i) * channels + c] +=
                        dy.data[(n * outputs + o) * channels + c] * w.data[c * taps + k];
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
