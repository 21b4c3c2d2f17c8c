//! x86-64 with AMX (servers since Sapphire Rapids): contractions of bytes in tiles, all else in vectors of 512 bits.

use super::{Target, Tiles, Wide, x86_64_avx512_vnni_zmm as zmm};

/// Measured in loops of these instructions; they hold for a core that computes with tiles all the time.
const TILES: Tiles = Tiles {
    registers: 8,
    rows: 16,
    configure: 200,
    product: 11,
    new_product: 18,
    loads_per_cycle: 2,
    crossing: 2,
};

pub(super) static TARGET: Target = Target {
    name: "x86_64_amx",
    about: "x86-64 with AMX tiles of bytes and AVX-512 VNNI, in vectors of 512 bits",
    wide: Some(Wide { tiles: Some(TILES), ..zmm::WIDE }),
    runs_here,
    ..zmm::TARGET
};

fn runs_here() -> bool {
    zmm::runs_here() && fqt_runtime::tiles::granted()
}
