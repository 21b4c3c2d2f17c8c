//! `fqtc train`: compile a model and train it on images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fqt_runtime::data::Dataset;
use fqt_runtime::session::{Mode, Session, Tally};
use fqt_runtime::train::{self, LAST, Outcome};

use super::compile::{self, Ready};
use super::display::{Display, result};
use super::failure::Failure;
use super::options::{Machine, Model};
use super::run_folder::{self, Existing};
use super::terminal::{Interrupt, note, say, table};
use super::{images, source::Source};
use crate::datasets;

/// Train a model.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    machine: Machine,
    /// Images to learn: a name from `fqtc data list`, or a folder
    #[arg(long, value_name = "NAME|DIR", default_value = datasets::BUILT_IN)]
    data: String,
    /// Name of the run; its folder is runs/NAME [default: the model file's name]
    #[arg(long)]
    name: Option<String>,
    /// Replace the run of that name
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Continue the run where it stopped, or from a checkpoint
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    /// Stop after so many steps in all, as Ctrl-C would
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
    let existing = match (args.force, &args.resume) {
        (_, Some(_)) => Existing::Resume,
        (true, None) => Existing::Force,
        (false, None) => Existing::Keep,
    };
    let source = Source::read(&args.model.path)?;
    let folder = run_folder::path(&name(&args))?;
    run_folder::check(&folder, &existing)?;
    let ready = compile::ready(&source, &args.model, &args.machine)?;
    if args.timings {
        note(&timings(&ready.timings));
    }
    let resume = checkpoint(&args, &folder)?;
    let Ready { artifact, kernels, merged, epochs, seed, augmentation, .. } = ready;
    let mut session = Session::new(artifact, kernels, args.machine.threads())?;
    let data = images::open_for(&args.data, session.shape(), session.artifact().classes as usize)?;
    if let Err(failure) = run_folder::prepare(&folder, &existing, &merged) {
        run_folder::discard_unused(&folder);
        return Err(failure);
    }
    if !args.quiet {
        note(&heading(&session, &data, &folder));
    }
    let options = train::Options {
        epochs,
        seed,
        augmentation,
        max_steps: args.max_steps,
        folder: Some(&folder),
        resume: resume.as_deref(),
        stop: interrupt.flag(),
    };
    let mut display = Display::new(epochs, args.quiet);
    display.start();
    let outcome = train::train(&mut session, &data, &options, &mut display);
    display.finish();
    if outcome.is_err() {
        run_folder::discard_unused(&folder);
    }
    conclude(&mut session, &data, &interrupt, outcome?)
}

/// The name of the run.
fn name(args: &Args) -> String {
    args.name
        .clone()
        .unwrap_or_else(|| args.model.path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
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

fn heading(session: &Session, data: &Dataset, folder: &Path) -> String {
    let threads = session.threads();
    format!(
        "training on {} images of {}, testing on {}; batch {}, {threads} thread{}; run folder {}",
        data.train.len(),
        data.name,
        data.test.len(),
        session.batch(),
        if threads == 1 { "" } else { "s" },
        folder.display()
    )
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
fn conclude(
    session: &mut Session,
    data: &Dataset,
    interrupt: &Interrupt,
    outcome: Outcome,
) -> Result<(), Failure> {
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
    say(&last_line(&test, session))
}

/// The result of a run or of a test.
pub(super) fn last_line(test: &Tally, session: &Session) -> String {
    format!("test {}  weights blake3:{}", result(test), session.weights_hash())
}
