//! Targets: what machine the code is for, one file per target value.
//!
//! A target is data: triple, instruction-set settings and the costs by which contractions are tiled. Emitters read
//! it and never look at the host; only [`host`] does. Where code may run is also the operating system's affair: a target
//! with tiles asks it, and is not there if it refuses. A target must not know kernels or layers.

mod aarch64;
mod aarch64_i8mm;
mod x86_64_amx;
mod x86_64_avx2;
mod x86_64_avx512_vnni;
mod x86_64_avx512_vnni_zmm;
mod x86_64_avx_vnni;
mod x86_64_avx_vnni_ymm;
mod x86_64_baseline;

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use target_lexicon::Triple;

/// How a target multiplies and adds four bytes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotForm {
    /// One instruction, operands in this order: `imul(swiden signed, uwiden unsigned)` (`vpdpbusd`).
    SignedFirst,
    /// One instruction, operands in the other order: `imul(uwiden unsigned, swiden signed)` (`usdot`).
    UnsignedFirst,
    /// No such instruction: widen to 16 bits and add pairs of products.
    Pairs,
}

/// What a machine does in a cycle: emitters choose the register tiles of contractions by it.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Dot products that start in one cycle, each with its accumulation.
    pub dots_per_cycle: usize,
    /// Cycles from one accumulation into a register to the next.
    pub latency: usize,
    /// Loads, and broadcasts from memory, that start in one cycle.
    pub loads_per_cycle: usize,
}

/// Vectors of more than 128 bits, for contractions and loops over lanes.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    /// Bytes of a vector: 32 or 64.
    pub bytes: usize,
    /// Vector registers.
    pub registers: usize,
    /// What the parts of a tile cost.
    pub costs: Costs,
    /// Registers of two dimensions, for the contractions of bytes that they do faster.
    pub tiles: Option<Tiles>,
}

/// Registers that hold matrices, and an instruction that multiplies two of bytes and adds the products to one of 32-bit
/// numbers (AMX). Costs are in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// Tile registers.
    pub registers: usize,
    /// Rows of a tile, at most; each is 64 bytes.
    pub rows: usize,
    /// To say what shape each register has, and to release them.
    pub configure: usize,
    /// A product whose second operand has just been used. Each row takes one at least.
    pub product: usize,
    /// A product whose second operand is new.
    pub new_product: usize,
    /// Rows that are loaded in one cycle.
    pub loads_per_cycle: usize,
    /// What a loaded row costs in addition where it crosses a cache line.
    pub crossing: usize,
}

/// A machine that code is emitted for.
#[derive(Debug)]
pub struct Target {
    /// Unique name.
    pub name: &'static str,
    /// One line for listings.
    pub about: &'static str,
    /// Target triple.
    pub triple: &'static str,
    /// Boolean instruction-set settings that are on, by Cranelift's names.
    pub settings: &'static [&'static str],
    /// The dot product of bytes.
    pub dot: DotForm,
    /// 128-bit registers: a tile's accumulators and temporaries must fit.
    pub registers: usize,
    /// What the parts of a tile cost.
    pub costs: Costs,
    /// Wider vectors with dot products of bytes and of 16-bit numbers, if the target has them.
    pub wide: Option<Wide>,
    /// Whether the machine that runs this program can run the target's code.
    pub runs_here: fn() -> bool,
}

/// How hard the compiler tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Instructions stay where the emitter put them: right for code that the emitter schedules itself.
    None,
    /// Common subexpressions and invariant code are found: right for everything else.
    Speed,
}

/// Every target, best last within an architecture.
pub static ALL: &[&Target] = &[
    &x86_64_baseline::TARGET,
    &x86_64_avx2::TARGET,
    &x86_64_avx_vnni::TARGET,
    &x86_64_avx512_vnni::TARGET,
    &x86_64_avx_vnni_ymm::TARGET,
    &x86_64_avx512_vnni_zmm::TARGET,
    &x86_64_amx::TARGET,
    &aarch64::TARGET,
    &aarch64_i8mm::TARGET,
];

/// The best target that this machine runs, or an error when it is none of ours.
pub fn host() -> Result<&'static Target, String> {
    let best = ALL.iter().rev().find(|t| (t.runs_here)());
    best.copied().ok_or_else(|| format!("no target fits this machine; known are {}", names()))
}

/// The weakest target of this machine's architecture, or an error when it is none of ours.
pub fn host_baseline() -> Result<&'static Target, String> {
    let weakest = ALL.iter().find(|t| (t.runs_here)());
    weakest.copied().ok_or_else(|| format!("no target fits this machine; known are {}", names()))
}

/// The target of that name; `best` and `baseline` mean this machine's strongest and weakest.
pub fn by_name(name: &str) -> Result<&'static Target, String> {
    match name {
        "best" => host(),
        "baseline" => host_baseline(),
        _ => ALL
            .iter()
            .find(|t| t.name == name)
            .copied()
            .ok_or_else(|| format!("no target `{name}`; known are best, baseline, {}", names())),
    }
}

fn names() -> String {
    ALL.iter().map(|t| t.name).collect::<Vec<_>>().join(", ")
}

impl Target {
    /// Whether an instruction-set setting is on.
    pub fn has(&self, setting: &str) -> bool {
        self.settings.contains(&setting)
    }

    /// Whether the target is an x86-64.
    pub fn is_x86(&self) -> bool {
        self.triple.starts_with("x86_64")
    }

    /// The compiler for this target: position-independent for object files, not for code in memory.
    pub fn isa(&self, effort: Effort, position_independent: bool) -> Result<OwnedTargetIsa, String> {
        let flags = self.flags(effort, position_independent).map_err(|e| self.broken(&e.to_string()))?;
        let triple: Triple = self.triple.parse().map_err(|e| self.broken(&format!("{e:?}")))?;
        let mut builder = isa::lookup(triple).map_err(|e| self.broken(&e.to_string()))?;
        for setting in self.settings {
            builder.enable(setting).map_err(|e| self.broken(&e.to_string()))?;
        }
        builder.finish(flags).map_err(|e| self.broken(&e.to_string()))
    }

    fn flags(&self, effort: Effort, pic: bool) -> Result<settings::Flags, settings::SetError> {
        let mut flags = settings::builder();
        flags.set("opt_level", if effort == Effort::Speed { "speed" } else { "none" })?;
        flags.set("is_pic", if pic { "true" } else { "false" })?;
        flags.set("use_colocated_libcalls", "false")?;
        flags.set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" })?;
        flags.set("unwind_info", "false")?;
        flags.set("enable_probestack", "false")?;
        flags.set("log2_min_function_alignment", "6")?;
        Ok(settings::Flags::new(flags))
    }

    fn broken(&self, why: &str) -> String {
        format!("target {}: {why}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_compiler() {
        for t in ALL {
            for (effort, pic) in [(Effort::None, false), (Effort::Speed, true)] {
                assert!(t.isa(effort, pic).is_ok(), "{}", t.name);
            }
            assert_eq!(by_name(t.name).map(|t| t.name), Ok(t.name));
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        assert!(by_name("z80").is_err_and(|e| e.contains("x86_64_avx2")));
    }
}
