//! The same elements in the same order under another shape; `flatten` makes vectors of images (NHWC order).

use super::{Eval, Layer, Op, Read, Sample, Tensor, append, append_gradient, shape_attr, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attrs, Module, Node, Role, TensorType, Value};
use crate::types::{Kind, ParamSpec, shape};

pub(super) struct Reshape;

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn doc(&self) -> &'static str {
        "the same elements under another shape"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] = &[ParamSpec::required("shape", Kind::Shape, "shape of the result")];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("reshape", operands, 1..=1)?;
        let result = TensorType { element: operands[0].element.clone(), shape: shape(attrs, "shape") };
        if result.elements() == operands[0].elements() {
            return Ok(vec![result]);
        }
        let (from, to) = (shapes::show(&operands[0].shape), shapes::show(&result.shape));
        Err(Diagnostic::new("E0301", format!("`reshape` from {from} to {to} changes the number of elements")))
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        vec![Tensor::new(shape(&cx.node.attrs, "shape"), operands[0].data.clone())]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let shape = shape_attr(&module.ty(node.operands[0]).shape);
        vec![cotangents[0].map(|dy| append_gradient(module, node, "reshape", &[dy], [("shape", shape)])[0])]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Codes { role: Role::Activations, per_channel: false }
    }

    fn keeps_grid(&self) -> bool {
        true
    }

    fn nonnegative(&self, operands: &[bool]) -> bool {
        operands[0]
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&Flatten)
    }

    fn samples(&self) -> Vec<Sample> {
        let attrs = super::sample_attrs(&[], &[("shape", shape_attr(&[2, 36]))]);
        vec![Sample { operands: vec![TensorType::real([2, 3, 4, 3])], attrs }]
    }
}

struct Flatten;

impl Layer for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn doc(&self) -> &'static str {
        "an image as one vector"
    }

    fn params(&self) -> &'static [ParamSpec] {
        &[]
    }

    fn build(
        &self,
        module: &mut Module,
        path: &str,
        operands: &[Value],
        _: &Attrs,
        span: Option<Span>,
    ) -> Result<Value, Diagnostic> {
        let [n, h, w, c] = shapes::image("flatten", module.ty(operands[0]))
            .map_err(|error| super::locate(module, error, operands, path, span))?;
        let attrs = super::sample_attrs(&[], &[("shape", shape_attr(&[n, h * w * c]))]);
        Ok(append(module, "reshape", operands, attrs, path, span)?[0])
    }
}
