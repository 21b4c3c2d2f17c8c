//! x86-64 with AVX-512 VNNI, contractions and lanes in 512 bits.

use super::{Costs, Target, Wide, x86_64_avx512_vnni};

pub(super) const WIDE: Wide = Wide {
    bytes: 64,
    registers: 32,
    costs: Costs { dots_per_cycle: 2, latency: 5, loads_per_cycle: 2 },
    tiles: None,
};

pub(super) static TARGET: Target = Target {
    name: "x86_64_avx512_vnni_zmm",
    about: "x86-64 with AVX-512 VL, DQ, BW and VNNI, in vectors of 512 bits",
    wide: Some(WIDE),
    runs_here,
    ..x86_64_avx512_vnni::TARGET
};

#[cfg(target_arch = "x86_64")]
pub(super) fn runs_here() -> bool {
    x86_64_avx512_vnni::runs_here() && std::is_x86_feature_detected!("avx512bw")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn runs_here() -> bool {
    false
}
