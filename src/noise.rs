//! How the noise of gradient quantizers grows from the last layer to the first, and what is predicted for it.
//!
//! With what the forward pass computed held fixed, the backward pass is linear in the gradient, and quantizers that round
//! at random add noise whose mean is zero. Noise is measured as the energy of what differs from the exact gradient, over the
//! energy of that: V. A quantizer adds c·(1 + V), where c is the energy of its noise over that of what it reads. Two
//! predictions follow, both from the c that were measured:
//!
//! - *as signal*: layers amplify noise as they amplify the gradient, and where branches meet, noises add as signals do. Then
//!   1 + V = Π(1 + c) along a chain, and (1 + (1 + c₁)(1 + c₂)·G)/(1 + G) over a residual block whose branch has the gain G.
//! - *by gains*: the noise of each quantizer alone is followed to all layers before it, which gives the gain of noise from
//!   there to here; the noises of all add.
//!
//! What noise does to the gradients of the weights is measured in `weights`, there also that of weights and activations;
//! what else tells why a layer suffers, in `layers`.
//! Everything is computed in f64 by the oracle's meaning of the nodes, but for one thing: a node quantizes the gradient of what
//! a contraction gives, and a step that of its integer accumulator, in which each channel weighs as the scale of its weights
//! does. Rounded is the latter here too; energies are of the former. Unlike in a step, every range is that of the tensor at
//! hand: `running_max` follows the batches before, which are larger, and `bound` is up to a fifth above the maximum, so that
//! a step's noise is somewhat more.

mod layers;
mod weights;

pub use layers::Layer;
pub use weights::{Codes, codes};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::ir::{Module, Node, Param, Role, Value};
use crate::oracle::{self, Rounding, Surrogate, Values};
use crate::quant::{self, Quantization};
use crate::tensor::Tensor;
use crate::types::word;
use weights::role;

/// What the largest weight of a channel counts as at least.
const QUIET: f64 = 1.0 / (1 << 20) as f64;

/// A gradient quantizer on the way from the last layer to the first. Energies are over that of the exact gradient there.
#[derive(Clone, Debug, PartialEq)]
pub struct Crossing {
    /// Path of the layer.
    pub layer: String,
    /// Quantizers before it on the longest way from the last layer to here.
    pub depth: usize,
    /// Energy of the quantizer's noise over that of what it reads: c.
    pub own: f64,
    /// Energy of the noise that arrives: V.
    pub measured: f64,
    /// The same, predicted from c alone.
    pub as_signal: f64,
    /// The same, predicted from c and the measured gains of noise.
    pub by_gains: f64,
}

/// A point of a network, at which gradients can be computed again and again.
pub struct Point<'a> {
    module: &'a Module,
    /// All values, where none of `quantizers` rounds.
    exact: Values,
    /// Nodes that are computed again, in order; what others give is held fixed.
    again: Vec<usize>,
    /// Those of them that are quantizers.
    quantizers: Vec<usize>,
    /// By what quantized gradients: what a channel of the accumulators weighs there, where channels differ.
    units: BTreeMap<Value, Vec<f64>>,
}

/// Energies at each quantizer in a backward pass.
#[derive(Clone)]
struct Energies {
    /// What it reads.
    read: Vec<f64>,
    /// What that differs by from the exact gradient.
    deviation: Vec<f64>,
    /// What it adds.
    noise: Vec<f64>,
}

