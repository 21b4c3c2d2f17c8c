//! Syntax tree → training IR, in two steps: merge everything that is said into one model (`merge`), then build it.
//!
//! Merging reads the file's own rules and settings, the recipes that it uses, `--recipe`, `key=value` and named flags, in
//! this order, later ones over earlier ones. What comes out is again a model file, without recipes and conditions:
//! elaborating it gives the same module. Building writes blocks and repetitions out, checks shapes through the ops, and
//! stores rules and training as data. Names of layers, quantizers and rectifiers come from their tables alone.
//! Errors are collected; every loop over what a file says is bounded ([`MAX_NODES`] and the limits of `syntax`).

mod args;
mod calls;
mod expr;
mod frame;
mod merge;
mod network;
mod overrides;
mod paths;
mod recipes;
mod rules;
mod training;

pub use overrides::Overrides;
pub use recipes::{BuiltIn, built_in};
pub use training::{AUGMENTATIONS, Named, OPTIMIZERS, SCHEDULES, policies};

use crate::diag::Diagnostic;
use crate::ir::Module;
use crate::ir::canonical::canonicalize;
use crate::syntax::ast;

/// Most nodes of a module, and most uses of a layer.
pub const MAX_NODES: usize = 10_000;

/// A model with everything merged into it.
#[derive(Clone, Debug)]
pub struct Elaborated {
    /// The merged model: no recipes, no conditions, every setting and every argument of a rule stated.
    pub model: ast::File,
    /// Its module at stage forward.
    pub module: Module,
}

/// Elaborates the model of a file under overrides.
pub fn elaborate(file: &ast::File, overrides: &Overrides) -> Result<Elaborated, Vec<Diagnostic>> {
    let mut report = Report::default();
    let Some(mut merged) = merge::merge(file, overrides, &mut report) else { return Err(report.errors) };
    let network = network::build(&merged, &mut report);
    if let Some(network) = &network {
        rules::resolve(&mut merged, network, &mut report);
    }
    let module = network.and_then(|network| rules::apply(&merged, network, &mut report));
    if let Some(module) = &module {
        merged.settings.check_precision(module, &mut report);
    }
    match module {
        Some(mut module) if report.errors.is_empty() => {
            canonicalize(&mut module);
            Ok(Elaborated { model: merged.file(), module })
        }
        _ => Err(report.errors),
    }
}

/// Errors of one elaboration.
#[derive(Default)]
struct Report {
    errors: Vec<Diagnostic>,
}

impl Report {
    /// Most errors that are kept: more do not help.
    const MOST: usize = 32;

    /// Adds an error, unless the same is said about the same place already: a block is written out many times.
    fn add(&mut self, error: Diagnostic) {
        let place = |d: &Diagnostic| d.labels.first().map(|l| l.span);
        let known = self.errors.iter().any(|d| match place(d) {
            Some(span) => d.code == error.code && Some(span) == place(&error),
            None => *d == error,
        });
        if !known && !self.is_full() {
            self.errors.push(error);
        }
    }

    /// Whether further errors are dropped.
    fn is_full(&self) -> bool {
        self.errors.len() >= Report::MOST
    }

    /// The value, or nothing after adding the error.
    fn take<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }
}
