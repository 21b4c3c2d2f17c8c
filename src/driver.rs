//! The pipeline on one page: from a training module to what the runtime runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fqt_runtime::arena::Arena;
use fqt_runtime::program::{Artifact, DType, Metric, MetricKind, Slot, Steps};
use fqt_runtime::step::Call;

use crate::diag::Diagnostic;
use crate::ir::{Module, Param, Stage};
use crate::kernel::interp::encode;
use crate::kernel::reach::reaches;
use crate::kernel::{self, Kind, Program, verify};
use crate::lower::{self, Drawn, Initial, Lowered, Mode, Start, lower};
use crate::plan::{Plan, UNIT, plan};
use crate::schedule::{Chain, Schedule, schedule};
use crate::tensor::Tensor;
use crate::{passes, plan_check};

pub use crate::lower::IMAGE_SCALE;

/// A module lowered, verified and placed; still the same for every target.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The module after the last pass.
    pub module: Module,
    /// Training, evaluation, evaluation with batch statistics. All have the same kernels.
    pub programs: [Program; 3],
    /// When their calls run.
    pub schedules: [Schedule; 3],
    /// Where their buffers lie.
    pub plan: Plan,
    /// What the runtime runs.
    pub artifact: Artifact,
    /// How long each part took.
    pub timings: Vec<(&'static str, Duration)>,
}

impl Compiled {
    /// Names what a run computes from its images on: the arithmetic of all programs, their tables, and what state starts
    /// from. Schedule, memory plan, target and threads have no part in it.
    pub fn fingerprint(&self) -> String {
        let hash = fqt_runtime::checkpoint::hex;
        let initial = &self.artifact.initial;
        let mut parts = String::new();
        for (program, offsets) in self.programs.iter().zip(&self.plan.offsets) {
            parts += &hash(program.to_string().as_bytes());
            for (buffer, &offset) in program.buffers.iter().zip(offsets) {
                if !matches!(buffer.kind, Kind::State | Kind::Persistent | Kind::Const(_)) {
                    continue;
                }
                // The text of a program shows the first elements of a table only.
                let found = initial.binary_search_by_key(&(offset as u64 * UNIT), |(offset, _)| *offset);
                parts += &found.map_or(String::new(), |at| hash(&initial[at].1));
                parts.push(' ');
            }
        }
        hash(parts.as_bytes())
    }
}

