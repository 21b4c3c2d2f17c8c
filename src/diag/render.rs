//! Diagnostics over their source, drawn by ariadne.
//!
//! Spans are bytes; they are widened to character boundaries and clamped to the source here, so that no span that
//! any phase can compute makes the drawing panic.

use std::ops::Range;

use ariadne::{CharSet, Color, Config, IndexType, Label, Report, ReportKind, Source};

use super::{Diagnostic, Span};

/// How diagnostics look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// ASCII without colour: snapshots and dumb terminals.
    Plain,
    /// Box-drawing characters without colour: pipes and `NO_COLOR`.
    Unicode,
    /// Box-drawing characters and colour: terminals.
    Colour,
}

/// Longest line, in bytes, that is drawn with marks below it; places in longer ones are only named.
const LONGEST_LINE: usize = 400;

/// The text of a diagnostic about the file `name` with text `source`; ends with a newline.
pub fn render(diagnostic: &Diagnostic, name: &str, source: &str, style: Style) -> String {
    match diagnostic.labels.first() {
        Some(first) if has_short_lines(diagnostic, source) => {
            over_source(diagnostic, widen(source, first.span), name, source, style)
        }
        _ => without_drawing(diagnostic, name, source, style),
    }
}

/// Whether every line that a label touches can be drawn.
fn has_short_lines(diagnostic: &Diagnostic, source: &str) -> bool {
    diagnostic.labels.iter().all(|label| {
        let Range { start, end } = widen(source, label.span);
        let start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let end = source[end..].find('\n').map_or(source.len(), |at| end + at);
        source[start..end].lines().all(|line| line.len() <= LONGEST_LINE)
    })
}

/// All of them, in order of place, with an empty line between.
pub fn render_all(diagnostics: &[Diagnostic], name: &str, source: &str, style: Style) -> String {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| d.labels.first().map_or((1, 0), |l| (0, l.span.start)));
    let texts: Vec<String> = sorted.iter().map(|d| render(d, name, source, style)).collect();
    texts.join("\n")
}

fn over_source(
    diagnostic: &Diagnostic,
    first: Range<usize>,
    name: &str,
    source: &str,
    style: Style,
) -> String {
    let config = Config::default()
        .with_color(style == Style::Colour)
        .with_char_set(if style == Style::Plain { CharSet::Ascii } else { CharSet::Unicode })
        .with_index_type(IndexType::Byte);
    let mut report = Report::build(ReportKind::Error, (name, first))
        .with_config(config)
        .with_code(diagnostic.code)
        .with_message(&diagnostic.message);
    for note in &diagnostic.notes {
        report.add_note(note);
    }
    if let Some(help) = &diagnostic.help {
        report.add_help(help);
    }
    // Drawn in the order of the source: ariadne opens a new excerpt where the order goes back.
    let mut labels: Vec<(usize, &super::Label)> = diagnostic.labels.iter().enumerate().collect();
    labels.sort_by_key(|(_, label)| label.span.start);
    for (i, label) in labels {
        let colour = if i == 0 { Color::Red } else { Color::Blue };
        let place = (name, widen(source, label.span));
        report.add_label(Label::new(place).with_message(&label.message).with_color(colour));
    }
    let mut out = vec![];
    match report.finish().write((name, Source::from(source)), &mut out) {
        Ok(()) => trimmed(&String::from_utf8_lossy(&out)),
        Err(_) => without_drawing(diagnostic, name, source, style),
    }
}

/// Trailing blanks tell nothing and do not survive editors.
fn trimmed(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// As lines; places by number of line and character, from 1.
fn without_drawing(diagnostic: &Diagnostic, name: &str, source: &str, style: Style) -> String {
    let (red, reset) = if style == Style::Colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    let mut text = format!("{red}[{}] Error:{reset} {}\n", diagnostic.code, diagnostic.message);
    for label in &diagnostic.labels {
        let before = &source[..widen(source, label.span).start];
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        text += &format!("  {name}:{line}:{column}: {}\n", label.message);
    }
    if let Some(help) = &diagnostic.help {
        text += &format!("  Help: {help}\n");
    }
    for note in &diagnostic.notes {
        text += &format!("  Note: {note}\n");
    }
    text
}

/// The span inside the source, out to character boundaries, at least one character wide where there is one.
fn widen(source: &str, span: Span) -> Range<usize> {
    let mut start = span.start.min(source.len());
    let mut end = span.end.clamp(start, source.len());
    while !source.is_char_boundary(start) {
        start -= 1;
    }
    if start == end && end < source.len() {
        end += 1;
    }
    while !source.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_of_a_source_with_long_characters_can_be_drawn() {
        let source = "a → b\n\u{1f600}é\n";
        for start in 0..source.len() + 2 {
            for end in start..source.len() + 3 {
                for style in [Style::Plain, Style::Unicode, Style::Colour] {
                    let d = Diagnostic::new("E0101", "message").at(Span { start, end }, "here").help("do");
                    assert!(render(&d, "f", source, style).contains("message"));
                }
            }
        }
    }

    #[test]
    fn places_in_very_long_lines_are_named_and_not_drawn() {
        let source = format!("model\né{}", "(".repeat(1000));
        let d = Diagnostic::new("E0103", "too deep").at(Span { start: 100, end: 101 }, "opens level 93");
        let text = "[E0103] Error: too deep\n  f:2:94: opens level 93\n";
        assert_eq!(render(&d, "f", &source, Style::Plain), text);
    }

    #[test]
    fn without_a_place_there_is_still_help() {
        let d = Diagnostic::new("E0209", "the file has no model").help("write one").note("from `x`");
        let text = "[E0209] Error: the file has no model\n  Help: write one\n  Note: from `x`\n";
        assert_eq!(render(&d, "f", "", Style::Plain), text);
    }
}
