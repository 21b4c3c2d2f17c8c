//! Prints kernel programs.

use super::Program;
use std::fmt;

/// Prints a whole program.
pub(super) fn program(_program: &Program, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Ok(())
}