/// Brings a module from any stage to something that can run.
pub fn compile(module: Module) -> Result<Compiled, Diagnostic> {
    let mut clock = Clock { last: Instant::now(), timings: vec![] };
    let module = passes::run(module, Stage::Bits, |_, _| ())?;
    clock.tick("passes");
    let [train, eval, eval_batch] = std::thread::scope(|scope| {
        let modes = [Mode::Train, Mode::Eval, Mode::EvalBatch];
        let module = &module;
        modes.map(|mode| scope.spawn(move || lower(module, mode))).map(|thread| match thread.join() {
            Ok(lowered) => lowered,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    let Lowered { program, initial, parameters, metrics } = train?;
    let mut programs = [program, eval?.program, eval_batch?.program];
    share_kernels(&mut programs);
    clock.tick("lower");
    // Every kernel is checked once, and the calls of every program.
    let facts = verify::kernels(&programs[0]);
    let check = |facts: Vec<_>| programs.iter().try_for_each(|program| verify::calls(program, &facts));
    facts.and_then(check).map_err(|violation| internal("I0501", violation.to_string()))?;
    clock.tick("verify");
    let reaches: Vec<_> = programs[0].kernels.iter().map(reaches).collect();
    let schedules = programs.each_ref().map(|program| schedule(program, &reaches));
    clock.tick("schedule");
    let all: Vec<_> = programs.iter().zip(&schedules).collect();
    let plan = plan(&all)
        .map_err(|why| Diagnostic::new("E0502", why).help("use a smaller batch, image or network"))?;
    let all: Vec<_> = programs.iter().zip(&schedules).map(|(p, s)| (p, s, &reaches[..])).collect();
    plan_check::check(&all, &plan).map_err(|why| internal("I0502", why))?;
    clock.tick("plan");
    let initial = initial_bytes(&programs, &plan, &initial)?;
    clock.tick("weights");
    let artifact = artifact(&module, &programs, &schedules, &plan, &parameters, &metrics, initial);
    Ok(Compiled { module, programs, schedules, plan, artifact, timings: clock.timings })
}

struct Clock {
    last: Instant,
    timings: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn tick(&mut self, name: &'static str) {
        let now = Instant::now();
        self.timings.push((name, now - self.last));
        self.last = now;
    }
}

fn internal(code: &'static str, why: String) -> Diagnostic {
    Diagnostic::new(code, why).help("this is a bug of the compiler; please report it with the model")
}

/// Gives all programs the union of their kernels, so that one compiled set serves them.
fn share_kernels(programs: &mut [Program; 3]) {
    let mut all: Vec<kernel::Kernel> = vec![];
    let mut numbers = std::collections::HashMap::new();
    for program in programs.iter_mut() {
        let new: Vec<usize> = program
            .kernels
            .iter()
            .map(|k| {
                let key = kernel::Kernel { name: String::new(), ..k.clone() };
                *numbers.entry(key).or_insert_with(|| {
                    all.push(k.clone());
                    all.len() - 1
                })
            })
            .collect();
        for call in &mut program.calls {
            call.kernel = new[call.kernel];
        }
    }
    for program in programs {
        program.kernels.clone_from(&all);
    }
}

/// The values of a module's parameters, in its order, from the memory of a session that was compiled from it.
pub fn parameters(params: &[Param], artifact: &Artifact, arena: &Arena) -> Vec<Tensor> {
    let slot = |param: &Param| artifact.parameters.iter().find(|slot| slot.name == param.name);
    let value = |param: &Param| {
        let slot = slot(param).expect("every parameter has a slot of its name");
        lower::parameter(param, &slot.extents, arena.slice::<i32>(slot))
    };
    params.iter().map(value).collect()
}

/// What the runtime needs to know, from programs and plan.
fn artifact(
    module: &Module,
    programs: &[Program; 3],
    schedules: &[Schedule; 3],
    plan: &Plan,
    parameters: &[String],
    metrics: &[lower::Metric],
    initial: Vec<(u64, Vec<u8>)>,
) -> Artifact {
    let first = &programs[0];
    let offset = |name: &str| {
        let at = first.buffers.iter().position(|b| b.name == name);
        at.map(|i| plan.offsets[0][i] as u64 * UNIT).expect("lowering declares what the runtime exchanges")
    };
    let slot = |name: &str, dtype: DType, extents: Vec<u32>| Slot {
        name: name.to_owned(),
        dtype,
        extents,
        offset: offset(name),
    };
    let state: Vec<Slot> = first
        .buffers
        .iter()
        .filter(|b| b.kind == Kind::State)
        .map(|b| slot(&b.name, runtime_dtype(b.dtype), b.extents.clone()))
        .collect();
    let counter = |m: &lower::Metric| Metric {
        layer: m.layer.clone(),
        kind: m.kind,
        elements: m.elements,
        slot: slot(&m.buffer, DType::I64, vec![if m.kind == MetricKind::ScaleRange { 2 } else { 1 }]),
    };
    let image = &module.ty(module.image).shape;
    let [batch, height, width, channels] = [0, 1, 2, 3].map(|i| image[i] as u32);
    let mut args = vec![];
    let mut steps = |number: usize| {
        let program = &programs[number];
        let mut one = |&call: &usize| {
            let (call, first) = (&program.calls[call], args.len() as u32);
            args.extend(call.args.iter().map(|a| plan.offsets[number][a.0 as usize]));
            Call { kernel: call.kernel as u32, args: first, items: program.kernels[call.kernel].items }
        };
        let mut chain = |chain: &Chain| (chain.calls.iter().map(&mut one).collect(), chain.parts);
        let mut steps = Steps::default();
        schedules[number].stages.iter().for_each(|stage| steps.push(stage.iter().map(&mut chain)));
        steps
    };
    let (train, eval, eval_batch) = (steps(0), steps(1), steps(2));
    Artifact {
        model_hash: model_hash(&programs[0]),
        arena_bytes: plan.bytes,
        train,
        eval,
        eval_batch,
        args,
        initial,
        parameters: state.iter().filter(|s| parameters.contains(&s.name)).cloned().collect(),
        state,
        images: slot("images", DType::U8, vec![batch, channels, height, width]),
        labels: slot("labels", DType::I32, vec![batch]),
        mean: slot("input.mean", DType::U8, vec![channels]),
        seed: slot("seed", DType::I64, vec![1]),
        step: slot("step", DType::I64, vec![1]),
        steps: slot("steps", DType::I64, vec![1]),
        loss: slot("loss", DType::I64, vec![batch]),
        predictions: slot("predictions", DType::I32, vec![batch]),
        metrics: metrics.iter().map(counter).collect(),
        batch,
        classes: module.classes,
        channels,
        height,
        width,
    }
}

fn runtime_dtype(dtype: kernel::DType) -> DType {
    match dtype {
        kernel::DType::I8 => DType::I8,
        kernel::DType::U8 => DType::U8,
        kernel::DType::I16 => DType::I16,
        kernel::DType::I32 => DType::I32,
        kernel::DType::I64 => DType::I64,
        kernel::DType::Dyadic => DType::Dyadic,
    }
}

/// Names the arithmetic of training: the program, and its tables whole, of which the text shows the first elements.
fn model_hash(program: &Program) -> String {
    let mut all = program.to_string().into_bytes();
    for buffer in &program.buffers {
        if let Kind::Const(values) = &buffer.kind {
            all.extend(encoded(buffer.dtype, values));
        }
    }
    fqt_runtime::checkpoint::hex(&all)
}

/// Initial contents of state, and tables; E0502 if there is no memory for the weights.
fn initial_bytes(
    programs: &[Program; 3],
    plan: &Plan,
    initial: &Initial,
) -> Result<Vec<(u64, Vec<u8>)>, Diagnostic> {
    let mut out = BTreeMap::new();
    let mut drawn = BTreeMap::new();
    for (program, offsets) in programs.iter().zip(&plan.offsets) {
        for (buffer, &offset) in program.buffers.iter().zip(offsets) {
            let offset = offset as u64 * UNIT;
            let (dtype, n) = (buffer.dtype, buffer.len() as usize);
            let bytes = match (&buffer.kind, initial.get(&buffer.name)) {
                (Kind::Const(values), _) => encoded(dtype, values),
                // An arena is zero before anything is written to it.
                (Kind::State | Kind::Persistent, Some(Start::Each(0)) | None) => continue,
                (Kind::State | Kind::Persistent, Some(Start::Drawn(weights))) => {
                    drawn.insert(offset, weights);
                    zeroed(buffer.bytes() as usize)?
                }
                (Kind::State | Kind::Persistent, Some(start)) => encoded(dtype, &start.values(n)),
                _ => continue,
            };
            out.entry(offset).or_insert(bytes);
        }
    }
    draw(drawn, &mut out);
    Ok(out.into_iter().collect())
}

fn zeroed(count: usize) -> Result<Vec<u8>, Diagnostic> {
    let mut bytes = vec![];
    bytes.try_reserve_exact(count).map_err(|_| {
        Diagnostic::new("E0502", format!("there is no memory for {count} bytes of a layer's weights"))
            .help("use a smaller network")
    })?;
    bytes.resize(count, 0);
    Ok(bytes)
}

fn encoded(dtype: kernel::DType, values: &[i64]) -> Vec<u8> {
    let size = dtype.bytes();
    let mut bytes = vec![0; values.len() * size];
    bytes.chunks_exact_mut(size).zip(values).for_each(|(chunk, &v)| encode(dtype, v, chunk));
    bytes
}

/// Rows of weights that one thread draws at a time.
const ROWS: usize = 256;

/// Draws weights on all threads. What comes out does not depend on how many there are.
fn draw(drawn: BTreeMap<u64, &Drawn>, bytes: &mut BTreeMap<u64, Vec<u8>>) {
    let parts = bytes.iter_mut().filter_map(|(offset, bytes)| Some((*drawn.get(offset)?, bytes)));
    let parts = parts.flat_map(|(weights, bytes)| {
        let chunks = bytes.chunks_mut(ROWS * weights.row_len() * 4).enumerate();
        chunks.map(move |(i, chunk)| (weights, (i * ROWS) as u32, chunk))
    });
    let parts = Mutex::new(parts.collect::<Vec<_>>());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some((weights, first, chunk)) = next() {
                    let mut masters = vec![0; chunk.len() / 4];
                    let rows = (masters.len() / weights.row_len()) as u32;
                    weights.draw(first..first + rows, &mut masters);
                    for (bytes, master) in chunk.chunks_exact_mut(4).zip(&masters) {
                        bytes.copy_from_slice(&master.to_le_bytes());
                    }
                }
            });
        }
    });
}
