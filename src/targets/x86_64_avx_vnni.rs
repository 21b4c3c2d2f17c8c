//! x86-64 with AVX-VNNI (client machines since Alder Lake): `vpdpbusd` without AVX-512.

use super::{Costs, DotForm, Target};

pub(super) static TARGET: Target = Target {
    name: "x86_64_avx_vnni",
    about: "x86-64 with AVX2 and AVX-VNNI",
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
        "has_avx_vnni",
    ],
    dot: DotForm::SignedFirst,
    registers: 16,
    costs: Costs { dots_per_cycle: 2, latency: 5, loads_per_cycle: 2 },
    wide: None,
    runs_here,
};

#[cfg(target_arch = "x86_64")]
pub(super) fn runs_here() -> bool {
    super::x86_64_avx2::runs_here() && std::is_x86_feature_detected!("avxvnni")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn runs_here() -> bool {
    false
}
