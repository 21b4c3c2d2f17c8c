//! The command line: one file per subcommand, over the library.
//!
//! Exit codes, the same for every subcommand: 0 done, 1 the work failed, 2 usage or diagnostics, 130 stopped by the user after saving.
//! Results go to standard output, everything else to standard error. Percent, rates and times are made here, from the integers that
//! the layers below report. No panic is reachable from any file or flag.

mod bench;
mod catalogue;
mod check;
mod compile;
mod data;
mod display;
mod dump;
mod eval;
mod explain;
mod failure;
mod images;
mod list;
mod options;
mod plan;
mod predict;
mod run_folder;
mod source;
mod study;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Compile and train fully quantized networks: weights, activations and gradients in integers.
#[derive(Parser)]
#[command(name = "fqtc", version, max_term_width = 110, propagate_version = true)]
#[command(after_help = "`fqtc COMMAND --help` explains a command. Start with: fqtc train resnet8 --epochs 1")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model
    Train(train::Args),
    Study(Box<study::Args>),
    /// Test a trained network
    Eval(eval::Args),
    /// Say which class each image belongs to
    Predict(predict::Args),
    /// Check a model: syntax, names, shapes, ranges, memory
    Check(check::Args),
    /// Print a model at a stage of the compilation
    Dump(dump::Args),
    Bench(bench::Args),
    /// Show where every buffer of a step lies in memory
    Plan(plan::Args),
    /// List what is built in: layers, quantizers, recipes, models, ...
    List(list::Args),
    /// Explain an error code or a built-in name
    Explain(explain::Args),
    /// List, fetch and describe data sets
    Data(data::Args),
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Command::Train(args) => train::run(args),
            Command::Study(args) => study::run(&args),
            Command::Eval(args) => eval::run(args),
            Command::Predict(args) => predict::run(args),
            Command::Check(args) => check::run(args),
            Command::Dump(args) => dump::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Plan(args) => plan::run(args),
            Command::List(args) => list::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Data(args) => data::run(args),
        }
    }
}

/// Runs the program on the arguments of the process.
pub fn main() -> ExitCode {
    // Usage errors, --help and --version end here, with 2 or 0.
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
