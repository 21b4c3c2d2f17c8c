//! `fqtc dump`: the model as text, at any stage of the compilation.

use super::failure::Failure;
use super::options::Model;
use super::terminal::say;
use super::{compile, source::Source};
use crate::ir;

/// Print a model at a stage of the compilation.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    /// How far to compile
    #[arg(long, value_enum)]
    stage: Stage,
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
}

impl Stage {
    /// The stage of the training IR, if it is one.
    fn of_ir(self) -> Option<ir::Stage> {
        match self {
            Stage::Ast => None,
            Stage::Forward => Some(ir::Stage::Forward),
            Stage::Training => Some(ir::Stage::Training),
            Stage::Quantized => Some(ir::Stage::Quantized),
            Stage::Fused => Some(ir::Stage::Fused),
            Stage::Bits => Some(ir::Stage::Bits),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let source = Source::read(&args.model.path)?;
    let text = match args.stage.of_ir() {
        None => compile::front(&source, &args.model)?.model.to_string(),
        Some(stage) => ir::print::print(&compile::module(&source, &args.model, stage)?),
    };
    say(text.trim_end())
}
