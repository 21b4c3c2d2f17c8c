//! Groups of the backward pass: the way of a gradient from a layer's output to its contraction's derivatives.
//!
//! `[sum of gradients] [masks] [derivative of batch norm] quantizers, derivatives of the contraction`. Plain: one reader
//! of the activation gave the gradient. Residual: the gradient begins as a sum of two. Projection: two contractions
//! receive the same masked gradient, each through its own batch norm; both are in the group. The masked gradient may
//! leave the group, as the gradient of a skip.

use std::collections::{BTreeMap, BTreeSet};

use super::Pass;
use super::grouping::Grouping;
use crate::diag::Diagnostic;
use crate::ir::{Module, Node, Role, Stage, Value};
use crate::ops::{self, Part, Read};

pub(super) const PASS: Pass = Pass {
    name: "fuse_conv_bn_relu_backward",
    doc: "groups gradient sum, masks, batch norm's derivative, quantizers and contraction derivatives",
    needs: Stage::Quantized,
    gives: Stage::Fused,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let mut grouping = Grouping::new(module);
    let producers = module.producers();
    for (root, mut nodes) in roots(module, &producers) {
        let contractions: BTreeSet<&str> = nodes
            .iter()
            .map(|&index| &module.nodes[index])
            .filter(|node| ops::of(node).part() == Part::ContractionGrad)
            .map(|node| node.path.as_str())
            .collect();
        let projection = contractions.len() > 1;
        let sum = extend(module, &producers, &grouping, root, &mut nodes);
        let name = match (projection, sum) {
            (false, false) => "conv_bn_relu_backward",
            (false, true) => "conv_bn_relu_backward_residual",
            (true, _) => "conv_bn_relu_backward_projection",
        };
        grouping.propose(&nodes, name);
    }
    grouping.apply(module);
    Ok(())
}

/// The derivatives of contractions, with their quantizers and batch norms, by the masked gradient that they come from; in
/// order of definition of that gradient.
fn roots(module: &Module, producers: &[Option<usize>]) -> BTreeMap<Value, BTreeSet<usize>> {
    let producer = |value: Value, part: Part| {
        let index = producers[value.0 as usize]?;
        (ops::of(&module.nodes[index]).part() == part).then_some(index)
    };
    let mut roots: BTreeMap<Value, BTreeSet<usize>> = BTreeMap::new();
    for (index, node) in module.nodes.iter().enumerate() {
        let Some(mut gradient) = gradient_operand(node) else { continue };
        let mut nodes = BTreeSet::from([index]);
        for part in [Part::Quantizer, Part::NormGrad] {
            if let Some(index) = producer(gradient, part) {
                nodes.insert(index);
                gradient = module.nodes[index].operands[0];
            }
        }
        roots.entry(gradient).or_default().extend(nodes);
    }
    roots
}

/// The operand of a contraction's derivative that is the gradient: codes of a gradient, or its only operand.
fn gradient_operand(node: &Node) -> Option<Value> {
    let op = ops::of(node);
    if op.part() != Part::ContractionGrad {
        return None;
    }
    let codes = |index: &usize| matches!(op.reads(*index), Read::Codes { role: Role::Gradients, .. });
    let index = (0..node.operands.len()).find(codes).unwrap_or(0);
    Some(node.operands[index])
}

/// Adds the masks that lead to the gradient, and the sum with which it begins; true if there is a sum.
fn extend(
    module: &Module,
    producers: &[Option<usize>],
    grouping: &Grouping,
    mut gradient: Value,
    nodes: &mut BTreeSet<usize>,
) -> bool {
    while let Some(index) = producers[gradient.0 as usize].filter(|&index| !grouping.is_grouped(index)) {
        let node = &module.nodes[index];
        match ops::of(node).part() {
            Part::Mask => {
                nodes.insert(index);
                gradient = node.operands[0];
            }
            Part::Sum => {
                nodes.insert(index);
                return true;
            }
            _ => return false,
        }
    }
    false
}
