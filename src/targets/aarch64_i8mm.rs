//! aarch64 with I8MM (Armv8.6, since Neoverse V1): `usdot`.

use super::{Costs, DotForm, Target};

pub(super) static TARGET: Target = Target {
    name: "aarch64_i8mm",
    about: "aarch64 with dot products of bytes (DotProd, I8MM)",
    triple: "aarch64-unknown-linux-gnu",
    settings: &["has_dotprod", "has_i8mm"],
    dot: DotForm::UnsignedFirst,
    registers: 32,
    costs: Costs { dots_per_cycle: 4, latency: 3, loads_per_cycle: 3 },
    wide: None,
    runs_here,
};

#[cfg(target_arch = "aarch64")]
fn runs_here() -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    has!("dotprod") && has!("i8mm")
}

#[cfg(not(target_arch = "aarch64"))]
fn runs_here() -> bool {
    false
}
