//! What the noise of gradient quantizers does to the gradients of the weights.
//!
//! The noise of weight gradients is the energy of what differs from the exact gradient of a layer's weights over the energy
//! of that, and its mean over the layers: every layer counts alike, as batch norm leaves the size of its weights no meaning.
//! A quantizer makes noise in the weights of its own layer and of all layers before. To first order noises add, so that a
//! network's noise is the sum of what its quantizers make alone; in truth a quantizer makes more where it reads noise.

use super::{Point, distance, energy, is_gradient_quantizer, parallel, ratio};
use crate::ir::{Module, Value};
use crate::oracle::Values;
use crate::tensor::Tensor;

impl<'a> Point<'a> {
    /// A point like those of [`Point::new`] whose backward pass goes on to the gradients of the weights.
    pub fn of_weights(module: &'a Module, params: &[Tensor], image: &Tensor, labels: &Tensor) -> Point<'a> {
        let goals = weight_gradients(module);
        let is_goal = |node: &crate::ir::Node| node.results.iter().any(|result| goals.contains(result));
        Point::leading_to(module, params, image, labels, &is_goal)
    }

    /// The noise of weight gradients where the quantizers of one layer round and all others do not, for each of these
    /// layers, the mean of so many passes; on so many threads.
    pub fn alone(&self, layers: &[&str], passes: u64, threads: usize) -> Vec<f64> {
        let passes = passes.max(1);
        let noises = parallel(layers.len() as u64 * passes, threads, |job| {
            let layer = layers[(job / passes) as usize];
            self.weight_noise(&self.pass(|index| self.module.nodes[index].path == layer, job % passes + 1).1)
        });
        noises.chunks_exact(passes as usize).map(|of_layer| mean(of_layer.iter().copied())).collect()
    }

    /// The noise of weight gradients where all quantizers round, with the random numbers of [`Point::alone`]; the mean of so
    /// many passes; on so many threads.
    pub fn together(&self, passes: u64, threads: usize) -> f64 {
        let noises = parallel(passes, threads, |seed| self.weight_noise(&self.pass(|_| true, seed + 1).1));
        mean(noises.into_iter())
    }

    fn weight_noise(&self, noisy: &Values) -> f64 {
        let goals = weight_gradients(self.module);
        let noise = |&value: &Value| {
            let exact = self.value(value, &[]);
            ratio(distance(self.value(value, noisy), exact), energy(exact))
        };
        mean(goals.iter().map(noise))
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    ratio(values.sum(), count)
}

/// Gradients of the weights of contractions: the parameters that have more than one axis.
fn weight_gradients(module: &Module) -> Vec<Value> {
    let weights = module.params.iter().filter(|param| param.ty.shape.len() > 1);
    weights.filter_map(|param| param.gradient).collect()
}

/// Elements of the gradient that each layer quantizes, of one image, from the first layer to the last.
pub fn elements(module: &Module) -> Vec<(&str, u64)> {
    let mut layers: Vec<(&str, u64)> = vec![];
    for node in module.nodes.iter().rev().filter(|node| is_gradient_quantizer(node)) {
        let shape = &module.ty(node.operands[0]).shape;
        if layers.iter().all(|(path, _)| *path != node.path) {
            layers.push((&node.path, shape.iter().skip(1).product()));
        }
    }
    layers
}
