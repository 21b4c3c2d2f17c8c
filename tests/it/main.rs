//! All integration tests: one binary, a module per area.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod codegen;
mod kernel;
mod language;
mod modules;
mod oracle;
mod passes;
mod support;
mod tidy;
mod ui;
