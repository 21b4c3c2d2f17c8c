//! x86-64 with AVX-512 VNNI, contractions in 512 bits.

use super::{Costs, Target, Wide, x86_64_avx512_vnni};

pub(super) static TARGET: Target = Target {
    name: "x86_64_avx512_vnni_zmm",
    about: "x86-64 with AVX-512 VL, DQ and VNNI, contractions in 512 bits",
    wide: Some(Wide {
        bytes: 64,
        registers: 32,
        costs: Costs { dots_per_cycle: 2, latency: 5, loads_per_cycle: 2 },
    }),
    ..x86_64_avx512_vnni::TARGET
};
