//! `fqtc bench`: how fast a training step is, where its time goes, and how that compares with PyTorch.
//!
//! One batch stays in memory: neither reading nor distorting images is part of what is measured. Its pixels are random:
//! a data set would be in memory beside it. Whole steps are timed first, without clocks inside; the profile is of later ones.

mod against;
mod profile;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fqt_runtime::data::{Part, Shape};
use fqt_runtime::random::mix64;
use fqt_runtime::session::{Mode, Session};

use super::failure::Failure;
use super::options::{Machine, Model};
use super::terminal::say;
use super::{compile, source::Source};
use crate::codegen::clock::{self, Clocks};
use crate::codegen::jit::JitStep;
use crate::codegen::peak::{self, Dots, Peak};
use profile::{Calls, Profile};

/// Measure how fast a training step is, and where its time goes.
///
/// Whole steps on one batch are timed first, then single kernels in later steps. In the tables, ms is the time of all
/// threads in a kernel divided by the threads, and waiting the rest of the time of its calls: threads at the barrier, or
/// without an item. Waiting and `single item` (what only one thread can do) are the glue of a step. MACs/cycle is of one thread while it computes, and
/// `of peak` its share of what a loop without memory did in the same run; `alone` is that share in contractions themselves,
/// by clocks around them in other steps and that loop right after each, without what a kernel does before and after. MiB is what kernels read and write, wherever it
/// lies.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    machine: Machine,
    /// Steps that are timed together
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// How often: the median counts
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Print one JSON object, with every kernel of every layer
    #[arg(long)]
    json: bool,
    /// Compare with a program that trains the same network, in turns
    #[arg(long, value_enum, help_heading = COMPARISON)]
    against: Option<Peer>,
    /// Turns of both programs
    #[arg(long, value_name = "N", default_value_t = 5, requires = "against", help_heading = COMPARISON)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Arithmetic of the other program
    #[arg(long, value_enum, value_delimiter = ',', default_value = "fp32", requires = "against")]
    #[arg(help_heading = COMPARISON)]
    dtype: Vec<against::DType>,
    /// Python that has PyTorch
    #[arg(long, value_name = "PATH", default_value = "python3", requires = "against")]
    #[arg(help_heading = COMPARISON)]
    python: PathBuf,
    /// The program for PyTorch
    #[arg(long, value_name = "PATH", default_value = "tests/bench/pytorch.py", requires = "against")]
    #[arg(help_heading = COMPARISON)]
    script: PathBuf,
}

const COMPARISON: &str = "Comparison";

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// PyTorch, which must be installed
    #[value(name = "pytorch")]
    PyTorch,
}

/// Steps before anything is timed: memory is touched for the first time, and ranges settle.
const WARM_UP: u32 = 2;
/// The length of the run that the schedule is told. No run is that long, so that learning rates are ordinary ones.
const RUN_STEPS: u64 = 1 << 16;

/// Everything that was measured.
struct Figures {
    model: String,
    gradient_bits: Option<i64>,
    target: &'static str,
    threads: usize,
    batch: usize,
    /// Steps that were timed together, and images a second of each such time.
    steps: u32,
    rates: Vec<f64>,
    /// From the text of the model to a step that can run.
    compile: Duration,
    arena_bytes: u64,
    /// Largest resident memory so far, above that at the start of the process, in bytes.
    memory: Option<u64>,
    peak: Option<Peak>,
    profile: Profile,
    against: Vec<against::Comparison>,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let empty = resident_peak();
    if args.against.is_some() {
        against::check(&args.script)?;
    }
    let source = Source::read(&args.model.path)?;
    let target = args.machine.target()?;
    let (ready, calls) = compile::ready_and(&source, &args.model, &args.machine, Calls::of)?;
    let begin = Instant::now();
    let mut session = Session::new(ready.artifact, ready.kernels, args.machine.threads())?;
    let compile = ready.timings.iter().map(|(_, time)| *time).sum::<Duration>() + begin.elapsed();
    prepare(&mut session, ready.seed);
    let rates = rates(&mut session, args.repetitions, args.steps);
    let peak = peak::measure(target).map_err(Failure::failed)?;
    let times = (0..args.repetitions).map(|_| session.profile(Mode::Train)).collect();
    let memory = resident_peak().zip(empty).map(|(now, before)| now.saturating_sub(before));
    let rates_alone = contraction_rates(&source, &args)?;
    let mut figures = Figures {
        model: calls.model.clone(),
        gradient_bits: calls.gradient_bits,
        target: target.name,
        threads: session.threads(),
        batch: session.batch(),
        steps: args.steps,
        rates,
        compile,
        arena_bytes: session.artifact().arena_bytes,
        memory,
        peak,
        profile: Profile::new(calls, times, &rates_alone, session.threads()),
        against: vec![],
    };
    if !args.json {
        say(&report::text(&figures))?;
    }
    if args.against.is_some() {
        figures.against = against::compare(&args, &figures, &mut session)?;
    }
    if args.json { say(&report::json(&figures)) } else { Ok(()) }
}

