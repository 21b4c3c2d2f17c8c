//! Depthwise convolution of an NHWC image: y[n,o,c] = Σ_k x[n,o·stride+k−padding,c]·w[c,k] (+ b[c]).
//!
//! Every channel has a window of its own (Howard et al. 2017), so a weight is `[channels, height, width, 1]`: the shape of a
//! convolution whose outputs each read one input channel. Derivatives are those of a convolution, channel by channel.

use super::contraction::{self, BIAS, GEOMETRY, PADDING, STRIDE};
use super::window::Window;
use super::{
    Layer, Op, Part, Read, Sample, Tensor, append, append_gradient, sample_attrs, shape_attr, shapes,
};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attr, Attrs, Init, Module, Node, TensorType, Value};
use crate::types::{Kind, ParamSpec};

pub(super) struct DepthwiseConv2d;

/// E0301 unless a weight has one window a channel.
pub(super) fn expect_weight(op: &str, weight: &TensorType, channels: u64) -> Result<[u64; 2], Diagnostic> {
    let [_, kh, kw, _] = shapes::image(op, weight)?;
    shapes::expect(op, "a weight", weight, &[channels, kh, kw, 1])?;
    Ok([kh, kw])
}

impl Op for DepthwiseConv2d {
    fn name(&self) -> &'static str {
        "depthwise_conv2d"
    }

    fn doc(&self) -> &'static str {
        "convolution of each channel with a window of its own, with bias where a third operand is given"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        GEOMETRY
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("depthwise_conv2d", operands, 2..=3)?;
        let [n, h, w, c] = shapes::image("depthwise_conv2d", operands[0])?;
        let kernel = expect_weight("depthwise_conv2d", operands[1], c)?;
        if let Some(bias) = operands.get(2) {
            shapes::expect("depthwise_conv2d", "a bias", bias, &[c])?;
        }
        let [oh, ow] = Window::conv(kernel, attrs).output("depthwise_conv", [h, w])?;
        Ok(vec![TensorType::real([n, oh, ow, c])])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &super::Eval) -> Vec<Tensor> {
        let (x, w) = (operands[0], operands[1]);
        let window = Window::conv([w.shape[1], w.shape[2]], &cx.node.attrs);
        let input = [x.shape[1], x.shape[2]];
        let output = window.output("depthwise_conv2d", input).expect("the node is well typed");
        let mut y = Tensor::zeros([x.shape[0], output[0], output[1], x.shape[3]]);
        let (channels, taps) = (x.dim(3), w.dim(1) * w.dim(2));
        let (pixels, outputs) = (x.dim(1) * x.dim(2), y.dim(1) * y.dim(2));
        if let Some(bias) = operands.get(2) {
            y.data.chunks_mut(channels).for_each(|pixel| pixel.copy_from_slice(&bias.data));
        }
        for n in 0..x.dim(0) {
            window.each(input, output, |o, i, k| {
                for c in 0..channels {
                    y.data[(n * outputs + o) * channels + c] +=
                        x.data[(n * pixels + i) * channels + c] * w.data[c * taps + k];
                }
            });
        }
        vec![y]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let Some(dy) = cotangents[0] else { return vec![None; node.operands.len()] };
        let (x, w) = (node.operands[0], node.operands[1]);
        let geometry = || GEOMETRY.iter().map(|spec| (spec.name, node.attrs[spec.name].clone()));
        let shape = |value| shape_attr(&module.ty(value).shape);
        let (x_shape, w_shape) = (("shape", shape(x)), ("shape", shape(w)));
        let dx = append_gradient(
            module,
            node,
            "depthwise_conv2d_grad_input",
            &[dy, w],
            geometry().chain([x_shape]),
        )[0];
        let dw = append_gradient(
            module,
            node,
            "depthwise_conv2d_grad_weight",
            &[x, dy],
            geometry().chain([w_shape]),
        )[0];
        contraction::gradients(module, node, dy, [dx, dw])
    }

    fn part(&self) -> Part {
        Part::Contraction
    }

    fn reads(&self, operand: usize) -> Read {
        contraction::reads(operand)
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&DepthwiseConv)
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |x: [u64; 4], kernel: [u64; 2], bias: bool, stride: i64, padding: i64| {
            let weight = TensorType::real([x[3], kernel[0], kernel[1], 1]);
            let mut operands = vec![TensorType::real(x), weight];
            operands.extend(bias.then(|| TensorType::real([x[3]])));
            let attrs =
                sample_attrs(GEOMETRY, &[("stride", Attr::Int(stride)), ("padding", Attr::Int(padding))]);
            Sample { operands, attrs }
        };
        vec![
            sample([2, 5, 5, 3], [3, 3], false, 1, 1),
            sample([2, 6, 6, 5], [3, 3], false, 2, 1),
            sample([1, 7, 6, 2], [5, 2], true, 2, 2),
            sample([1, 5, 5, 17], [5, 5], true, 1, 0),
        ]
    }
}

struct DepthwiseConv;

impl Layer for DepthwiseConv {
    fn name(&self) -> &'static str {
        "depthwise_conv"
    }

    fn doc(&self) -> &'static str {
        "convolution of each channel by itself"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            ParamSpec::required("kernel", Kind::Size { max: 64 }, "height and width of the window"),
            STRIDE,
            PADDING,
            BIAS,
        ];
        PARAMS
    }

    fn build(
        &self,
        module: &mut Module,
        path: &str,
        operands: &[Value],
        args: &Attrs,
        span: Option<Span>,
    ) -> Result<Value, Diagnostic> {
        let place = |error: Diagnostic| match span {
            Some(span) => error.at(span, "in this layer"),
            None => error,
        };
        let [_, _, _, channels] = shapes::image("depthwise_conv", module.ty(operands[0]))
            .map_err(|error| super::locate(module, error, operands, path, span))?;
        let kernel = contraction::kernel(args);
        let padding = contraction::padding(args, kernel).map_err(place)?;
        let shape = TensorType::real([channels, kernel[0], kernel[1], 1]);
        let shape = shapes::bounded(shape).map_err(place)?;
        let weight = module.param(path, "weight", shape, Init::HeNormal { fan: kernel[0] * kernel[1] });
        let values = contraction::operands(module, path, [operands[0], weight], channels, args);
        let attrs = contraction::geometry(args, padding);
        Ok(append(module, "depthwise_conv2d", &values, attrs, path, span)?[0])
    }
}
