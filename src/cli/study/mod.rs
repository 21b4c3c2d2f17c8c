//! `fqtc study`: many training runs that differ in recipe, gradient bits, seed or any setting, and one summary of them.
//!
//! Each cell is a run like those of `fqtc train`, by the same code, in a folder of its own below that of the study. The
//! folders are all the memory there is: cells that are done are read, one that was interrupted continues, and the summary
//! is made from their files. It shows the last epoch, not the best.

mod bits;
mod budget;
mod calibration;
mod cells;
mod markdown;
mod noise;
mod page;
mod plot;
mod record;
mod report;
mod statistics;
mod summary;
mod widths;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use fqt_runtime::error::ErrorKind;
use fqt_runtime::train::LAST;

use super::display::Display;
use super::failure::Failure;
use super::images::Images;
use super::options::{Machine, Model, Settings};
use super::run_folder::{self, Existing};
use super::terminal::{Interrupt, note, say};
use super::train::Run;
use super::{compile, source::Source};
use crate::bops::{Bops, bops};
use crate::driver::{self, Compiled};
use crate::ir::{Param, Stage};
use crate::noise::{Layer, Point};
use crate::passes;
use cells::Cell;
use record::{Record, Recorder, State};
use summary::{Study, Trained};

/// Train a model in many variants, and compare them.
///
/// Every combination of recipes, gradient bits, seeds and values of a key is one run, in runs/NAME/CELL. The same command
/// continues a study that was stopped, and a study whose lists have grown trains what is new. summary.csv, summary.svg and
/// summary.html in runs/NAME are written again after each run.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    sweep: Sweep,
}

/// Studies of other kinds.
#[derive(clap::Subcommand)]
enum Other {
    Noise(noise::Args),
    Bits(bits::Args),
}

/// What to train, and in which variants.
#[derive(clap::Args)]
struct Sweep {
    /// Model file (.fqt), or the name of a built-in model
    #[arg(value_name = "MODEL", required = true)]
    model: Option<PathBuf>,
    /// Settings to change; values between commas are compared, such as optimizer.lr=0.05,0.1 (so more than one `augment` at
    /// once is for the model file to state)
    #[arg(value_name = "KEY=VALUE,...")]
    changes: Vec<String>,
    /// Recipes to compare
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    #[arg(help_heading = VARIANTS)]
    recipes: Vec<String>,
    /// Bits of gradients to compare
    #[arg(long, value_name = "N,...", value_delimiter = ',', allow_negative_numbers = true, help_heading = VARIANTS)]
    gbits: Vec<i64>,
    /// Seeds to average over
    #[arg(long, value_name = "N,...", value_delimiter = ',', allow_negative_numbers = true, help_heading = VARIANTS)]
    seeds: Vec<i64>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    images: Images,
    /// Name of the study; its folder is runs/NAME [default: the model file's name and -study]
    #[arg(long)]
    name: Option<String>,
    /// At the end, write the means as this study's section of a Markdown file, each with a command to check it by
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Train cells again that are there with another model, other data, or the integers of another version of fqtc
    #[arg(long)]
    force: bool,
    /// Stop in the first cell that has so many steps, and save
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Show warnings and the summary only
    #[arg(long, short)]
    quiet: bool,
}

const VARIANTS: &str = "Variants";

impl Sweep {
    /// The model; there is one unless a study of another kind is asked for.
    fn model(&self) -> &Path {
        self.model.as_deref().unwrap_or(Path::new(""))
    }
}

/// A cell that is known to be possible.
struct Planned {
    cell: Cell,
    folder: PathBuf,
    /// The model that is trained, as text.
    merged: String,
    bops: Bops,
    /// How many it has when it is done.
    epochs: u32,
}

impl Planned {
    /// The result of a run that is done.
    fn read(self, record: Record) -> Result<Trained, Failure> {
        Trained::read(self.cell, self.bops, record, &self.folder, self.epochs)
    }
}

/// What there is of a cell.
enum Standing {
    /// Nothing to keep.
    New,
    /// A checkpoint to continue from.
    Begun(Record),
    /// A result.
    Done(Record),
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.other {
        Some(Other::Noise(args)) => noise::run(args),
        Some(Other::Bits(args)) => bits::run(args),
        None => compare(&args.sweep),
    }
}

