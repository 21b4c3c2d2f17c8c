//! Policies that choose bit-widths, one file and one table line each; and the choice that a budget allows ([`budget`]).
//!
//! A policy reads what a model says. Widths that depend on measurements are chosen before there is a model to train, by
//! `fqtc study bits`, and stated in it as rules: training them again measures nothing again.

pub mod budget;
pub mod fixed;

use crate::ir::{Module, Scheme};

/// A policy.
pub trait Policy: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list`.
    fn doc(&self) -> &'static str;

    /// The bits of a scheme of the module, in 2..=8.
    fn bits(&self, module: &Module, scheme: &Scheme) -> u32;
}

/// All policies.
pub static ALL: &[&dyn Policy] = &[&fixed::Fixed];
