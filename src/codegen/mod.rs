//! From kernels to machine code.
//!
//! - [`emit_clif`] writes every kernel as one function into a Cranelift module, for any target. It sees a target value
//!   and never the host, so that code for other machines can be written and read here too.
//! - `emit_evex` writes contractions and lane code in vectors of 256 and 512 bits, and contractions in tiles, where the
//!   target has them.
//! - [`jit`] owns code in memory and runs it.
//! - [`clock`] measures contractions inside of a step, for benchmarks.
//! - [`peak`] measures what the machine can do at most, by loops that are not part of a step.
//! - [`audit`] reads the emitted bytes back and proves that they hold no floating-point arithmetic.
//!
//! Emitted code calls nothing but the runtime's list of symbols. It relies on the kernel verifier: extents and ranges
//! are proven before, and nothing is checked here.

pub mod audit;
pub mod clock;
pub mod emit_clif;
mod emit_evex;
mod fold;
pub mod jit;
pub mod peak;
mod shape;
