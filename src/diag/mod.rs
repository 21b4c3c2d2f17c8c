//! Diagnostics: values with a code, a place, both sides of the mismatch and a way out.
//!
//! Nothing here knows the language or the IRs; [`codes`] is the table of all codes, [`render`] draws them over the
//! source, [`suggest`] finds the name that was meant.

pub mod codes;
pub mod render;
pub mod suggest;

/// A byte range in a source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A labelled place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What is there, in the user's words.
    pub message: String,
}

/// Something wrong, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Code in the table of codes, such as `E0301`.
    pub code: &'static str,
    /// What is wrong, with both sides.
    pub message: String,
    /// Places; the first is the primary one.
    pub labels: Vec<Label>,
    /// Further facts.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic without a place yet.
    pub fn new(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code, message: message.into(), labels: vec![], notes: vec![], help: None }
    }

    /// With a place; the first one is primary.
    pub fn at(mut self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, message: message.into() });
        self
    }

    /// With a note.
    pub fn note(mut self, note: impl Into<String>) -> Diagnostic {
        self.notes.push(note.into());
        self
    }

    /// With a way out.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}
