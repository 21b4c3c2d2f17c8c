//! `fqtc eval`: test a trained network.

use std::path::PathBuf;

use fqt_runtime::checkpoint;
use fqt_runtime::session::{Mode, Session};
use fqt_runtime::train;

use super::failure::Failure;
use super::options::{Machine, Model};
use super::terminal::{Interrupt, note, say};
use super::{compile, images, run_folder, source::Source, train as training};
use crate::datasets;

/// Test a trained network.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    trained: Trained,
    /// Images to test on: a name from `fqtc data list`, or a folder
    #[arg(long, value_name = "NAME|DIR", default_value = datasets::BUILT_IN)]
    data: String,
    /// Test on the training images
    #[arg(long)]
    training_images: bool,
    /// Normalize with the statistics of each batch instead of the running ones; the last partial batch is left out. Those of
    /// few images are noisy themselves: --batch 1000 comes nearer
    #[arg(long)]
    batch_statistics: bool,
}

/// What the first argument of a command on trained networks is.
const RUN: &str = "Folder of a run; or a model file (.fqt) or built-in model, with --checkpoint";

/// A trained network: a run folder, or a model file with a checkpoint.
#[derive(clap::Args)]
#[command(mut_arg("path", |arg| arg.value_name("RUN|MODEL").help(RUN)))]
// A changed argument goes last.
#[command(mut_arg("changes", |arg| arg))]
pub(super) struct Trained {
    #[command(flatten)]
    pub(super) model: Model,
    #[command(flatten)]
    machine: Machine,
    /// Trained state, a .safetensors file [default: the last of the run folder]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

impl Trained {
    /// Compiles the model and loads the state.
    pub(super) fn session(mut self) -> Result<Session, Failure> {
        let folder = self.model.path.is_dir().then(|| self.model.path.clone());
        let path = match (self.checkpoint, &folder) {
            (Some(path), _) => path,
            (None, Some(folder)) => run_folder::checkpoint(folder)?,
            (None, None) => {
                // A model that does not exist is the first thing to tell.
                Source::read(&self.model.path)?;
                return Err(Failure::usage("a model alone is not trained yet")
                    .help("name a run folder, such as runs/resnet20, or add --checkpoint FILE"));
            }
        };
        if let Some(folder) = folder {
            self.model.path = folder.join(run_folder::MODEL);
        }
        let source = Source::read(&self.model.path)?;
        let ready = compile::ready(&source, &self.model, &self.machine)?;
        let mut session = Session::new(ready.artifact, ready.kernels, self.machine.threads())?;
        let state = checkpoint::load_state(&path, &mut session)?;
        let (epochs, steps) = (state.progress.epoch, session.steps_done());
        let plural = if epochs == 1 { "" } else { "s" };
        note(&format!("{}: after {epochs} epoch{plural}, {steps} steps", path.display()));
        Ok(session)
    }
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let mut session = args.trained.session()?;
    let data = images::open_for(&args.data, session.shape(), session.artifact().classes as usize)?;
    let part = if args.training_images { &data.train } else { &data.test };
    let mode = if args.batch_statistics { Mode::EvaluateBatch } else { Mode::Evaluate };
    let tally = train::evaluate(&mut session, part, mode, interrupt.flag()).ok_or(Failure::Interrupted)?;
    if tally.samples == 0 {
        return Err(Failure::failed(format!(
            "{} images do not fill a batch of {}",
            part.len(),
            session.batch()
        ))
        .help("leave --batch-statistics out, or choose a smaller batch"));
    }
    say(&training::last_line("test", &tally, &session))
}