impl<'a> Point<'a> {
    /// Computes a batch, and its exact gradients; the values of the forward pass are held fixed. The module has its gradient
    /// quantizers; `params` are in its order.
    pub fn new(module: &'a Module, params: &[Tensor], image: &Tensor, labels: &Tensor) -> Point<'a> {
        let after_loss = module.producer(module.loss).unwrap_or(0) + 1;
        let is_goal = |node: &Node| is_data_gradient(module, node);
        Point::leading_to(module, params, image, labels, after_loss, &is_goal)
    }

    /// The same, computing again the nodes from number `start` on that lead to some goal.
    fn leading_to(
        module: &'a Module,
        params: &[Tensor],
        image: &Tensor,
        labels: &Tensor,
        start: usize,
        is_goal: &dyn Fn(&Node) -> bool,
    ) -> Point<'a> {
        let mut exact: Values = vec![None; module.types.len()];
        exact[module.image.0 as usize] = Some(image.clone());
        exact[module.labels.0 as usize] = Some(labels.clone());
        for (param, tensor) in module.params.iter().zip(params) {
            exact[param.value.0 as usize] = Some(tensor.clone());
        }
        let again = leading_to(module, start, is_goal);
        let is_quantizer = |index: &usize| is_quantizer(&module.nodes[*index]);
        let quantizers = again.iter().copied().filter(is_quantizer).collect();
        let units = units(module, params);
        let mut point = Point { module, exact, again, quantizers, units };
        let loss = module.producer(module.loss).unwrap_or(0);
        let later = point.again.iter().copied().filter(|&index| index > loss);
        for index in (0..=loss).chain(later.collect::<Vec<usize>>()) {
            let node = &module.nodes[index];
            let results = if point.quantizers.binary_search(&index).is_ok() {
                point.evaluate(node, &[], &Surrogate::default())
            } else {
                point.evaluate(node, &[], &Rounding::default())
            };
            for (value, tensor) in node.results.iter().zip(results) {
                point.exact[value.0 as usize] = Some(tensor);
            }
        }
        point
    }

    /// The loss of the batch.
    pub fn loss(&self) -> f64 {
        self.value(self.module.loss, &[]).data[0]
    }

    /// The first layer with an exact gradient that is nothing, or no number: no noise can be measured against it.
    pub fn unmeasurable(&self) -> Option<&str> {
        let vain = |tensor: &Tensor| !(energy(tensor) > 0.0 && energy(tensor).is_finite());
        let gradient = |node: &Node| self.exact[node.operands[0].0 as usize].as_ref();
        let quantizers = self.module.nodes.iter().filter(|node| is_gradient_quantizer(node));
        quantizers.filter(|node| gradient(node).is_some_and(vain)).map(|node| node.path.as_str()).next()
    }

    /// Measures the noise at each quantizer, from the last layer to the first: the mean of so many backward passes, on so
    /// many threads.
    pub fn measure(&self, passes: u64, threads: usize) -> Vec<Crossing> {
        let n = self.quantizers.len() as u64;
        // With each seed each quantizer alone, then all of them.
        let all =
            parallel((n + 1) * passes, threads, |job| match self.quantizers.get((job / passes) as usize) {
                Some(&source) => self.pass(|index| index == source, job % passes).0,
                None => self.pass(|_| true, passes + job % passes).0,
            });
        let (alone, together) = all.split_at((n * passes) as usize);
        let alone: Vec<&[Energies]> = alone.chunks_exact(passes as usize).collect();
        let sum =
            |of: fn(&Energies) -> &Vec<f64>, k: usize| together.iter().map(|pass| of(pass)[k]).sum::<f64>();
        let own: Vec<f64> =
            (0..n as usize).map(|k| ratio(sum(|e| &e.noise, k), sum(|e| &e.read, k))).collect();
        let by_gains = self.by_gains(&own, &alone);
        let (as_signal, depths) = (self.as_signal(&own), self.depths());
        let crossing = |(k, &index): (usize, &usize)| {
            let node = &self.module.nodes[index];
            let exact = self.exact_energy(node.operands[0]) * passes as f64;
            Crossing {
                layer: node.path.clone(),
                depth: depths[k],
                own: own[k],
                measured: ratio(sum(|e| &e.deviation, k), exact),
                as_signal: as_signal[k],
                by_gains: by_gains[k],
            }
        };
        self.quantizers.iter().enumerate().map(crossing).collect()
    }

