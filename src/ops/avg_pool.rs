//! Mean of each window, per channel; windows lie inside the image.

use super::pool::{self, SIZE, STRIDE};
use super::window::Window;
use super::{
    Eval, Layer, Op, Read, Sample, Tensor, append, append_gradient, sample_attrs, shape_attr, shapes,
};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attr, Attrs, Module, Node, Role, TensorType, Value};
use crate::types::ParamSpec;

pub(super) struct AvgPool;

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }

    fn doc(&self) -> &'static str {
        "mean of each window"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        &[SIZE, STRIDE]
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("avg_pool", operands, 1..=1)?;
        let [n, h, w, c] = shapes::image("avg_pool", operands[0])?;
        let [oh, ow] = Window::pool(attrs).output("avg_pool", [h, w])?;
        Ok(vec![TensorType::real([n, oh, ow, c])])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let x = operands[0];
        let window = Window::pool(&cx.node.attrs);
        let input = [x.shape[1], x.shape[2]];
        let output = window.output("avg_pool", input).expect("the node is well typed");
        let mut y = Tensor::zeros([x.shape[0], output[0], output[1], x.shape[3]]);
        let (channels, pixels, outputs) = (x.dim(3), x.dim(1) * x.dim(2), y.dim(1) * y.dim(2));
        let area = (window.kernel[0] * window.kernel[1]) as f64;
        for n in 0..x.dim(0) {
            window.each(input, output, |o, i, _| {
                let x = &x.data[(n * pixels + i) * channels..][..channels];
                let y = &mut y.data[(n * outputs + o) * channels..][..channels];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x / area);
            });
        }
        vec![y]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let shape = ("shape", shape_attr(&module.ty(node.operands[0]).shape));
        let attrs = self.attrs().iter().map(|spec| (spec.name, node.attrs[spec.name].clone())).chain([shape]);
        vec![cotangents[0].map(|dy| append_gradient(module, node, "avg_pool_grad", &[dy], attrs)[0])]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Codes { role: Role::Activations, per_channel: false }
    }

    fn nonnegative(&self, operands: &[bool]) -> bool {
        operands[0]
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&AvgPoolLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |shape: [u64; 4], size: i64, stride: i64| {
            let given = [("size", Attr::Int(size)), ("stride", Attr::Int(stride))];
            Sample { operands: vec![TensorType::real(shape)], attrs: sample_attrs(self.attrs(), &given) }
        };
        vec![sample([2, 4, 4, 3], 2, 2), sample([1, 7, 6, 17], 3, 2)]
    }
}

struct AvgPoolLayer;

impl Layer for AvgPoolLayer {
    fn name(&self) -> &'static str {
        "avg_pool"
    }

    fn doc(&self) -> &'static str {
        "mean of each window"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[SIZE, pool::stride()];
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
        Ok(append(module, "avg_pool", operands, pool::attrs(args), path, span)?[0])
    }
}
