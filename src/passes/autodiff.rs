//! Reverse-mode differentiation of the loss by all parameters.
//!
//! Nodes in reverse order: each op appends its own derivative. The cotangents of a value that is read several times are
//! summed by `add` nodes in the order in which they appear, latest reader first. What nobody needs (the gradient of the
//! image) falls to dead-code elimination.

use super::Pass;
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Module, Stage, Value};
use crate::ops;

pub(super) const PASS: Pass = Pass {
    name: "autodiff",
    doc: "appends the gradients of all parameters",
    needs: Stage::Forward,
    gives: Stage::Training,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let mut cotangents: Vec<Option<Value>> = vec![None; module.types.len()];
    let producers = module.producers();
    for index in (0..module.nodes.len()).rev() {
        let node = module.nodes[index].clone();
        let given: Vec<Option<Value>> =
            node.results.iter().map(|value| cotangents[value.0 as usize]).collect();
        if given.iter().all(Option::is_none) && !node.results.contains(&module.loss) {
            continue;
        }
        let found = ops::of(&node).vjp(module, &node, &given);
        for (&operand, cotangent) in node.operands.iter().zip(found) {
            let Some(cotangent) = cotangent else { continue };
            let slot = operand.0 as usize;
            cotangents[slot] = Some(match cotangents[slot] {
                None => cotangent,
                Some(sum) => {
                    let owner = producers[slot].map_or(&node, |index| &module.nodes[index]).clone();
                    ops::append(module, "add", &[sum, cotangent], Attrs::new(), &owner.path, owner.span)?[0]
                }
            });
        }
    }
    for param in &mut module.params {
        param.gradient = cotangents[param.value.0 as usize];
    }
    Ok(())
}
