//! Standard output and standard error, written so that a closed pipe or a full disk is a value and not a panic; and Ctrl-C.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::Failure;

/// Writes text to standard output, with a line end.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(e) => Err(Failure::failed(format!("standard output: {e}"))),
    }
}

/// Writes text to standard error, with a line end. Nobody can be told if that fails.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A request to stop, from Ctrl-C or a polite kill.
pub(super) struct Interrupt {
    requested: Arc<AtomicBool>,
    /// Whether a signal ends the program at once.
    unsaved: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catches the first signal as a flag; a second one ends the program at once.
    pub(super) fn catch() -> Result<Interrupt, Failure> {
        let [requested, unsaved] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: the shutdown looks at the flag before it is set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&requested))
                .and_then(|_| {
                    signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&unsaved))
                })
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&requested)))
                .map_err(|e| Failure::failed(format!("cannot catch Ctrl-C: {e}")))?;
        }
        Ok(Interrupt { requested, unsaved })
    }

    /// The flag itself.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.requested
    }

    /// Whether the user wants to stop.
    pub(super) fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Does work that saves nothing: the first signal in it ends the program at once.
    pub(super) fn unsaved<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        if self.requested() {
            return Err(Failure::Interrupted);
        }
        self.unsaved.store(true, Ordering::Relaxed);
        let done = work();
        self.unsaved.store(false, Ordering::Relaxed);
        done
    }
}

/// A table with aligned columns, two spaces between them; no blanks at line ends.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_by_characters() {
        let rows = [vec!["a".into(), "b".into()], vec!["xéz".into(), String::new()], vec!["c".into()]];
        assert_eq!(table(&rows), "a    b\nxéz\nc");
    }
}
