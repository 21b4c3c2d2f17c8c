//! x86-64 with AVX-512 VNNI (servers since Cascade Lake, Zen 4): 128-bit `vpdpbusd`, 64-bit arithmetic shifts.

use super::{Costs, DotForm, Target};

pub(super) static TARGET: Target = Target {
    name: "x86_64_avx512_vnni",
    about: "x86-64 with AVX-512 VL, DQ and VNNI",
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
        "has_avx512f",
        "has_avx512vl",
        "has_avx512dq",
        "has_avx512vnni",
    ],
    dot: DotForm::SignedFirst,
    registers: 16,
    costs: Costs { dots_per_cycle: 2, latency: 5, loads_per_cycle: 2 },
    wide: None,
    runs_here,
};

#[cfg(target_arch = "x86_64")]
pub(super) fn runs_here() -> bool {
    use std::is_x86_feature_detected as has;
    super::x86_64_avx2::runs_here()
        && has!("avx512f")
        && has!("avx512vl")
        && has!("avx512dq")
        && has!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn runs_here() -> bool {
    false
}
