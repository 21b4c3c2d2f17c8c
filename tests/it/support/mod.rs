//! Generators and helpers shared by the areas.

pub(crate) mod grid_error;
pub(crate) mod models;
pub(crate) mod modules;
pub(crate) mod random_kernels;
pub(crate) mod random_modules;
mod rng;
pub(crate) mod runs;
pub(crate) mod snapshots;
pub(crate) mod teacher;
