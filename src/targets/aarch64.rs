//! Any aarch64: no dot product of bytes with mixed signs.

use super::{Costs, DotForm, Target};

pub(super) static TARGET: Target = Target {
    name: "aarch64",
    about: "aarch64 with Advanced SIMD",
    triple: "aarch64-unknown-linux-gnu",
    settings: &[],
    dot: DotForm::Pairs,
    registers: 32,
    costs: Costs { dots_per_cycle: 1, latency: 1, loads_per_cycle: 2 },
    wide: None,
    runs_here,
};

fn runs_here() -> bool {
    cfg!(target_arch = "aarch64")
}