/// Multiply-accumulates inside the contractions of each kernel, by its number, in the time in which the same threads,
/// without memory, do one lane of a dot product: from steps of the same program with clocks in its code. Each step is
/// compared with what the threads do right after it, because the clock of a machine changes; the medians count.
fn contraction_rates(source: &Source, args: &Args) -> Result<Vec<Option<f64>>, Failure> {
    let target = args.machine.target()?;
    let compiled = compile::compiled(source, &args.model)?;
    let (step, clocks) = JitStep::clocked(&compiled.programs[0], target).map_err(Failure::failed)?;
    let seed = compiled.module.training.seed;
    let mut session = Session::new(compiled.artifact, Box::new(step), args.machine.threads())?;
    prepare(&mut session, seed);
    let dots = Dots::new(target, session.threads()).map_err(Failure::failed)?;
    let Some(mut dots) = dots else { return Ok(vec![None; clocks.len()]) };
    let own = clock::own_ticks(target).map_err(Failure::failed)?;
    let mut once = || {
        clocks.iter().for_each(Clocks::clear);
        session.run(Mode::Train);
        let peak = dots.per_tick();
        let rate = |of_kernel: &Clocks| of_kernel.macs_per_tick(own).map(|macs| macs / peak);
        clocks.iter().map(rate).collect::<Vec<_>>()
    };
    let steps: Vec<_> = (0..args.repetitions).map(|_| once()).collect();
    Ok((0..clocks.len()).map(|kernel| median(steps.iter().filter_map(|rates| rates[kernel]))).collect())
}

/// Fills the batch and runs the first steps.
fn prepare(session: &mut Session, seed: u64) {
    let (shape, n) = (session.shape(), session.batch());
    let part = random_batch(shape, n, session.artifact().classes as usize);
    session.start(seed, &vec![128; shape.channels], RUN_STEPS);
    session.load(&part, &(0..n as u32).collect::<Vec<_>>(), None);
    for _ in 0..WARM_UP {
        session.run(Mode::Train);
    }
}

/// Images whose pixels are random, and always the same.
fn random_batch(shape: Shape, n: usize, classes: usize) -> Part {
    Part {
        images: (0..(n * shape.bytes()) as u64).map(|i| mix64(i) as u8).collect(),
        labels: (0..n).map(|i| (i % classes.clamp(1, 256)) as u8).collect(),
        source: "random pixels".into(),
    }
}

/// Images a second, of some steps at a time.
fn rates(session: &mut Session, repetitions: u32, steps: u32) -> Vec<f64> {
    let mut once = || {
        let begin = Instant::now();
        (0..steps).for_each(|_| session.run(Mode::Train));
        let seconds = begin.elapsed().as_secs_f64();
        session.batch() as f64 * f64::from(steps) / seconds.max(1e-9)
    };
    (0..repetitions).map(|_| once()).collect()
}

/// The median, the upper of two.
fn median<T: Copy + PartialOrd>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

/// The most memory that this process has had resident, in bytes, where the system says so.
fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
