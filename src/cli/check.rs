//! `fqtc check`: everything that can be said about a model without training it.

use super::failure::Failure;
use super::options::{Machine, Model};
use super::terminal::{say, table};
use super::{compile, source::Source};
use crate::ir::Module;
use crate::ir::print::type_text;

/// Check a model: syntax, names, shapes, ranges, memory.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    machine: Machine,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let source = Source::read(&args.model.path)?;
    let elaborated = compile::front(&source, &args.model)?;
    say(&layers(&elaborated.module))?;
    let ready = compile::ready(&source, &args.model, &args.machine)?;
    say(&format!("arena of {} bytes", ready.artifact.arena_bytes))
}

/// Layers with what they give, and the sum of the parameters.
fn layers(module: &Module) -> String {
    let mut rows = vec![["layer", "op", "gives", "parameters"].map(String::from).to_vec()];
    let mut all = 0;
    for node in module.nodes.iter().filter(|node| !node.path.is_empty()) {
        let gives = node.results.first().map(|&value| type_text(module.ty(value))).unwrap_or_default();
        let own = module.params.iter().filter(|param| node.operands.contains(&param.value));
        let count: u64 = own.filter_map(|param| param.ty.elements()).sum();
        all += count;
        rows.push(vec![
            node.path.clone(),
            node.op.clone(),
            gives,
            if count == 0 { String::new() } else { count.to_string() },
        ]);
    }
    format!("{}\n{}: {} layers, {all} parameters", table(&rows), module.name, rows.len() - 1)
}
