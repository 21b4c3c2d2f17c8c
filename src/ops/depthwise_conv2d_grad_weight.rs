//! Derivative of a depthwise convolution by its weight: dw[c,k] = Σ over images and windows of dy[o,c]·x[o·stride+k−padding,c].

use super::contraction::GEOMETRY;
use super::depthwise_conv2d::expect_weight;
use super::window::Window;
use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Role, TensorType};
use crate::types::{Kind, ParamSpec, shape};

pub(super) struct DepthwiseConv2dGradWeight;

impl Op for DepthwiseConv2dGradWeight {
    fn name(&self) -> &'static str {
        "depthwise_conv2d_grad_weight"
    }

    fn doc(&self) -> &'static str {
        "derivative of a depthwise convolution by its weight, from (x, dy)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] =
            &[GEOMETRY[0], ParamSpec::required("shape", Kind::Shape, "shape of the weight"), GEOMETRY[1]];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("depthwise_conv2d_grad_weight", operands, 2..=2)?;
        let [n, h, w, c] = shapes::image("depthwise_conv2d_grad_weight", operands[0])?;
        let weight = TensorType::real(shape(attrs, "shape"));
        let kernel = expect_weight("depthwise_conv2d_grad_weight", &weight, c)?;
        let [oh, ow] = Window::conv(kernel, attrs).output("depthwise_conv2d_grad_weight", [h, w])?;
        shapes::expect("depthwise_conv2d_grad_weight", "a gradient", operands[1], &[n, oh, ow, c])?;
        Ok(vec![weight])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (x, dy) = (operands[0], operands[1]);
        let mut dw = Tensor::zeros(shape(&cx.node.attrs, "shape"));
        let window = Window::conv([dw.shape[1], dw.shape[2]], &cx.node.attrs);
        let (channels, taps) = (x.dim(3), dw.dim(1) * dw.dim(2));
        let (pixels, outputs) = (x.dim(1) * x.dim(2), dy.dim(1) * dy.dim(2));
        for n in 0..dy.dim(0) {
            window.each([x.shape[1], x.shape[2]], [dy.shape[1], dy.shape[2]], |o, i, k| {
                for c in 0..channels {
                    dw.data[c * taps + k] +=
                        dy.data[(n * outputs + o) * channels + c] * x.data[(n * pixels + i) * channels + c];
                }
            });
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
