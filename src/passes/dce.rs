//! Dead code: removes nodes whose results nothing reads. Loss, logits, gradients of parameters and effects are live.

use super::{Pass, take_nodes};
use crate::diag::Diagnostic;
use crate::ir::{Module, Stage};
use crate::ops;

pub(super) const PASS: Pass = Pass {
    name: "dce",
    doc: "removes nodes that nothing reads",
    needs: Stage::Quantized,
    gives: Stage::Quantized,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let mut live = vec![false; module.types.len()];
    let gradients = module.params.iter().filter_map(|param| param.gradient);
    gradients.chain([module.loss, module.logits]).for_each(|value| live[value.0 as usize] = true);
    let mut kept = vec![];
    for node in take_nodes(module).into_iter().rev() {
        if ops::of(&node).has_effect() || node.results.iter().any(|value| live[value.0 as usize]) {
            node.operands.iter().for_each(|value| live[value.0 as usize] = true);
            kept.push(node);
        }
    }
    kept.reverse();
    module.nodes = kept;
    Ok(())
}
