//! Mean over all pixels, per channel: an image becomes a vector.

use super::{Eval, Layer, Op, Read, Sample, Tensor, append, append_gradient, shape_attr, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attrs, Module, Node, Role, TensorType, Value};
use crate::types::ParamSpec;

pub(super) struct GlobalAvgPool;

impl Op for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn doc(&self) -> &'static str {
        "mean over all pixels"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("global_avg_pool", operands, 1..=1)?;
        let [n, _, _, c] = shapes::image("global_avg_pool", operands[0])?;
        Ok(vec![TensorType::real([n, c])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let x = operands[0];
        let (pixels, channels) = (x.dim(1) * x.dim(2), x.dim(3));
        let mut y = Tensor::zeros([x.shape[0], x.shape[3]]);
        for (y, image) in y.data.chunks_mut(channels).zip(x.data.chunks(pixels * channels)) {
            for x in image.chunks(channels) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x / pixels as f64);
            }
        }
        vec![y]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let shape = shape_attr(&module.ty(node.operands[0]).shape);
        vec![
            cotangents[0].map(|dy| {
                append_gradient(module, node, "global_avg_pool_grad", &[dy], [("shape", shape)])[0]
            }),
        ]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Codes { role: Role::Activations, per_channel: false }
    }

    fn nonnegative(&self, operands: &[bool]) -> bool {
        operands[0]
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&GlobalAvgPoolLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        vec![Sample { operands: vec![TensorType::real([2, 3, 4, 17])], attrs: Attrs::new() }]
    }
}

struct GlobalAvgPoolLayer;

impl Layer for GlobalAvgPoolLayer {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn doc(&self) -> &'static str {
        "mean over all pixels: an image becomes a vector"
    }

    fn params(&self) -> &'static [ParamSpec] {
        &[]
    }

    fn build(
        &self,
        module: &mut Module,
        path: &str,
        operands: &[Value],
        args: &Attrs,
        span: Option<Span>,
    ) -> Result<Value, Diagnostic> {
        Ok(append(module, "global_avg_pool", operands, args.clone(), path, span)?[0])
    }
}
