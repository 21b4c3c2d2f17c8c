//! `fqtc check`: everything that can be said about a model without training it.

use super::failure::Failure;
use super::options::{Machine, Model};
use super::terminal::{say, table};
use super::{compile, source::Source};
use crate::codegen::audit::{Count, audit};
use crate::codegen::emit_clif::Emitted;
use crate::codegen::jit;
use crate::ir::Module;
use crate::ir::print::type_text;

/// Check a model: syntax, names, shapes, ranges, memory.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    machine: Machine,
    /// Emit the code and decode every byte of it; any floating-point instruction is a failure
    #[arg(long)]
    audit: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let source = Source::read(&args.model.path)?;
    let elaborated = compile::front(&source, &args.model)?;
    let compiled = compile::compiled(&source, &args.model)?;
    let target = args.machine.target()?;
    if args.audit {
        if !target.triple.starts_with("x86_64") {
            return Err(Failure::usage(format!(
                "only x86-64 code can be audited, and `{}` is none",
                target.name
            )));
        }
        // All programs have the same kernels.
        let emitted = jit::listing(&compiled.programs[0], target).map_err(Failure::failed)?;
        return audited(&emitted);
    }
    say(&layers(&elaborated.module))?;
    let (kernels, calls) = (compiled.programs[0].kernels.len(), compiled.programs[0].calls.len());
    say(&format!(
        "{kernels} kernels, {calls} calls a step, an arena of {} bytes; nothing can overflow",
        compiled.plan.bytes
    ))
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
        let count = if count == 0 { String::new() } else { count.to_string() };
        rows.push(vec![node.path.clone(), node.op.clone(), gives, count]);
    }
    format!("{}\n{}: {} layers, {all} parameters", table(&rows), module.name, rows.len() - 1)
}

/// Says what all functions together are made of.
fn audited(emitted: &[Emitted]) -> Result<(), Failure> {
    let mut sum = Count::default();
    for function in emitted {
        let count = audit(function)
            .map_err(|why| Failure::failed(format!("cannot account for every byte: {why}")))?;
        for mnemonic in &count.float {
            super::terminal::note(&format!("{}: {mnemonic}", function.name));
        }
        sum.add(count);
    }
    let bytes: usize = emitted.iter().map(|function| function.bytes.len()).sum();
    super::terminal::note(&format!(
        "{} functions, {bytes} bytes, {} of them constants",
        emitted.len(),
        sum.constant_bytes
    ));
    say(&format!("{} instructions, {} float", sum.instructions, sum.float.len()))?;
    if sum.float.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed("the step computes with floating-point numbers"))
    }
}
