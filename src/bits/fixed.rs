//! The bit-widths that the rules say.

use super::Policy;

/// The policy.
pub struct Fixed;

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn doc(&self) -> &'static str {
        "the bit-widths that the rules say"
    }
}
