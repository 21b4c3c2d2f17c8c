//! The table of diagnostic codes, one file per area: code, title, and the explanation that `fqtc explain` prints.
//!
//! A code never changes its meaning. Each `E` has a case under `tests/data/ui` that raises it; an `I` is a bug of the
//! compiler, which no model should be able to raise.

mod internal;
mod names;
mod quantization;
mod shapes;
mod syntax;
mod targets;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The code, such as `E0301`.
    pub code: &'static str,
    /// A few words, lower case.
    pub title: &'static str,
    /// What it means, why it is an error, and what to do; sentences.
    pub explanation: &'static str,
}

/// Every code, by area and in order.
pub fn all() -> impl Iterator<Item = &'static Code> {
    let areas =
        [syntax::CODES, names::CODES, shapes::CODES, quantization::CODES, targets::CODES, internal::CODES];
    areas.into_iter().flatten()
}

/// The row of a code; letter case does not matter.
pub fn find(code: &str) -> Option<&'static Code> {
    all().find(|c| c.code.eq_ignore_ascii_case(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_unique_and_explained() {
        let rows: Vec<&Code> = all().collect();
        assert!(rows.windows(2).all(|w| w[0].code < w[1].code));
        for row in rows {
            assert!(
                row.code.len() == 5 && (row.code.starts_with("E0") || row.code.starts_with("I0")),
                "{}",
                row.code
            );
            assert!(row.explanation.len() > 40 && row.explanation.ends_with('.'), "{}", row.code);
            assert!(!row.title.is_empty() && !row.title.ends_with('.'), "{}", row.code);
        }
    }

    #[test]
    fn find_ignores_case() {
        assert_eq!(find("e0101").map(|c| c.code), Some("E0101"));
        assert!(find("E9999").is_none());
    }
}
