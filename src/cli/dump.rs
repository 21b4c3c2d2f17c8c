//! `fqtc dump`: the model as text, at any stage of the compilation.

use std::fmt::Write;

use super::compile::{self, Which};
use super::failure::Failure;
use super::options::{Machine, Model};
use super::source::Source;
use super::terminal::say;
use crate::codegen::emit_clif::Emitted;
use crate::codegen::jit;
use crate::driver::Compiled;
use crate::ir;
use crate::kernel::{self, BufferId};
use crate::plan::UNIT;

/// Print a model at a stage of the compilation.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    machine: Machine,
    /// How far to compile
    #[arg(long, value_enum)]
    stage: Stage,
    /// The program to print, from stage kernel on
    #[arg(long, value_enum, default_value_t = Which::Train)]
    program: Which,
}

/// Stages in the order of the compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    /// The model file, with everything that changes it merged
    Ast,
    /// The training IR of the forward computation
    Forward,
    /// With gradients and updates
    Training,
    /// With quantizers of gradients
    Quantized,
    /// With groups of fused nodes
    Fused,
    /// With bit-widths chosen
    Bits,
    /// The kernel program: integers only
    Kernel,
    /// Its calls, with the places of their buffers in memory
    Planned,
    /// The code generator's intermediate form of each kernel
    Clif,
    /// Machine code of each kernel
    Asm,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let source = Source::read(&args.model.path)?;
    let module = |stage| compile::module(&source, &args.model, stage).map(|module| ir::print::print(&module));
    let compiled = || compile::compiled(&source, &args.model);
    let number = args.program as usize;
    let text = match args.stage {
        Stage::Ast => compile::front(&source, &args.model)?.model.to_string(),
        Stage::Forward => module(ir::Stage::Forward)?,
        Stage::Training => module(ir::Stage::Training)?,
        Stage::Quantized => module(ir::Stage::Quantized)?,
        Stage::Fused => module(ir::Stage::Fused)?,
        Stage::Bits => module(ir::Stage::Bits)?,
        Stage::Kernel => compiled()?.programs[number].to_string(),
        Stage::Planned => planned(&compiled()?, number),
        Stage::Clif | Stage::Asm => code(&compiled()?, number, &args)?,
    };
    say(text.trim_end())
}

/// Calls by stage and chain, each argument with its buffer and the place of that in the arena.
fn planned(compiled: &Compiled, number: usize) -> String {
    let (program, offsets) = (&compiled.programs[number], &compiled.plan.offsets[number]);
    let mut text =
        format!("arena {} bytes, {} of them lasting\n", compiled.plan.bytes, compiled.plan.lasting);
    let place = |id: &BufferId| {
        let i = id.0 as usize;
        format!("{} at {}", program.buffers[i].name, u64::from(offsets[i]) * UNIT)
    };
    let line = |&i: &usize| {
        let call = &program.calls[i];
        let kernel::Kernel { name, items, .. } = &program.kernels[call.kernel];
        let args: Vec<String> = call.args.iter().map(place).collect();
        format!("    {i}: {name} kernel {} items {items} ({})\n", call.kernel, args.join(", "))
    };
    for (i, stage) in compiled.schedules[number].stages.iter().enumerate() {
        text += &format!("stage {i}\n");
        for chain in stage {
            text += &format!("  in {} parts\n", chain.parts);
            text.extend(chain.calls.iter().map(line));
        }
    }
    text
}

/// The functions of a program, as the code generator's text or as instructions.
fn code(compiled: &Compiled, number: usize, args: &Args) -> Result<String, Failure> {
    let emitted =
        jit::listing(&compiled.programs[number], args.machine.target()?).map_err(Failure::failed)?;
    let text = |function: &Emitted| {
        let listing = function.listing.as_ref();
        let part = listing.map(|l| if args.stage == Stage::Clif { l.clif.as_str() } else { l.asm.as_str() });
        format!("{}:\n{}\n", function.name, part.unwrap_or_default())
    };
    let mut all = String::new();
    for function in &emitted {
        // Writing to a string cannot fail.
        let _ = writeln!(all, "{}", text(function));
    }
    Ok(all)
}
