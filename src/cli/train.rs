//! `fqtc train`: compile a model and train it on images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fqt_runtime::augment::Augmentation;
use fqt_runtime::data::Dataset;
use fqt_runtime::session::{Mode, Session, Tally};
use fqt_runtime::train::{self, LAST, Observer, Outcome};

use super::compile::{self, Ready};
use super::display::{Display, result};
use super::failure::Failure;
use super::images::Images;
use super::options::{Machine, Model};
use super::run_folder::{self, Existing};
use super::source::Source;
use super::terminal::{Interrupt, note, say, table};

/// Train a model.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    images: Images,
    /// Name of the run; its folder is runs/NAME [default: the model file's name]
    #[arg(long)]
    name: Option<String>,
    /// Replace the run of that name
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Continue the run where it stopped, or from a checkpoint
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, require_equals = true)]
    resume: Option<Option<PathBuf>>,
    /// Stop after so many steps in all, and save
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Show warnings and the result only
    #[arg(long, short)]
    quiet: bool,
    /// Show how long each part of the compilation took
    #[arg(long)]
    timings: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let source = Source::read(&args.model.path)?;
    let folder = run_folder::path(&name(&args))?;
    let existing = match &args.resume {
        // A checkpoint from elsewhere begins a folder of its own.
        Some(Some(path)) if !lies_in(path, &folder) => Existing::Keep,
        Some(_) => Existing::Resume,
        None if args.force => Existing::Force,
        None => Existing::Keep,
    };
    run_folder::check(&folder, &existing)?;
    let ready = compile::ready(&source, &args.model, &args.machine)?;
    if args.timings {
        note(&timings(&ready.timings));
    }
    let resume = checkpoint(&args, &folder)?;
    let mut run = Run::prepare(ready, &args.machine, &args.images, folder, &existing)?;
    if !args.quiet {
        note(&run.heading());
    }
    let mut display = Display::new(run.epochs, args.images.measured(), args.quiet);
    display.start();
    let outcome = run.train(resume.as_deref(), args.max_steps, &interrupt, &mut display);
    display.finish();
    conclude(&mut run, args.images.measured(), &interrupt, outcome?)
}

/// A run that can begin: compiled, with its data and its folder.
pub(super) struct Run {
    pub(super) session: Session,
    pub(super) data: Dataset,
    folder: PathBuf,
    /// Passes over the training images.
    pub(super) epochs: u32,
    seed: u64,
    augmentation: Augmentation,
    _lock: run_folder::Lock,
}

impl Run {
    /// Opens the data and makes the folder.
    pub(super) fn prepare(
        ready: Ready,
        machine: &Machine,
        images: &Images,
        folder: PathBuf,
        existing: &Existing,
    ) -> Result<Run, Failure> {
        let Ready { artifact, kernels, merged, epochs, seed, augmentation, .. } = ready;
        let session = Session::new(artifact, kernels, machine.threads())?;
        let data = images.open_for(session.shape(), session.artifact().classes as usize)?;
        // Before the folder of an earlier run is emptied.
        train::batches(&session, &data)?;
        let lock = run_folder::prepare(&folder, existing, &merged)?;
        Ok(Run { session, data, folder, epochs, seed, augmentation, _lock: lock })
    }

    /// Trains to the end, or until stopped.
    pub(super) fn train(
        &mut self,
        resume: Option<&Path>,
        max_steps: Option<u64>,
        interrupt: &Interrupt,
        observer: &mut dyn Observer,
    ) -> fqt_runtime::error::Result<Outcome> {
        let options = train::Options {
            epochs: self.epochs,
            seed: self.seed,
            augmentation: self.augmentation,
            max_steps,
            folder: Some(&self.folder),
            resume,
            stop: interrupt.flag(),
        };
        let outcome = train::train(&mut self.session, &self.data, &options, observer);
        if outcome.is_err() {
            run_folder::discard_unused(&self.folder);
        }
        outcome
    }

    /// What is about to happen, in a line.
    pub(super) fn heading(&self) -> String {
        let threads = self.session.threads();
        format!(
            "training on {} images of {}, testing on {}; batch {}, {threads} thread{}; run folder {}",
            self.data.train.len(),
            self.data.name,
            self.data.test.len(),
            self.session.batch(),
            if threads == 1 { "" } else { "s" },
            self.folder.display()
        )
    }
}

/// The name of the run.
fn name(args: &Args) -> String {
    args.name
        .clone()
        .unwrap_or_else(|| args.model.path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}

/// Whether a file is in a folder.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let there = path.parent().and_then(|parent| parent.canonicalize().ok());
    there.is_some_and(|there| folder.canonicalize().is_ok_and(|folder| folder == there))
}

/// The checkpoint to continue from, if any.
fn checkpoint(args: &Args, folder: &Path) -> Result<Option<PathBuf>, Failure> {
    let Some(resume) = &args.resume else { return Ok(None) };
    let path = resume.clone().unwrap_or_else(|| folder.join(LAST));
    if resume.is_none() && !path.is_file() {
        return Err(Failure::usage(format!("there is no run to continue: no file `{}`", path.display()))
            .help("leave --resume out to begin one, or name the run with --name"));
    }
    Ok(Some(path))
}

/// A table of times, with their sum.
fn timings(parts: &[(&'static str, Duration)]) -> String {
    let line =
        |name: &str, time: Duration| vec![name.to_string(), format!("{:9.3} ms", time.as_secs_f64() * 1e3)];
    let sum = parts.iter().map(|(_, time)| *time).sum();
    let lines: Vec<_> =
        parts.iter().map(|(name, time)| line(name, *time)).chain([line("all", sum)]).collect();
    table(&lines)
}

/// Says how the run ended; the last line is the result.
fn conclude(run: &mut Run, measured: &str, interrupt: &Interrupt, outcome: Outcome) -> Result<(), Failure> {
    let Run { session, data, .. } = run;
    if !outcome.finished {
        let progress = outcome.progress;
        note(&format!(
            "stopped in epoch {} after step {}; everything is saved, the same command with --resume continues",
            progress.epoch + 1,
            session.steps_done()
        ));
        say(&format!(
            "stopped after step {}  weights blake3:{}",
            session.steps_done(),
            session.weights_hash()
        ))?;
        return if interrupt.requested() { Err(Failure::Interrupted) } else { Ok(()) };
    }
    // A run that was complete before has not been tested in this process.
    let test = match outcome.test {
        Some(test) => test,
        None => train::evaluate(session, &data.test, Mode::Evaluate, interrupt.flag())
            .ok_or(Failure::Interrupted)?,
    };
    say(&last_line(measured, &test, session))
}

/// The result of a run or of a test on `measured` images.
pub(super) fn last_line(measured: &str, test: &Tally, session: &Session) -> String {
    format!("{measured} {}  weights blake3:{}", result(test), session.weights_hash())
}