/// Trains all variants.
fn compare(args: &Sweep) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let source = Source::read(args.model())?;
    args.machine.target()?;
    let folder = folder(args)?;
    let axes = cells::axes(&args.recipes, &args.gbits, &args.changes, &args.seeds)?;
    let cells = cells::cells(args, &axes);
    // What can be wrong with any cell is said before the first one takes its time.
    if let Some(file) = &args.markdown {
        markdown::check(file, args, &cells)?;
    }
    let contents = args.images.contents()?;
    let planned = cells.into_iter().map(|cell| plan(args, &source, &folder, &contents, cell));
    let planned = planned.collect::<Result<Vec<_>, Failure>>()?;
    distinct(&planned)?;
    let mut study = Study::new(args.model().display().to_string(), &args.images, axes);
    let count = planned.len();
    let announce = |number: usize, cell: &Cell| {
        if !args.quiet {
            note(&format!("{}/{count}  {}", number + 1, cell.name));
        }
    };
    let conclude = |trained: &Trained| {
        if !args.quiet {
            note(&format!("  {}", trained.outcome(args.images.measured())));
        }
    };
    // What is done is read first: then nothing that is broken comes to light after hours of training.
    let mut open = vec![];
    for (number, (planned, standing)) in planned.into_iter().enumerate() {
        match standing {
            Standing::Done(record) => {
                announce(number, &planned.cell);
                let trained = planned.read(record)?;
                conclude(&trained);
                study.add(number, trained);
            }
            Standing::Begun(record) => open.push((number, planned, Some(record))),
            Standing::New => open.push((number, planned, None)),
        }
    }
    if !study.cells.is_empty() {
        summary::write(&study, &folder)?;
    }
    for (number, planned, begun) in open {
        announce(number, &planned.cell);
        let Some(trained) = train(args, &source, planned, begun, &contents, &interrupt)? else {
            return stopped(&interrupt);
        };
        conclude(&trained);
        study.add(number, trained);
        summary::write(&study, &folder)?;
    }
    if let Some(file) = &args.markdown {
        markdown::write(file, args, &study)?;
    }
    say(&report::table(&study))?;
    note(&format!("{}: summary.html, summary.svg, summary.csv", folder.display()));
    if let Some(file) = &args.markdown {
        note(&format!("{}: the section of `{}`", file.display(), name(args)));
    }
    Ok(())
}

fn stopped(interrupt: &Interrupt) -> Result<(), Failure> {
    note("stopped; everything is saved, the same command continues");
    if interrupt.requested() { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Checks, before any work, that a file can be written there: it has a folder, and is none itself.
fn check_place(file: Option<&Path>) -> Result<(), Failure> {
    if let Some(file) = file.filter(|file| file.is_dir()) {
        return Err(Failure::usage(format!("`{}` is a folder", file.display())).help("name a file in it"));
    }
    match file.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) if !folder.is_dir() => {
            Err(Failure::usage(format!("there is no folder `{}`", folder.display()))
                .help("make it, or write into another"))
        }
        _ => Ok(()),
    }
}

/// Checks that all cells are different models.
fn distinct(planned: &[(Planned, Standing)]) -> Result<(), Failure> {
    let mut known = BTreeMap::new();
    for (planned, _) in planned {
        if let Some(other) = known.insert(&planned.merged, &planned.cell.name) {
            let name = &planned.cell.name;
            return Err(Failure::usage(format!("`{other}` and `{name}` are the same model"))
                .help("leave out the flag or the setting that overrides what is compared"));
        }
    }
    Ok(())
}

/// The way out where the files of a cell are damaged.
fn train_again(folder: &Path) -> String {
    format!("remove the folder `{}` to train this cell again", folder.display())
}

/// The name of the study.
fn name(args: &Sweep) -> String {
    let stem = || args.model().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    args.name.clone().unwrap_or_else(|| stem() + "-study")
}

/// The folder of the study.
fn folder(args: &Sweep) -> Result<PathBuf, Failure> {
    let folder = run_folder::path(&name(args))?;
    if folder.join(run_folder::MODEL).exists() {
        return Err(Failure::usage(format!("`{}` is the folder of a run, not of a study", folder.display()))
            .help("choose another --name"));
    }
    Ok(folder)
}

/// Checks the model of a cell, and looks at what there is of it.
fn plan(
    args: &Sweep,
    source: &Source,
    study: &Path,
    contents: &str,
    cell: Cell,
) -> Result<(Planned, Standing), Failure> {
    let elaborated = compile::front(source, &cell.model)?;
    let merged = elaborated.model.to_string();
    let module = passes::run(elaborated.module, Stage::Bits, |_, _| ());
    let module = module.map_err(|error| source.diagnostics(&[error]))?;
    // The name as a whole is checked like that of any run; then it is one below the study.
    run_folder::path(&cell.name)?;
    let folder = study.join(&cell.name);
    let fingerprint = || Ok(compile::compiled(source, &cell.model)?.fingerprint());
    let standing = standing(args, &folder, contents, &merged, fingerprint)?;
    let epochs = module.training.epochs;
    Ok((Planned { cell, folder, merged, bops: bops(&module), epochs }, standing))
}

