//! Generators shared by the areas.

pub(crate) mod models;
pub(crate) mod random_kernels;
pub(crate) mod snapshots;
