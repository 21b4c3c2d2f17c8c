//! Batch norm (Ioffe and Szegedy 2015) with the statistics of the batch: x̂ = (x − μ)/√(var + eps), y = γ·x̂ + β.
//!
//! μ and var (divided by the number of elements) are over all axes but the last. Running statistics, updated with
//! `momentum`, serve evaluation only and are no part of this meaning.

use super::{Eval, Layer, Op, Part, Read, Sample, Tensor, append, rules, sample_attrs, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attr, Attrs, Init, Module, Node, TensorType, Value};
use crate::types::{Kind, Literal, ParamSpec, real};

pub(super) struct BatchNorm;

pub(super) const EPS: ParamSpec = ParamSpec::optional(
    "eps",
    Kind::Real { lo: 1e-12, hi: 1.0 },
    Literal::Real(1e-5),
    "added to the variance",
);
const MOMENTUM: ParamSpec = ParamSpec::optional(
    "momentum",
    Kind::Real { lo: 0.0, hi: 1.0 },
    Literal::Real(0.1),
    "weight of the current batch in the running statistics",
);

/// Mean and variance per channel (last axis).
pub(super) fn statistics(x: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let channels = x.dim(x.shape.len() - 1);
    let count = (x.data.len() / channels) as f64;
    let average = |f: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; channels];
        for pixel in x.data.chunks(channels) {
            pixel.iter().enumerate().for_each(|(c, &x)| sums[c] += f(c, x));
        }
        sums.iter().map(|sum| sum / count).collect::<Vec<f64>>()
    };
    let mean = average(&|_, x| x);
    let variance = average(&|c, x| (x - mean[c]).powi(2));
    (mean, variance)
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn doc(&self) -> &'static str {
        "normalization per channel by the statistics of the batch, from (x, gamma, beta)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        &[EPS, MOMENTUM]
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("batch_norm", operands, 3..=3)?;
        let channels = shapes::channels("batch_norm", operands[0])?;
        shapes::expect("batch_norm", "gamma", operands[1], &[channels])?;
        shapes::expect("batch_norm", "beta", operands[2], &[channels])?;
        Ok(vec![shapes::like(operands[0])])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (x, gamma, beta) = (operands[0], operands[1], operands[2]);
        let eps = real(&cx.node.attrs, "eps");
        let (mean, variance) = statistics(x);
        let mut y = x.clone();
        for pixel in y.data.chunks_mut(mean.len()) {
            for (c, y) in pixel.iter_mut().enumerate() {
                *y = gamma.data[c] * (*y - mean[c]) / (variance[c] + eps).sqrt() + beta.data[c];
            }
        }
        vec![y]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let Some(dy) = cotangents[0] else { return vec![None; 3] };
        let (name, params) = rules::rectifier(module, node);
        let mut attrs = Attrs::from([("eps".to_owned(), node.attrs["eps"].clone())]);
        attrs.insert("rectifier".to_owned(), Attr::Word(name));
        attrs.extend(params);
        let operands = [dy, node.operands[0], node.operands[1]];
        append(module, "batch_norm_grad", &operands, attrs, &node.path, node.span)
            .expect("the gradient of a well-typed node is well typed")
            .into_iter()
            .map(Some)
            .collect()
    }

    fn part(&self) -> Part {
        Part::Norm
    }

    fn reads(&self, operand: usize) -> Read {
        if operand == 0 { Read::Wide } else { Read::Real }
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&BatchNormLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        [vec![2, 3, 3, 4], vec![3, 4, 5, 17], vec![8, 5]]
            .into_iter()
            .map(|shape: Vec<u64>| {
                let channel = TensorType::real([shape[shape.len() - 1]]);
                let operands = vec![TensorType::real(shape), channel.clone(), channel];
                Sample { operands, attrs: sample_attrs(self.attrs(), &[]) }
            })
            .collect()
    }
}

struct BatchNormLayer;

impl Layer for BatchNormLayer {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn doc(&self) -> &'static str {
        "normalization per channel"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[
            EPS,
            MOMENTUM,
            ParamSpec::optional(
                "gain",
                // What is trained is a fixed-point number below 8.
                Kind::Real { lo: 0.0, hi: 7.5 },
                Literal::Real(1.0),
                "where gamma starts; below 1 at the end of a residual branch it damps gradient noise",
            ),
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
        let channels = shapes::channels("batch_norm", module.ty(operands[0]))
            .map_err(|error| super::locate(module, error, operands, path, span))?;
        let ty = TensorType::real([channels]);
        let gamma = module.param(path, "gamma", ty.clone(), Init::Constant(real(args, "gain")));
        let beta = module.param(path, "beta", ty, Init::Constant(0.0));
        let mut attrs = args.clone();
        attrs.remove("gain");
        Ok(append(module, "batch_norm", &[operands[0], gamma, beta], attrs, path, span)?[0])
    }
}
