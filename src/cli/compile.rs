//! From the arguments of a command to a program that can run: reads nothing, shows nothing, knows the driver.

use std::time::{Duration, Instant};

use fqt_runtime::augment::{Augmentation, Padding};
use fqt_runtime::program::Artifact;
use fqt_runtime::step::Kernels;

use super::failure::Failure;
use super::options::{Machine, Model};
use super::source::Source;
use crate::codegen::jit::JitStep;
use crate::diag::Diagnostic;
use crate::driver::{self, Compiled};
use crate::elaborate::{Elaborated, Overrides, elaborate};
use crate::ir::{Module, Stage, Training};
use crate::types::{int, word};
use crate::{passes, syntax};

/// A compiled model, ready to make a session of.
pub(super) struct Ready {
    /// What the runtime runs.
    pub(super) artifact: Artifact,
    /// Its kernels.
    pub(super) kernels: Box<dyn Kernels>,
    /// The model with everything that changes it.
    pub(super) merged: String,
    /// Passes over the training images.
    pub(super) epochs: u32,
    /// Where all random numbers come from.
    pub(super) seed: u64,
    /// Distortion of training images.
    pub(super) augmentation: Augmentation,
    /// How long each part of the compilation took.
    pub(super) timings: Vec<(&'static str, Duration)>,
}

/// The programs of a model, by their place in [`Compiled::programs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Which {
    /// A training step
    Train,
    /// Evaluation with running statistics
    Eval,
    /// Evaluation with the statistics of the batch
    EvalBatch,
}

/// What the command line says over a model.
fn overrides(model: &Model) -> Result<Overrides, Diagnostic> {
    let set = model.changes.iter().map(|change| Overrides::pair(change)).collect::<Result<_, _>>()?;
    Ok(Overrides {
        recipe: model.recipe.clone(),
        set,
        gbits: model.gbits,
        wbits: model.settings.wbits,
        abits: model.settings.abits,
        epochs: model.settings.epochs,
        batch: model.settings.batch,
        lr: model.settings.lr,
        seed: model.seed,
    })
}

/// Reads a model and merges what changes it.
pub(super) fn front(source: &Source, model: &Model) -> Result<Elaborated, Failure> {
    let overrides = overrides(model).map_err(|error| source.diagnostics(&[error]))?;
    let file = syntax::file(&source.text).map_err(|errors| source.diagnostics(&errors))?;
    elaborate(&file, &overrides).map_err(|errors| source.diagnostics(&errors))
}

/// The module of a model at a stage.
pub(super) fn module(source: &Source, model: &Model, stage: Stage) -> Result<Module, Failure> {
    let module = front(source, model)?.module;
    passes::run(module, stage, |_, _| ()).map_err(|error| source.diagnostics(&[error]))
}

/// A model as kernel programs with their memory plan, the same for every target.
pub(super) fn compiled(source: &Source, model: &Model) -> Result<Compiled, Failure> {
    driver::compile(front(source, model)?.module).map_err(|error| source.diagnostics(&[error]))
}

/// Compiles a model for this processor.
pub(super) fn ready(source: &Source, model: &Model, machine: &Machine) -> Result<Ready, Failure> {
    ready_and(source, model, machine, |_| ()).map(|(ready, ())| ready)
}

/// Compiles a model for this processor, and looks at its kernel programs, which are not kept.
pub(super) fn ready_and<T>(
    source: &Source,
    model: &Model,
    machine: &Machine,
    look: impl FnOnce(&Compiled) -> T,
) -> Result<(Ready, T), Failure> {
    let target = machine.target()?;
    let begin = Instant::now();
    let elaborated = front(source, model)?;
    let mut timings = vec![("front end", begin.elapsed())];
    let training = elaborated.module.training.clone();
    let compiled = driver::compile(elaborated.module).map_err(|error| source.diagnostics(&[error]))?;
    timings.extend(&compiled.timings);
    let begin = Instant::now();
    let kernels = JitStep::new(&compiled.programs[0], target).map_err(Failure::failed)?;
    timings.push(("emit", begin.elapsed()));
    let seen = look(&compiled);
    let ready = Ready {
        artifact: compiled.artifact,
        kernels: Box::new(kernels),
        merged: elaborated.model.to_string(),
        epochs: training.epochs,
        seed: training.seed,
        augmentation: augmentation(&training),
        timings,
    };
    Ok((ready, seen))
}

/// The distortion that a model asks for.
fn augmentation(training: &Training) -> Augmentation {
    let mut out = Augmentation::default();
    for (name, args) in &training.augment {
        match name.as_str() {
            "pad_crop" => {
                out.pad_crop = int(args, "pixels").clamp(0, 255) as u8;
                out.padding = if word(args, "mode") == "mean" { Padding::Mean } else { Padding::Reflect };
            }
            "flip" => out.flip = true,
            _ => {}
        }
    }
    out
}
