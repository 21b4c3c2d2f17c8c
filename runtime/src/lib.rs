//! The runtime of compiled networks: everything that a training step needs besides its kernels.
//!
//! - The core ([`fixed`], [`random`], [`step`], [`abi`]): no standard library, no allocation, no crates. It is what
//!   generated code calls, and the loop that runs a step.
//! - Feature `std`: threads (`pool`) and memory (`arena`) for a compiled `program`, together a `session`, and its `profile`; data sets
//!   (`data`) with their order (`shuffle`) and distortion (`augment`); the training loop (`train`) with its `watch`,
//!   `metrics` and `checkpoint`s; the permission to use `tiles`.
//!
//! Invariants: nothing here computes with floating-point numbers (a lint denies it), so that results are the same
//! on every machine; results depend on seed, epoch, step and sample only, never on threads, order or time.
//! The runtime knows nothing of the compiler: what it runs arrives as plain data and kernel functions.

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![deny(clippy::float_arithmetic)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::float_arithmetic,
        reason = "tests fail by panicking, and compare with f64"
    )
)]

pub mod abi;
#[cfg(feature = "std")]
pub mod arena;
#[cfg(feature = "std")]
pub mod augment;
#[cfg(feature = "std")]
pub mod checkpoint;
#[cfg(feature = "std")]
pub mod data;
#[cfg(feature = "std")]
pub mod durable;
#[cfg(feature = "std")]
pub mod error;
pub mod fixed;
#[cfg(feature = "std")]
pub mod metrics;
#[cfg(feature = "std")]
pub mod pool;
#[cfg(feature = "std")]
pub mod profile;
#[cfg(feature = "std")]
pub mod program;
pub mod random;
#[cfg(feature = "std")]
pub mod session;
#[cfg(feature = "std")]
pub mod shuffle;
pub mod step;
#[cfg(feature = "std")]
pub mod tiles;
#[cfg(all(test, feature = "std"))]
mod toy;
#[cfg(feature = "std")]
pub mod train;
#[cfg(feature = "std")]
pub mod watch;
