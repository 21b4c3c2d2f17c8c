//! The bit-widths that the rules say.

use super::Policy;
use crate::ir::{Module, Scheme};
use crate::quant;

/// The policy.
pub struct Fixed;

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn doc(&self) -> &'static str {
        "the bit-widths that the rules say"
    }

    fn bits(&self, _: &Module, scheme: &Scheme) -> u32 {
        quant::bits(&scheme.params)
    }
}
