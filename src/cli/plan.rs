//! `fqtc plan`: where every buffer of a training step lies in memory, and when it is needed.

use super::failure::Failure;
use super::options::Model;
use super::terminal::{say, table};
use super::{compile, source::Source};
use crate::driver::Compiled;
use crate::kernel::{Kind, Program};
use crate::plan::{UNIT, lifetimes};
use crate::schedule::Schedule;

/// Show the memory plan of a model.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    /// The program whose buffers are shown; all programs share one arena
    #[arg(long, value_enum, default_value_t = compile::Which::Train)]
    program: compile::Which,
    /// Show the sums only
    #[arg(long)]
    summary: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let source = Source::read(&args.model.path)?;
    let compiled = compile::compiled(&source, &args.model)?;
    if !args.summary {
        say(&buffers(&compiled, args.program as usize))?;
    }
    say(&summary(&compiled, args.program as usize))
}

/// One line a buffer, by offset.
fn buffers(compiled: &Compiled, number: usize) -> String {
    let program = &compiled.programs[number];
    let lives = lifetimes(program, &compiled.schedules[number]);
    let mut order: Vec<usize> = (0..program.buffers.len()).collect();
    order.sort_by_key(|&i| (compiled.plan.offsets[number][i], i));
    let mut rows = vec![["offset", "bytes", "stages", "type", "buffer"].map(String::from).to_vec()];
    for i in order {
        let buffer = &program.buffers[i];
        let stages = match (lasts(&buffer.kind), lives[i]) {
            (true, _) => "all".into(),
            (false, Some((first, last))) => format!("{first} to {last}"),
            (false, None) => continue,
        };
        let extents: Vec<String> = buffer.extents.iter().map(u32::to_string).collect();
        rows.push(vec![
            (u64::from(compiled.plan.offsets[number][i]) * UNIT).to_string(),
            buffer.bytes().to_string(),
            stages,
            format!("{}[{}]", format!("{:?}", buffer.dtype).to_lowercase(), extents.join(", ")),
            buffer.name.clone(),
        ]);
    }
    table(&rows)
}

/// Whether a buffer is there in every stage.
fn lasts(kind: &Kind) -> bool {
    *kind != Kind::Temp
}

/// Sums by kind, the arena, and what it would be if nothing shared memory.
fn summary(compiled: &Compiled, number: usize) -> String {
    let program = &compiled.programs[number];
    let (schedule, plan) = (&compiled.schedules[number], &compiled.plan);
    let sum = |pick: &dyn Fn(&Kind) -> bool| -> u64 {
        program.buffers.iter().filter(|b| pick(&b.kind)).map(|b| b.bytes()).sum()
    };
    let line =
        |what: &str, bytes: u64| vec![what.to_string(), format!("{bytes:>12} bytes"), mebibytes(bytes)];
    let rows = [
        line("state", sum(&|kind| *kind == Kind::State)),
        line("counters", sum(&|kind| *kind == Kind::Persistent)),
        line("images, labels and results", sum(&|kind| matches!(kind, Kind::Input | Kind::Output))),
        line("tables", sum(&|kind| matches!(kind, Kind::Const(_)))),
        line("buffers of a step, each by itself", sum(&|kind| *kind == Kind::Temp)),
        line("buffers of a step, sharing memory", shared(compiled, number)),
        line("buffers of a step, most needed at once", most_at_once(program, schedule)),
        line("arena", plan.bytes),
    ];
    let (kernels, calls, stages) = (program.kernels.len(), program.calls.len(), schedule.stages.len());
    format!("{}\n{kernels} kernels, {calls} calls in {stages} stages", table(&rows))
}

/// Bytes behind what lasts, up to the end of the last buffer of a step.
fn shared(compiled: &Compiled, number: usize) -> u64 {
    let (program, plan) = (&compiled.programs[number], &compiled.plan);
    let lives = lifetimes(program, &compiled.schedules[number]);
    let is_placed = |i: &usize| !lasts(&program.buffers[*i].kind) && lives[*i].is_some();
    let end = |i: usize| u64::from(plan.offsets[number][i]) * UNIT + program.buffers[i].bytes();
    let ends = (0..lives.len()).filter(is_placed).map(end);
    ends.max().map_or(0, |end| end.next_multiple_of(UNIT) - plan.lasting)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:8.2} MiB", bytes as f64 / (1 << 20) as f64)
}

/// Bytes of the buffers of a step that are needed during one stage, at most: no plan can do with less.
fn most_at_once(program: &Program, schedule: &Schedule) -> u64 {
    let lives = lifetimes(program, schedule);
    let needed = |stage: usize| -> u64 {
        let alive = |i: &usize| lives[*i].is_some_and(|(first, last)| first <= stage && stage <= last);
        let temporary = (0..lives.len()).filter(|&i| !lasts(&program.buffers[i].kind)).filter(alive);
        temporary.map(|i| program.buffers[i].bytes()).sum()
    };
    (0..schedule.stages.len()).map(needed).max().unwrap_or(0)
}
