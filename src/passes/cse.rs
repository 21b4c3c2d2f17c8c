//! Common subexpressions: of nodes with equal op, operands and attributes the first serves all readers.
//!
//! Quantizers of gradients differ in their streams and stay apart; those of activations own a range at their path, which a
//! derivative finds there, and stay apart too. Nodes with effects stay.

use std::collections::BTreeMap;

use super::{Pass, take_nodes};
use crate::diag::Diagnostic;
use crate::ir::{Module, Node, Stage, Value};
use crate::ops;

pub(super) const PASS: Pass = Pass {
    name: "cse",
    doc: "merges nodes that compute the same",
    needs: Stage::Quantized,
    gives: Stage::Quantized,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let mut stands: Vec<Value> = (0..module.types.len() as u32).map(Value).collect();
    let mut seen: BTreeMap<(String, Vec<Value>), Vec<Node>> = BTreeMap::new();
    for mut node in take_nodes(module) {
        node.operands.iter_mut().for_each(|value| *value = stands[value.0 as usize]);
        let alike = seen.entry((node.op.clone(), node.operands.clone())).or_default();
        let owns_state = node.attrs.contains_key("scheme");
        let twin = alike.iter().find(|earlier| {
            let same = earlier.attrs == node.attrs && earlier.group == node.group;
            same && !(owns_state && earlier.path != node.path)
        });
        match twin.filter(|_| !ops::of(&node).has_effect()) {
            Some(twin) => {
                node.results.iter().zip(&twin.results).for_each(|(old, &new)| stands[old.0 as usize] = new);
            }
            None => {
                alike.push(node.clone());
                module.nodes.push(node);
            }
        }
    }
    let gradients = module.params.iter_mut().filter_map(|param| param.gradient.as_mut());
    for end in gradients.chain([&mut module.loss, &mut module.logits]) {
        *end = stands[end.0 as usize];
    }
    Ok(())
}