    /// One pass in which some quantizers round: energies at each, and the values that noise reaches. All others are exact and
    /// not computed again.
    fn pass(&self, rounds: impl Fn(usize) -> bool, seed: u64) -> (Energies, Values) {
        let rounding = Rounding { seed, ..Rounding::default() };
        let zeros = vec![0.0; self.quantizers.len()];
        let mut energies = Energies { read: zeros.clone(), deviation: zeros.clone(), noise: zeros };
        let mut noisy: Values = vec![None; self.module.types.len()];
        for &index in &self.again {
            let node = &self.module.nodes[index];
            let reached = node.operands.iter().any(|value| noisy[value.0 as usize].is_some());
            let quantizer = self.quantizers.binary_search(&index);
            if !reached && (quantizer.is_err() || !rounds(index)) {
                if let Ok(k) = quantizer {
                    energies.read[k] = self.exact_energy(node.operands[0]);
                }
                continue;
            }
            let results = match quantizer {
                Ok(_) if !rounds(index) => self.evaluate(node, &noisy, &Surrogate::default()),
                _ => self.evaluate(node, &noisy, &rounding),
            };
            if let Ok(k) = quantizer {
                let read = self.value(node.operands[0], &noisy);
                energies.read[k] = energy(read);
                energies.deviation[k] = distance(read, self.value(node.operands[0], &[]));
                energies.noise[k] = distance(read, &results[0]);
            }
            for (value, tensor) in node.results.iter().zip(results) {
                noisy[value.0 as usize] = Some(tensor);
            }
        }
        (energies, noisy)
    }

    /// A value in a pass: noisy if noise has reached it.
    fn value<'b>(&'b self, value: Value, noisy: &'b [Option<Tensor>]) -> &'b Tensor {
        let noisy = noisy.get(value.0 as usize).and_then(Option::as_ref);
        noisy.or(self.exact[value.0 as usize].as_ref()).expect("operands are computed before they are read")
    }

    fn evaluate(
        &self,
        node: &Node,
        noisy: &[Option<Tensor>],
        quantization: &dyn Quantization,
    ) -> Vec<Tensor> {
        let operands: Vec<&Tensor> = node.operands.iter().map(|&value| self.value(value, noisy)).collect();
        let unit = self.units.get(&node.results[0]).filter(|_| quantization.rounds());
        let Some(unit) = unit else { return oracle::node(self.module, node, &operands, quantization) };
        let by_accumulator = by_channel(operands[0], unit, |x, unit| x * unit);
        let codes = oracle::node(self.module, node, &[&by_accumulator], quantization);
        codes.iter().map(|codes| by_channel(codes, unit, |x, unit| x / unit)).collect()
    }

    fn exact_energy(&self, value: Value) -> f64 {
        energy(self.value(value, &[]))
    }

    /// The noise at each quantizer if that of every one before it arrives with its gain, and all add; by passes in which each
    /// rounds alone.
    fn by_gains(&self, own: &[f64], alone: &[&[Energies]]) -> Vec<f64> {
        let exact: Vec<f64> = self
            .quantizers
            .iter()
            .map(|&index| self.exact_energy(self.module.nodes[index].operands[0]))
            .collect();
        let mut noise: Vec<f64> = vec![];
        for k in 0..own.len() {
            let from = |j: usize| {
                let sum = |of: fn(&Energies) -> &Vec<f64>, at: usize| {
                    alone[j].iter().map(|pass| of(pass)[at]).sum()
                };
                let gain = ratio(sum(|e| &e.deviation, k), sum(|e| &e.noise, j));
                own[j] * (1.0 + noise[j]) * exact[j] * gain
            };
            noise.push(ratio((0..k).map(from).fold(0.0, |sum, x| sum + x), exact[k]));
        }
        noise
    }

    /// The noise at each quantizer if noise is amplified as the gradient is.
    fn as_signal(&self, own: &[f64]) -> Vec<f64> {
        let gradients: BTreeSet<Value> =
            self.again.iter().flat_map(|&index| self.module.nodes[index].results.clone()).collect();
        // The energy of a gradient with its noise, over that without.
        let mut inflation = vec![1.0f64; self.module.types.len()];
        let mut noise = vec![];
        for &index in &self.again {
            let node = &self.module.nodes[index];
            let inputs = node.operands.iter().copied().filter(|value| gradients.contains(value));
            let (mut with, mut without) = (0.0, 0.0);
            for value in inputs {
                let energy = self.exact_energy(value);
                (with, without) = (with + energy * inflation[value.0 as usize], without + energy);
            }
            let mut here = if without > 0.0 { with / without } else { 1.0 };
            if is_quantizer(node) {
                noise.push(here - 1.0);
                here *= 1.0 + own[noise.len() - 1];
            }
            node.results.iter().for_each(|result| inflation[result.0 as usize] = here);
        }
        noise
    }

