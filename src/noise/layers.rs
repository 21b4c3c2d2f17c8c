//! What tells why a layer suffers from quantized gradients: how its gradient, its batch norm and its weights look.
//!
//! All of a trained network at one batch, in real numbers. A gradient with a large crest factor needs a range that leaves
//! few codes for most of it; a gain that differs between the channels of a batch norm makes one, where channels share a
//! scale. What counts in the end is the cosine: how much of a step goes where the exact gradient of the weights points.

use serde::{Deserialize, Serialize};

use super::{Point, energy, parallel, ratio};
use crate::ir::{Init, Param, Value};
use crate::tensor::Tensor;
use crate::types::real;

/// A layer whose gradient is quantized. What a layer has not, or what is no number, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Its path.
    pub path: String,
    /// Energy of the quantizers' noise over that of what they read: c.
    pub noise: Option<f64>,
    /// Largest magnitude of the exact gradient over its root mean square.
    pub crest: Option<f64>,
    /// Gain of the backward pass of the batch norm behind it: |γ|/σ, the mean of its channels.
    pub gain: Option<f64>,
    /// Standard deviation of that over the channels, as a part of the mean.
    pub spread: Option<f64>,
    /// Cosine between the gradient of its weights where all quantizers round and the exact one.
    pub cosine: Option<f64>,
    /// Norm of its weights over that which their start had on average.
    pub drift: Option<f64>,
}

impl Point<'_> {
    /// The layers at a point of [`Point::of_weights`], from the last to the first; noise and cosine are means of so many
    /// passes, on so many threads.
    pub fn layers(&self, passes: u64, threads: usize) -> Vec<Layer> {
        let mut paths: Vec<&str> = vec![];
        for &index in &self.quantizers {
            let path = self.module.nodes[index].path.as_str();
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        let all = parallel(passes.max(1), threads, |seed| {
            let (energies, noisy) = self.pass(|_| true, seed + 1);
            let cosine = |path: &&str| Some(self.cosine(self.weight(path)?.gradient?, &noisy));
            (energies, paths.iter().map(cosine).collect::<Vec<Option<f64>>>())
        });
        let layer = |(number, path): (usize, &&str)| {
            let is_here = |k: &usize| self.module.nodes[self.quantizers[*k]].path == *path;
            let here: Vec<usize> = (0..self.quantizers.len()).filter(is_here).collect();
            let (mut noise, mut read) = (0.0, 0.0);
            for (energies, k) in all.iter().flat_map(|(energies, _)| here.iter().map(move |&k| (energies, k)))
            {
                (noise, read) = (noise + energies.noise[k], read + energies.read[k]);
            }
            let first = here.first().map(|&k| self.module.nodes[self.quantizers[k]].operands[0]);
            let norm = self.gains(path).as_deref().map(mean_and_spread);
            let cosines: Option<Vec<f64>> = all.iter().map(|(_, cosines)| cosines[number]).collect();
            let layer = Layer {
                path: (*path).to_owned(),
                noise: Some(ratio(noise, read)),
                crest: first.map(|value| crest(self.value(value, &[]))),
                gain: norm.map(|(gain, _)| gain),
                spread: norm.map(|(_, spread)| spread),
                cosine: cosines.map(|cosines| mean_and_spread(&cosines).0),
                drift: self.weight(path).map(|weight| self.drift(weight)),
            };
            layer.finite()
        };
        paths.iter().enumerate().map(layer).collect()
    }

    /// The weight of the contraction at a path.
    fn weight(&self, path: &str) -> Option<&Param> {
        let producer = |value: Value| self.module.producer(value).map(|index| &self.module.nodes[index]);
        let is_here = |param: &&Param| {
            param.ty.shape.len() > 1
                && param.gradient.and_then(producer).is_some_and(|node| node.path == path)
        };
        self.module.params.iter().find(is_here)
    }

    fn cosine(&self, gradient: Value, noisy: &[Option<Tensor>]) -> f64 {
        let (exact, quantized) = (self.value(gradient, &[]), self.value(gradient, noisy));
        let product: f64 = exact.data.iter().zip(&quantized.data).map(|(a, b)| a * b).sum();
        ratio(product, (energy(exact) * energy(quantized)).sqrt())
    }

    /// |γ|/σ of each channel of the batch norm that reads the contraction at a path.
    fn gains(&self, path: &str) -> Option<Vec<f64>> {
        let nodes = &self.module.nodes;
        let reads = |value: Value| self.module.producer(value).is_some_and(|index| nodes[index].path == path);
        let norm = nodes.iter().find(|node| node.op == "batch_norm" && reads(node.operands[0]))?;
        let [x, gamma] = [0, 1].map(|operand| self.value(norm.operands[operand], &[]));
        let (channels, eps) = (gamma.data.len(), real(&norm.attrs, "eps"));
        let gain = |(channel, gamma): (usize, &f64)| {
            let values = || x.data.iter().skip(channel).step_by(channels);
            let count = (x.data.len() / channels) as f64;
            let mean = values().sum::<f64>() / count;
            let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            gamma.abs() / (variance + eps).sqrt()
        };
        Some(gamma.data.iter().enumerate().map(gain).collect())
    }

    fn drift(&self, weight: &Param) -> f64 {
        let value = self.value(weight.value, &[]);
        let square = match weight.init {
            Init::HeNormal { fan } => 2.0 / fan as f64,
            Init::Uniform { fan } => 1.0 / (3.0 * fan as f64),
            Init::Constant(x) => x * x,
        };
        ratio(energy(value), square * value.data.len() as f64).sqrt()
    }
}

impl Layer {
    fn finite(mut self) -> Layer {
        let Layer { path: _, noise, crest, gain, spread, cosine, drift } = &mut self;
        for figure in [noise, crest, gain, spread, cosine, drift] {
            *figure = figure.filter(|x| x.is_finite());
        }
        self
    }
}

fn crest(x: &Tensor) -> f64 {
    let largest = x.data.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    ratio(largest, (energy(x) / x.data.len() as f64).sqrt())
}

/// The mean, and the standard deviation as a part of it.
fn mean_and_spread(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = ratio(values.iter().sum(), count);
    let variance = ratio(values.iter().map(|x| (x - mean) * (x - mean)).sum(), count);
    (mean, ratio(variance.sqrt(), mean))
}
