//! Policies that choose bit-widths, one file and one table line each; and the choice that a budget allows ([`allocation`]).
//!
//! The width of a scheme is what layouts and proofs go by. A policy may keep the codes of a step within fewer bits: then the
//! scheme's width is their upper bound, and which of them are in force is a function of the step's place in the run.
//! A policy reads what a model says. Widths that depend on measurements are chosen before there is a model to train, by
//! `fqtc study bits`, and stated in it as rules: training them again measures nothing again.

pub mod allocation;
pub mod budget;
pub mod cyclic;
pub mod fixed;

use crate::ir::{Module, Scheme, Training};
use crate::quant;
use crate::types::{Attrs, ParamSpec};

/// A policy.
pub trait Policy: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list`.
    fn doc(&self) -> &'static str;

    /// Its parameters.
    fn params(&self) -> &'static [ParamSpec] {
        &[]
    }

    /// The bits of a scheme of the module, in 2..=8.
    fn bits(&self, _: &Module, scheme: &Scheme) -> u32 {
        quant::bits(&scheme.params)
    }

    /// How the bits in force move over a run; `None` if they are those of the scheme in every step.
    fn course(&self, _: &Scheme, _: &Attrs) -> Option<Course> {
        None
    }
}

/// Bits in force over a run: the same in every cycle, and constant in each of [`PHASES`] parts of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// Cycles in the run, 1 to [`MOST_CYCLES`].
    pub cycles: u32,
    /// Bits by phase, each in 2..=bits of the scheme.
    pub bits: Vec<u32>,
}

/// Parts of a cycle, a power of two.
pub const PHASES: usize = 1024;
/// Most cycles of a run.
pub const MOST_CYCLES: u32 = 1024;

/// All policies; the first holds where a model names none.
pub static ALL: &[&dyn Policy] = &[&fixed::Fixed, &cyclic::Cyclic];

/// The policy of a name.
pub fn find(name: &str) -> Option<&'static dyn Policy> {
    ALL.iter().copied().find(|policy| policy.name() == name)
}

/// The policy of a verified module.
pub fn policy(training: &Training) -> &'static dyn Policy {
    find(&training.precision.0).unwrap_or(ALL[0])
}

/// How the bits in force of a scheme move, by the policy of a verified module.
pub fn course(training: &Training, scheme: &Scheme) -> Option<Course> {
    policy(training).course(scheme, &training.precision.1)
}
