//! x86-64 with AVX-VNNI, contractions and lanes in 256 bits: the encoding of this instruction set has 16 registers.

use super::{Costs, Target, Wide, x86_64_avx_vnni};

pub(super) static TARGET: Target = Target {
    name: "x86_64_avx_vnni_ymm",
    about: "x86-64 with AVX2 and AVX-VNNI, in vectors of 256 bits",
    wide: Some(Wide {
        bytes: 32,
        registers: 16,
        costs: Costs { dots_per_cycle: 2, latency: 5, loads_per_cycle: 2 },
        tiles: None,
    }),
    ..x86_64_avx_vnni::TARGET
};
