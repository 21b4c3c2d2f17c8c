//! Convolution of an NHWC image: y[n,o,c] = Σ_k,i x[n,o·stride+k−padding,i]·w[c,k,i] (+ b[c]).
//!
//! Derivatives are the transposed convolution (input) and the correlation of input and gradient (weight).

use super::contraction::{self, BIAS, GEOMETRY, PADDING, STRIDE};
use super::window::Window;
use super::{
    Layer, Op, Part, Read, Sample, Tensor, append, append_gradient, sample_attrs, shape_attr, shapes,
};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attr, Attrs, Init, Module, Node, TensorType, Value};
use crate::types::{Kind, ParamSpec, int};

pub(super) struct Conv2d;

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn doc(&self) -> &'static str {
        "convolution of an image, with bias where a third operand is given"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        GEOMETRY
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("conv2d", operands, 2..=3)?;
        let [n, h, w, ci] = shapes::image("conv2d", operands[0])?;
        let [co, kh, kw, _] = shapes::image("conv2d", operands[1])?;
        shapes::expect("conv2d", "a weight", operands[1], &[co, kh, kw, ci])?;
        if let Some(bias) = operands.get(2) {
            shapes::expect("conv2d", "a bias", bias, &[co])?;
        }
        let [oh, ow] = Window::conv([kh, kw], attrs).output("conv", [h, w])?;
        Ok(vec![TensorType::real([n, oh, ow, co])])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &super::Eval) -> Vec<Tensor> {
        let (x, w) = (operands[0], operands[1]);
        let window = Window::conv([w.shape[1], w.shape[2]], &cx.node.attrs);
        let input = [x.shape[1], x.shape[2]];
        let output = window.output("conv2d", input).expect("the node is well typed");
        let mut y = Tensor::zeros([x.shape[0], output[0], output[1], w.shape[0]]);
        let (ci, co, taps) = (x.dim(3), w.dim(0), w.dim(1) * w.dim(2));
        let (pixels, outputs) = (x.dim(1) * x.dim(2), y.dim(1) * y.dim(2));
        if let Some(bias) = operands.get(2) {
            y.data.chunks_mut(co).for_each(|pixel| pixel.copy_from_slice(&bias.data));
        }
        for n in 0..x.dim(0) {
            window.each(input, output, |o, i, k| {
                let x = &x.data[(n * pixels + i) * ci..][..ci];
                let y = &mut y.data[(n * outputs + o) * co..][..co];
                for (c, y) in y.iter_mut().enumerate() {
                    let w = &w.data[(c * taps + k) * ci..][..ci];
                    *y += x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
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
        let dx = append_gradient(module, node, "conv2d_grad_input", &[dy, w], geometry().chain([x_shape]))[0];
        let dw =
            append_gradient(module, node, "conv2d_grad_weight", &[x, dy], geometry().chain([w_shape]))[0];
        contraction::gradients(module, node, dy, [dx, dw])
    }

    fn part(&self) -> Part {
        Part::Contraction
    }

    fn reads(&self, operand: usize) -> Read {
        contraction::reads(operand)
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&Conv)
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |x: [u64; 4], w: [u64; 4], bias: bool, stride: i64, padding: i64| {
            let mut operands = vec![TensorType::real(x), TensorType::real(w)];
            operands.extend(bias.then(|| TensorType::real([w[0]])));
            let attrs =
                sample_attrs(GEOMETRY, &[("stride", Attr::Int(stride)), ("padding", Attr::Int(padding))]);
            Sample { operands, attrs }
        };
        vec![
            sample([2, 5, 5, 3], [4, 3, 3, 3], false, 1, 1),
            sample([2, 6, 6, 3], [5, 3, 3, 3], false, 2, 1),
            sample([2, 5, 5, 4], [3, 1, 1, 4], false, 2, 0),
            sample([1, 7, 6, 2], [3, 5, 2, 2], true, 2, 2),
            sample([1, 5, 5, 17], [18, 5, 5, 17], true, 1, 0),
        ]
    }
}

struct Conv;

impl Layer for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn doc(&self) -> &'static str {
        "convolution"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            ParamSpec::required("channels", Kind::Int { lo: 1, hi: 1 << 16 }, "output channels"),
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
        let [_, _, _, ci] = shapes::image("conv", module.ty(operands[0]))
            .map_err(|error| super::locate(module, error, operands, path, span))?;
        let co = int(args, "channels") as u64;
        let kernel = contraction::kernel(args);
        let padding = contraction::padding(args, kernel).map_err(place)?;
        let shape = TensorType::real([co, kernel[0], kernel[1], ci]);
        let shape = shapes::bounded(shape).map_err(place)?;
        let weight = module.param(path, "weight", shape, Init::HeNormal { fan: co * kernel[0] * kernel[1] });
        let values = contraction::operands(module, path, [operands[0], weight], co, args);
        let attrs = contraction::geometry(args, padding);
        Ok(append(module, "conv2d", &values, attrs, path, span)?[0])
    }
}
