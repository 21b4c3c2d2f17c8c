//! x86-64 with SSE4.1 (Intel since 2008, AMD since 2011), no dot product instruction.

use super::{Costs, DotForm, Target};

pub(super) static TARGET: Target = Target {
    name: "x86_64_baseline",
    about: "x86-64 with SSE4.1",
    triple: "x86_64-unknown-linux-gnu",
    settings: &["has_sse3", "has_ssse3", "has_sse41"],
    dot: DotForm::Pairs,
    registers: 16,
    costs: Costs { dots_per_cycle: 1, latency: 1, loads_per_cycle: 2 },
    wide: None,
    runs_here,
};

// The code calls and is called as everywhere but on Windows.
#[cfg(all(target_arch = "x86_64", not(windows)))]
fn runs_here() -> bool {
    use std::is_x86_feature_detected as has;
    has!("sse3") && has!("ssse3") && has!("sse4.1")
}

#[cfg(not(all(target_arch = "x86_64", not(windows))))]
fn runs_here() -> bool {
    false
}
