//! Fully connected layer: y[n,o] = Σ_i x[n,i]·w[o,i] (+ b[o]).

use super::contraction::{self, BIAS};
use super::{Eval, Layer, Op, Part, Read, Sample, Tensor, append, append_gradient, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attrs, Init, Module, Node, TensorType, Value};
use crate::types::{Kind, ParamSpec, int};

pub(super) struct Linear;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn doc(&self) -> &'static str {
        "product of vectors and a matrix, with bias where a third operand is given"
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("linear", operands, 2..=3)?;
        let [n, inputs] = shapes::vectors("linear", operands[0])?;
        let [outputs, _] = shapes::vectors("linear", operands[1])?;
        shapes::expect("linear", "a weight", operands[1], &[outputs, inputs])?;
        if let Some(bias) = operands.get(2) {
            shapes::expect("linear", "a bias", bias, &[outputs])?;
        }
        Ok(vec![TensorType::real([n, outputs])])
    }

    fn eval_f64(&self, operands: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        let (x, w) = (operands[0], operands[1]);
        let mut data = Vec::with_capacity(x.dim(0) * w.dim(0));
        for x in x.data.chunks(w.dim(1)) {
            for (o, w) in w.data.chunks(w.dim(1)).enumerate() {
                let bias = operands.get(2).map_or(0.0, |b| b.data[o]);
                data.push(bias + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>());
            }
        }
        vec![Tensor::new([x.shape[0], w.shape[0]], data)]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let Some(dy) = cotangents[0] else { return vec![None; node.operands.len()] };
        let (x, w) = (node.operands[0], node.operands[1]);
        let dx = append_gradient(module, node, "linear_grad_input", &[dy, w], [])[0];
        let dw = append_gradient(module, node, "linear_grad_weight", &[x, dy], [])[0];
        contraction::gradients(module, node, dy, [dx, dw])
    }

    fn part(&self) -> Part {
        Part::Contraction
    }

    fn reads(&self, operand: usize) -> Read {
        contraction::reads(operand)
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&LinearLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |n: u64, inputs: u64, outputs: u64, bias: bool| {
            let mut operands = vec![TensorType::real([n, inputs]), TensorType::real([outputs, inputs])];
            operands.extend(bias.then(|| TensorType::real([outputs])));
            Sample { operands, attrs: Attrs::new() }
        };
        vec![sample(3, 5, 4, true), sample(2, 33, 17, true), sample(4, 16, 16, false)]
    }
}

struct LinearLayer;

impl Layer for LinearLayer {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn doc(&self) -> &'static str {
        "fully connected layer"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] =
            &[ParamSpec::required("features", Kind::Int { lo: 1, hi: 1 << 20 }, "output features"), BIAS];
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
        let place = |module: &Module, error| super::locate(module, error, operands, path, span);
        let [_, inputs] =
            shapes::vectors("linear", module.ty(operands[0])).map_err(|error| place(module, error))?;
        let outputs = int(args, "features") as u64;
        let shape =
            shapes::bounded(TensorType::real([outputs, inputs])).map_err(|error| place(module, error))?;
        let weight = module.param(path, "weight", shape, Init::Uniform { fan: inputs });
        let values = contraction::operands(module, path, [operands[0], weight], outputs, args);
        Ok(append(module, "linear", &values, Attrs::new(), path, span)?[0])
    }
}