/// A cell is what its note says only if the same model, the same images and the same integers would be trained now: else
/// nobody could check its result.
fn standing(
    args: &Sweep,
    folder: &Path,
    contents: &str,
    merged: &str,
    fingerprint: impl FnOnce() -> Result<String, Failure>,
) -> Result<Standing, Failure> {
    let path = folder.join(run_folder::MODEL);
    let model = match fs::read_to_string(&path) {
        Ok(model) => model,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Standing::New),
        Err(e) => return Err(Failure::file(&path, &e)),
    };
    // A run without a note ended before its first step.
    let Some(record) = Record::read(folder)? else { return Ok(Standing::New) };
    let what = if !record.is_on(&args.images, contents) {
        "on other images"
    } else if model != merged {
        "with another model"
    } else if record.fingerprint != Some(fingerprint()?) {
        "by a version of fqtc that computes other integers"
    } else {
        return Ok(match record.state {
            State::Begun if !folder.join(LAST).is_file() => Standing::New,
            State::Begun => Standing::Begun(record),
            State::Finished | State::Diverged => Standing::Done(record),
        });
    };
    if args.force {
        return Ok(Standing::New);
    }
    Err(Failure::usage(format!("`{}` was trained {what}", folder.display()))
        .help("train it again with --force, or choose another --name for this study"))
}

/// The layers of a trained network at a few training images.
fn layers(source: &Source, model: &Model, params: &[Param], run: &Run) -> Result<Vec<Layer>, Failure> {
    let settings = Settings { batch: Some(IMAGES), ..model.settings.clone() };
    let module = compile::module(source, &Model { settings, ..model.clone() }, Stage::Bits)?;
    let params = driver::parameters(params, run.session.artifact(), run.session.arena());
    let (image, labels) = calibration::batch(&run.data, &module, &run.data.train);
    Ok(Point::of_weights(&module, &params, &image, &labels).layers(PASSES, run.session.threads()))
}

/// Images at which layers are looked at, and passes of which their figures are means.
const IMAGES: i64 = 8;
const PASSES: u64 = 2;

/// Brings a cell that is not done to its end; `None` if stopped before.
fn train(
    args: &Sweep,
    source: &Source,
    planned: Planned,
    begun: Option<Record>,
    contents: &str,
    interrupt: &Interrupt,
) -> Result<Option<Trained>, Failure> {
    let look = |compiled: &Compiled| (compiled.fingerprint(), compiled.module.params.clone());
    let (ready, (fingerprint, params)) =
        compile::ready_and(source, &planned.cell.model, &args.machine, look)?;
    let existing = if begun.is_some() { Existing::Resume } else { Existing::Force };
    let mut before = begun.unwrap_or_else(|| Record::new(&args.images, contents, fingerprint));
    debug_assert_eq!(ready.merged, planned.merged);
    let resume = (existing == Existing::Resume).then(|| planned.folder.join(LAST));
    let mut run = Run::prepare(ready, &args.machine, &args.images, planned.folder.clone(), &existing)?;
    if !args.quiet {
        note(&format!("  {}", run.heading()));
    }
    before.threads = before.threads.max(Some(run.session.threads()));
    before.write(&planned.folder)?;
    let display = Display::new(run.epochs, args.images.measured(), args.quiet);
    let mut recorder = Recorder::new(display, &planned.folder, before);
    recorder.display.start();
    let outcome = run.train(resume.as_deref(), args.max_steps, interrupt, &mut recorder);
    let mut record = recorder.finish()?;
    match outcome {
        Ok(outcome) if outcome.finished => {
            record.state = State::Finished;
            record.weights = Some(run.session.weights_hash());
            record.layers = layers(source, &planned.cell.model, &params, &run)?;
        }
        Ok(_) => {
            record.write(&planned.folder)?;
            return Ok(None);
        }
        Err(error) if error.kind == ErrorKind::Diverged => {
            record.state = State::Diverged;
            record.reason = Some(error.message);
        }
        Err(error) if resume.is_some() && error.kind == ErrorKind::Corrupt => {
            return Err(Failure::from(error).help(train_again(&planned.folder)));
        }
        Err(error) => return Err(error.into()),
    }
    record.write(&planned.folder)?;
    planned.read(record).map(Some)
}
