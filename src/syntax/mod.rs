//! The language of model files, as text: source → [`ast::File`] and back.
//!
//! `grammar/fqt.pest` is the grammar, `grammar/README.md` the reference. Nothing here knows what a name means: layers,
//! quantizers, settings and recipes are looked up by `elaborate`. Sources are bounded ([`MAX_SOURCE`], [`MAX_DEPTH`],
//! [`MAX_CHAIN`], [`MAX_STAGES`]) before anything recurses over them, so that every later walk is bounded too.

pub mod ast;
mod parse;
pub mod print;
mod recover;
mod walk;

pub use parse::{built_in, file, flag, text};

/// Largest source in bytes.
pub const MAX_SOURCE: usize = 1 << 20;

/// Deepest nesting of brackets.
pub const MAX_DEPTH: usize = 128;

/// Most operators in one expression.
pub const MAX_CHAIN: usize = 64;

/// Most stages in one pipeline, arguments in one call, and arms in one `if`.
pub const MAX_STAGES: usize = 10_000;
