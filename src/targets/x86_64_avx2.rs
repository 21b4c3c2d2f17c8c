//! x86-64 with AVX2: three-operand forms and broadcasts from memory, but no dot product instruction.

use super::{Costs, DotForm, Target};

pub(super) static TARGET: Target = Target {
    name: "x86_64_avx2",
    about: "x86-64 with AVX2",
    triple: "x86_64-unknown-linux-gnu",
    settings: &[
        "has_sse3",
        "has_ssse3",
        "has_sse41",
        "has_sse42",
        "has_popcnt",
        "has_avx",
        "has_avx2",
        "has_bmi1",
        "has_bmi2",
        "has_lzcnt",
    ],
    dot: DotForm::Pairs,
    registers: 16,
    costs: Costs { dots_per_cycle: 1, latency: 1, loads_per_cycle: 2 },
    wide: None,
    runs_here,
};

/// Whether this machine has everything in the settings above.
// The code calls and is called as everywhere but on Windows.
#[cfg(all(target_arch = "x86_64", not(windows)))]
pub(super) fn runs_here() -> bool {
    use std::is_x86_feature_detected as has;
    has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt")
}

#[cfg(not(all(target_arch = "x86_64", not(windows))))]
pub(super) fn runs_here() -> bool {
    false
}
