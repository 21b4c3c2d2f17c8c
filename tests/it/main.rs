//! All integration tests: one binary, a module per area.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod codegen;
mod encodings;
mod fusion;
mod ir;
mod kernel;
mod lanes;
mod language;
mod lower;
mod models;
mod noise;
mod oracle;
mod passes;
mod plan;
mod quantizers;
mod random_networks;
mod reproducible;
mod support;
mod teacher;
mod tidy;
mod ui;
