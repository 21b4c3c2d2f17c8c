//! Common subexpressions: of nodes with equal op, operands and attributes the first serves all readers.
//!
//! Quantizers of gradients differ in their streams and stay apart; nodes with effects stay.

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
    for mut node in take_nodes(module) {
        node.operands.iter_mut().for_each(|value| *value = stands[value.0 as usize]);
        let twin = module.nodes.iter().find(|earlier| same(earlier, &node));
        match twin.filter(|_| !ops::of(&node).has_effect()) {
            Some(twin) => {
                node.results.iter().zip(&twin.results).for_each(|(old, &new)| stands[old.0 as usize] = new);
            }
            None => module.nodes.push(node),
        }
    }
    let gradients = module.params.iter_mut().filter_map(|param| param.gradient.as_mut());
    for end in gradients.chain([&mut module.loss, &mut module.logits]) {
        *end = stands[end.0 as usize];
    }
    Ok(())
}

fn same(a: &Node, b: &Node) -> bool {
    a.op == b.op && a.operands == b.operands && a.attrs == b.attrs && a.group == b.group
}
