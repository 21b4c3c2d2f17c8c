//! Arguments that several subcommands share.

use std::path::PathBuf;

use super::failure::Failure;
use crate::targets::{self, Target};

/// A model, and what changes it. Later ones win: the file, `use recipe`, `--recipe`, `key=value`, the named flags.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Model {
    /// Model file (.fqt), or the name of a built-in model
    #[arg(value_name = "MODEL")]
    pub(super) path: PathBuf,
    /// Settings to change, such as optimizer.lr=0.05 or basic2.conv1.gradients.bits=8
    #[arg(value_name = "KEY=VALUE")]
    pub(super) changes: Vec<String>,
    /// Use this recipe on top of what the file says
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub(super) recipe: Option<String>,
    /// Bits of gradients, 2 to 8
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) gbits: Option<i64>,
    /// Where all random numbers come from
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) seed: Option<i64>,
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// Settings of a model with a flag of their own.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Settings {
    /// Bits of weights, 2 to 8
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) wbits: Option<i64>,
    /// Bits of activations, 2 to 8
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) abits: Option<i64>,
    /// Images in a batch
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) batch: Option<i64>,
    /// Passes over the training images
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) epochs: Option<i64>,
    /// Learning rate (the peak of the schedule)
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, help_heading = "Model")]
    pub(super) lr: Option<f64>,
}

/// Heading of the options in [`Machine`].
const MACHINE: &str = "Machine (results do not depend on it)";

/// How to run. Nothing here changes a result.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Machine {
    /// Threads [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = MACHINE)]
    threads: Option<u16>,
    /// Code to run: `best` or `baseline` of this machine, or a name from `fqtc list targets`
    #[arg(long, value_name = "TARGET", default_value = "best", help_heading = MACHINE)]
    features: String,
}

impl Machine {
    /// Number of threads.
    pub(super) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.map_or_else(cores, usize::from)
    }

    /// The target to make code for.
    pub(super) fn target(&self) -> Result<&'static Target, Failure> {
        targets::by_name(&self.features).map_err(Failure::usage)
    }
}
