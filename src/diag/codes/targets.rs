//! E05: targets and memory.

use super::Code;

pub(super) static CODES: &[Code] = &[];
