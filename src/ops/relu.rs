//! Rectified linear unit: y = max(x, 0).

use super::{Eval, Layer, Op, Part, Read, Sample, Tensor, append, append_gradient, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attrs, Module, Node, TensorType, Value};
use crate::types::ParamSpec;

pub(super) struct Relu;

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn doc(&self) -> &'static str {
        "max(x, 0)"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("relu", operands, 1..=1)?;
        Ok(vec![shapes::like(operands[0])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        vec![operands[0].map(|x| x.max(0.0))]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![
            cotangents[0]
                .map(|dy| append_gradient(module, node, "relu_grad", &[dy, node.operands[0]], [])[0]),
        ]
    }

    fn part(&self) -> Part {
        Part::Activation
    }

    fn reads(&self, _: usize) -> Read {
        Read::Wide
    }

    fn nonnegative(&self, _: &[bool]) -> bool {
        true
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&ReluLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        vec![Sample { operands: vec![TensorType::real([2, 3, 3, 5])], attrs: Attrs::new() }]
    }
}

struct ReluLayer;

impl Layer for ReluLayer {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn doc(&self) -> &'static str {
        "max(x, 0)"
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
        Ok(append(module, "relu", operands, args.clone(), path, span)?[0])
    }
}
