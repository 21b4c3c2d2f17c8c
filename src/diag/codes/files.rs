//! E06: files and data.

use super::Code;

pub(super) static CODES: &[Code] = &[];