    /// How many quantizers lie before each on the longest way.
    fn depths(&self) -> Vec<usize> {
        let mut crossed = vec![0; self.module.types.len()];
        let mut depths = vec![];
        for &index in &self.again {
            let node = &self.module.nodes[index];
            let mut here = node.operands.iter().map(|value| crossed[value.0 as usize]).max().unwrap_or(0);
            if is_quantizer(node) {
                depths.push(here);
                here += 1;
            }
            node.results.iter().for_each(|result| crossed[result.0 as usize] = here);
        }
        depths
    }
}

/// What channels of accumulators weigh where their gradients are quantized: the scales of their weights, up to a common
/// factor. A channel of weights that are all but 0 weighs as one whose largest is 2^-20, as in a step.
fn units(module: &Module, params: &[Tensor]) -> BTreeMap<Value, Vec<f64>> {
    let scales = |(param, weights): (&Param, &Tensor)| {
        let reads =
            |node: &&Node| node.operands[0] == param.value && role(module, node) == Some(Role::Weights);
        let node = module.nodes.iter().find(reads)?;
        let channels = weights.data.chunks_exact(weights.data.len() / weights.dim(0));
        let largest = |channel: &[f64]| channel.iter().fold(QUIET, |largest, x| largest.max(x.abs()));
        let scheme = &module.schemes[word(&node.attrs, "scheme")];
        quant::per_channel(&scheme.params).then(|| (node.path.as_str(), channels.map(largest).collect()))
    };
    let scales: BTreeMap<&str, Vec<f64>> = module.params.iter().zip(params).filter_map(scales).collect();
    let gradients = module.nodes.iter().filter(|node| is_gradient_quantizer(node));
    gradients.filter_map(|node| Some((node.results[0], scales.get(node.path.as_str())?.clone()))).collect()
}

/// What a function makes of elements of a tensor, whose last axis are channels, and a value of their channel.
fn by_channel(x: &Tensor, values: &[f64], of: impl Fn(f64, f64) -> f64) -> Tensor {
    let data = x.data.iter().zip(values.iter().cycle()).map(|(&x, &value)| of(x, value)).collect();
    Tensor::new(x.shape.clone(), data)
}

/// The results of jobs 0 to `count` − 1, in order.
fn parallel<T: Send>(count: u64, threads: usize, job: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = Mutex::new((0..count).rev().collect::<Vec<u64>>());
    let done = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let take = || next.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(number) = take() {
                    let result = job(number);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Nothing over nothing is nothing.
fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

fn energy(tensor: &Tensor) -> f64 {
    tensor.data.iter().map(|x| x * x).sum()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    a.data.iter().zip(&b.data).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn is_quantizer(node: &Node) -> bool {
    node.op == "quantize"
}

fn is_gradient_quantizer(node: &Node) -> bool {
    is_quantizer(node) && node.attrs.contains_key("stream")
}

/// Whether a node quantizes a gradient for the layer before: where the derivatives of a layer have quantizers of their own,
/// that of the data gradient.
fn is_data_gradient(module: &Module, node: &Node) -> bool {
    let per_channel = |node: &Node| quant::per_channel(&module.schemes[word(&node.attrs, "scheme")].params);
    let quantizers = || module.nodes.iter().filter(|node| is_gradient_quantizer(node));
    is_gradient_quantizer(node)
        && !(per_channel(node)
            && quantizers().any(|other| other.operands == node.operands && !per_channel(other)))
}

/// Nodes from number `start` on that lead to a goal, in order.
fn leading_to(module: &Module, start: usize, is_goal: &dyn Fn(&Node) -> bool) -> Vec<usize> {
    let mut wanted: BTreeSet<Value> = BTreeSet::new();
    let mut kept = vec![];
    for index in (start..module.nodes.len()).rev() {
        let node = &module.nodes[index];
        if is_goal(node) || node.results.iter().any(|result| wanted.contains(result)) {
            wanted.extend(&node.operands);
            kept.push(index);
        }
    }
    kept.reverse();
    kept
}
