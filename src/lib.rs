//! fqtc: a compiler for fully-quantized neural-network training.

pub mod bits;
pub mod cli;
pub mod codegen;
pub mod datasets;
pub mod diag;
pub mod driver;
pub mod elaborate;
pub mod ir;
pub mod kernel;
pub mod lower;
pub mod models;
pub mod numbers;
pub mod ops;
pub mod oracle;
pub mod passes;
pub mod plan;
pub mod plan_check;
pub mod quant;
pub mod rectify;
pub mod syntax;
pub mod targets;
pub mod tensor;
pub mod types;
