//! What the noise of quantizers does to the gradients of the weights.
//!
//! The noise of weight gradients is the energy of what differs from the exact gradient of a layer's weights over the energy
//! of that, and its mean over the layers: every layer counts alike, as batch norm leaves the size of its weights no meaning.
//! A gradient quantizer makes noise in the weights of its own layer and of all layers before, a quantizer of weights or
//! activations in all layers: what it rounds moves all values behind it, and the gradient with them. To first order noises
//! add, so that a network's noise is the sum of what its quantizers make alone; in truth a quantizer makes more where it
//! reads noise. Gradients are rounded at random, weights and activations always alike: the same unit, not the same harm. These
//! also turn ReLUs over, whose part grows with a step, not with its square; and what is turned over already is not again, so
//! that together they make less than their sum.

use super::{Point, distance, energy, is_gradient_quantizer, is_quantizer, parallel, ratio};
use crate::ir::{Module, Node, Role, Value};
use crate::oracle::Values;
use crate::quant;
use crate::tensor::Tensor;
use crate::types::word;

impl<'a> Point<'a> {
    /// A point like those of [`Point::new`] whose backward pass goes on to the gradients of the weights.
    pub fn of_weights(module: &'a Module, params: &[Tensor], image: &Tensor, labels: &Tensor) -> Point<'a> {
        let after_loss = module.producer(module.loss).unwrap_or(0) + 1;
        Point::leading_to(module, params, image, labels, after_loss, &weight_goal(module))
    }

    /// The same with nothing held fixed: quantizers of weights and activations round as well as those of gradients, and the
    /// exact values are those of none.
    pub fn of_step(module: &'a Module, params: &[Tensor], image: &Tensor, labels: &Tensor) -> Point<'a> {
        Point::leading_to(module, params, image, labels, 0, &weight_goal(module))
    }

    /// The noise of weight gradients where the quantizers of one path round and all others do not, for each of these paths;
    /// the mean of so many passes; on so many threads.
    pub fn alone(&self, role: Role, paths: &[&str], passes: u64, threads: usize) -> Vec<f64> {
        let passes = passes.max(1);
        let noises = parallel(paths.len() as u64 * passes, threads, |job| {
            let path = paths[(job / passes) as usize];
            let rounds = |index: usize| {
                let node = &self.module.nodes[index];
                node.path == path && self::role(self.module, node) == Some(role)
            };
            self.weight_noise(&self.pass(rounds, job % passes + 1).1)
        });
        noises.chunks_exact(passes as usize).map(|of_path| mean(of_path.iter().copied())).collect()
    }

    /// The noise of weight gradients where all quantizers of some roles round, with the random numbers of [`Point::alone`];
    /// the mean of so many passes; on so many threads.
    pub fn together(&self, roles: &[Role], passes: u64, threads: usize) -> f64 {
        let rounds = |index: usize| {
            role(self.module, &self.module.nodes[index]).is_some_and(|role| roles.contains(&role))
        };
        let noises = parallel(passes, threads, |seed| self.weight_noise(&self.pass(rounds, seed + 1).1));
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

fn weight_goal(module: &Module) -> impl Fn(&Node) -> bool {
    let goals = weight_gradients(module);
    move |node| node.results.iter().any(|result| goals.contains(result))
}

/// What a quantizer makes codes of; `None` for other nodes.
pub(super) fn role(module: &Module, node: &Node) -> Option<Role> {
    if !is_quantizer(node) {
        return None;
    }
    if is_gradient_quantizer(node) {
        return Some(Role::Gradients);
    }
    let scheme = module.schemes.get(word(&node.attrs, "scheme"))?;
    quant::find(&scheme.quantizer).map(|quantizer| quantizer.role())
}

/// A tensor of a step that is made into codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// What it is.
    pub role: Role,
    /// Path of the layer that rules name for it.
    pub path: String,
    /// Its elements, of activations and gradients those of one image.
    pub elements: u64,
    /// Its quantizers, by number of the node: of a gradient there may be one for each derivative.
    pub quantizers: Vec<usize>,
}

/// The tensors of one role that a module quantizes, from the first layer to the last.
pub fn codes(module: &Module, role: Role) -> Vec<Codes> {
    let mut found: Vec<Codes> = vec![];
    for (index, node) in module.nodes.iter().enumerate() {
        if self::role(module, node) != Some(role) {
            continue;
        }
        if let Some(known) = found.iter_mut().find(|codes| codes.path == node.path) {
            known.quantizers.push(index);
            continue;
        }
        let images = usize::from(role != Role::Weights);
        let elements = module.ty(node.operands[0]).shape.iter().skip(images).product();
        found.push(Codes { role, path: node.path.clone(), elements, quantizers: vec![index] });
    }
    if role == Role::Gradients {
        // They come from the last layer to the first.
        found.reverse();
    }
    found
}
