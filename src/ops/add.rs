//! Sum of two tensors of one shape: a residual connection, or the gradients of two uses of a value.

use super::{Eval, Layer, Op, Part, Read, Sample, Tensor, append, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attrs, Module, Node, TensorType, Value};
use crate::types::ParamSpec;

pub(super) struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn doc(&self) -> &'static str {
        "sum of two tensors"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("add", operands, 2..=2)?;
        if operands[0].shape != operands[1].shape {
            let (a, b) = (shapes::show(&operands[0].shape), shapes::show(&operands[1].shape));
            return Err(Diagnostic::new(
                "E0301",
                format!("`add` needs two tensors of one shape, but is given {a} and {b}"),
            )
            .help("a 1x1 convolution with stride brings a skip to another shape"));
        }
        Ok(vec![shapes::like(operands[0])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        vec![operands[0].zip(operands[1], |a, b| a + b)]
    }

    fn vjp(&self, _: &mut Module, _: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![cotangents[0], cotangents[0]]
    }

    fn part(&self) -> Part {
        Part::Sum
    }

    fn reads(&self, _: usize) -> Read {
        Read::Wide
    }

    fn nonnegative(&self, operands: &[bool]) -> bool {
        operands.iter().all(|&nonnegative| nonnegative)
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&AddLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        let ty = TensorType::real([2, 3, 3, 5]);
        vec![Sample { operands: vec![ty.clone(), ty], attrs: Attrs::new() }]
    }
}

struct AddLayer;

impl Layer for AddLayer {
    fn name(&self) -> &'static str {
        "add"
    }

    fn doc(&self) -> &'static str {
        "sum of two tensors"
    }

    fn params(&self) -> &'static [ParamSpec] {
        &[]
    }

    fn operands(&self) -> usize {
        2
    }

    fn build(
        &self,
        module: &mut Module,
        path: &str,
        operands: &[Value],
        args: &Attrs,
        span: Option<Span>,
    ) -> Result<Value, Diagnostic> {
        Ok(append(module, "add", operands, args.clone(), path, span)?[0])
    }
}
