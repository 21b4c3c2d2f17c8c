//! The oracle: a module evaluated in f64. It defines what a model means.
//!
//! It is slow and plain on purpose. Rounding of quantizers is a choice ([`Quantization`]): their smooth surrogates for
//! derivatives, or the grid with given ranges and random bits for the comparison with integers, either of a whole module
//! or node by node on given operands. It knows nothing of kernels.

use std::collections::BTreeMap;

use fqt_runtime::random;

use crate::ir::{Module, Node};
use crate::ops::{self, Eval, Tensor};
use crate::quant::Quantization;
use crate::types::{int, word};

/// Quantizers as their smooth surrogates, with ranges by path of the quantizer.
#[derive(Clone, Debug, Default)]
pub struct Surrogate {
    /// Ranges of activations; one that is missing is taken from the tensor.
    pub ranges: BTreeMap<String, f64>,
}

impl Quantization for Surrogate {
    fn rounds(&self) -> bool {
        false
    }

    fn range(&self, node: &Node, _: usize) -> Option<f64> {
        self.ranges.get(&node.path).copied()
    }

    fn random(&self, _: &Node, _: &[u64], _: usize) -> u16 {
        0
    }
}

/// Quantizers on their grids, with the random bits that the kernels draw.
#[derive(Clone, Debug, Default)]
pub struct Rounding {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
    /// Ranges by path and role of the quantizer ([`range_key`]), one a granule; those missing are taken from the tensor.
    pub ranges: BTreeMap<String, Vec<f64>>,
    /// Largest codes in force, by the same keys; where one is missing, all codes of the scheme are.
    pub largest_codes: BTreeMap<String, i64>,
}

/// The name under which [`Rounding`] looks up what it knows of a node: `path@scheme` for activations and weights, which
/// may have one path, and `path#stream` for gradients.
pub fn range_key(node: &Node) -> String {
    match node.attrs.get("stream") {
        Some(stream) => format!("{}#{stream}", node.path),
        None => format!("{}@{}", node.path, word(&node.attrs, "scheme")),
    }
}

impl Quantization for Rounding {
    fn rounds(&self) -> bool {
        true
    }

    fn range(&self, node: &Node, granule: usize) -> Option<f64> {
        self.ranges.get(&range_key(node))?.get(granule).copied()
    }

    fn largest_code(&self, node: &Node) -> Option<i64> {
        self.largest_codes.get(&range_key(node)).copied()
    }

    fn random(&self, node: &Node, shape: &[u64], element: usize) -> u16 {
        if !node.attrs.contains_key("stream") {
            return 0;
        }
        let channels = shape.last().map_or(1, |&c| c as usize);
        let (pixel, channel) = (element / channels, element % channels);
        let block = pixel * channels.div_ceil(16) + channel / 16;
        let key = random::hash_key(self.seed, self.step, int(&node.attrs, "stream") as u64);
        random::block(key, block as u32)[channel % 16]
    }
}

/// The values of a module after evaluation, by number.
pub type Values = Vec<Option<Tensor>>;

/// Evaluates one node of a verified module on given operands.
pub fn node(
    module: &Module,
    node: &Node,
    operands: &[&Tensor],
    quantization: &dyn Quantization,
) -> Vec<Tensor> {
    ops::of(node).eval_f64(operands, &Eval { schemes: &module.schemes, node, quantization })
}

/// Evaluates a verified module: `params` in the order of its parameters, `labels` as numbers below the number of classes.
pub fn run(
    module: &Module,
    params: &[Tensor],
    image: &Tensor,
    labels: &Tensor,
    quantization: &dyn Quantization,
) -> Values {
    let mut values: Values = vec![None; module.types.len()];
    values[module.image.0 as usize] = Some(image.clone());
    values[module.labels.0 as usize] = Some(labels.clone());
    for (param, tensor) in module.params.iter().zip(params) {
        values[param.value.0 as usize] = Some(tensor.clone());
    }
    for node in &module.nodes {
        let operands: Vec<&Tensor> = node
            .operands
            .iter()
            .map(|value| {
                values[value.0 as usize].as_ref().expect("operands are computed before they are read")
            })
            .collect();
        let results = self::node(module, node, &operands, quantization);
        for (value, tensor) in node.results.iter().zip(results) {
            values[value.0 as usize] = Some(tensor);
        }
    }
    values
}
