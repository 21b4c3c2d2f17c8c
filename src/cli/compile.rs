//! From the arguments of a command to a program that can run: reads nothing, shows nothing, knows the driver.

use std::time::Duration;

use fqt_runtime::augment::Augmentation;
use fqt_runtime::program::Artifact;
use fqt_runtime::step::Kernels;

use super::failure::Failure;
use super::options::{Machine, Model};
use super::source::Source;
use crate::diag::Diagnostic;
use crate::elaborate::{Elaborated, Overrides, elaborate};
use crate::ir::{Module, Stage};
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

/// What the command line says over a model.
fn overrides(model: &Model) -> Result<Overrides, Diagnostic> {
    let set = model.changes.iter().map(|change| Overrides::pair(change)).collect::<Result<_, _>>()?;
    Ok(Overrides {
        recipe: model.recipe.clone(),
        set,
        gbits: model.gbits,
        wbits: model.wbits,
        abits: model.abits,
        epochs: model.epochs,
        batch: model.batch,
        lr: model.lr,
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

/// Compiles a model for this processor.
pub(super) fn ready(source: &Source, model: &Model, machine: &Machine) -> Result<Ready, Failure> {
    let target = machine.target()?;
    let module = module(source, model, Stage::Bits)?;
    Err(Failure::failed(format!("`{}` cannot be compiled for {} yet", module.name, target.name)))
}
