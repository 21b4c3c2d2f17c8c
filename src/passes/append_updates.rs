//! One update node for each parameter that has a gradient. Weights decay; per-channel parameters and clips do not.

use super::Pass;
use crate::diag::Diagnostic;
use crate::ir::{Attr, Attrs, Module, Stage, Value};
use crate::ops;

pub(super) const PASS: Pass = Pass {
    name: "append_updates",
    doc: "appends an update for each parameter",
    needs: Stage::Training,
    gives: Stage::Training,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let updated: Vec<Value> =
        module.nodes.iter().filter(|node| ops::of(node).has_effect()).map(|node| node.operands[0]).collect();
    for param in module.params.clone() {
        let Some(gradient) = param.gradient.filter(|_| !updated.contains(&param.value)) else { continue };
        let path = param.name.rsplit_once('.').map_or("", |(path, _)| path);
        let attrs = Attrs::from([("decay".to_owned(), Attr::Bool(param.ty.shape.len() >= 2))]);
        ops::append(
            module,
            &format!("{}_update", module.training.optimizer.0),
            &[param.value, gradient],
            attrs,
            path,
            None,
        )?;
    }
    Ok(())
}
