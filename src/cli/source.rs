//! Reading model files, and showing what is wrong with them.

use std::io::{IsTerminal, Read};
use std::path::Path;

use super::failure::Failure;
use crate::diag::Diagnostic;
use crate::diag::render::{Style, render_all};
use crate::{models, syntax};

/// A model file.
pub(super) struct Source {
    /// Its path, for messages.
    pub(super) name: String,
    /// Its text.
    pub(super) text: String,
}

impl Source {
    /// Reads a file, or takes the built-in model of that name; what is not a readable text file of sensible size is a
    /// usage error.
    pub(super) fn read(path: &Path) -> Result<Source, Failure> {
        let name = path.display().to_string();
        if let (false, Some(model)) = (path.exists(), models::find(&name)) {
            return Ok(Source { name, text: model.text.into() });
        }
        let missing = |e: std::io::Error| {
            Failure::usage(format!("cannot read the model `{name}`: {e}"))
                .help("name a model file, or a model that `fqtc list models` shows")
        };
        let file = std::fs::File::open(path).map_err(missing)?;
        if file.metadata().map_err(missing)?.is_dir() {
            return Err(Failure::usage(format!("cannot read the model `{name}`: it is a folder"))
                .help("name a model file in it"));
        }
        let mut bytes = vec![];
        // One byte more than allowed is enough for the parser to say that it is too large; devices may never end.
        file.take(syntax::MAX_SOURCE as u64 + 1).read_to_end(&mut bytes).map_err(missing)?;
        let text = syntax::text(bytes).map_err(|diagnostic| diagnostics(&[diagnostic], &name, ""))?;
        Ok(Source { name, text })
    }

    /// The failure that shows diagnostics over this file.
    pub(super) fn diagnostics(&self, found: &[Diagnostic]) -> Failure {
        diagnostics(found, &self.name, &self.text)
    }
}

fn diagnostics(found: &[Diagnostic], name: &str, text: &str) -> Failure {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = match (std::io::stderr().is_terminal(), plain) {
        (true, false) => Style::Colour,
        (true, true) => Style::Unicode,
        (false, _) => Style::Plain,
    };
    let text = render_all(found, name, text, style);
    let internal = found.iter().any(|diagnostic| diagnostic.code.starts_with('I'));
    if internal { Failure::Internal(text) } else { Failure::Diagnostics(text) }
}
