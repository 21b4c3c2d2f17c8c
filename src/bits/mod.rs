//! Policies that choose bit-widths. One file and one table line each.

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
