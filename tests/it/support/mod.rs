//! Generators shared by the areas.

pub(crate) mod random_kernels;
