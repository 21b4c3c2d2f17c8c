//! A study as a section of a Markdown file: a table of means, and for each of its lines the command that trains one seed
//! and what that prints, so that anyone can check the line by running it.
//!
//! A section lies between two comments that name the study, and is replaced whole; all else in the file is its author's and
//! stays as it is, byte for byte. The same finished study gives the same bytes: times are those noted when it was trained.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use super::cells::{Cell, command, study_command};
use super::report::{accuracy, time};
use super::summary::{Row, Study, Trained};
use super::{Sweep, check_place, name};
use crate::cli::failure::Failure;
use crate::cli::run_folder;

/// Checks, before any work, that a study can have its section in a file, and that others can run the commands in it.
pub(super) fn check(file: &Path, args: &Sweep, cells: &[Cell]) -> Result<(), Failure> {
    check_place(Some(file))?;
    section(file, &read(file)?, &name(args))?;
    for path in [args.model(), Path::new(&args.images.data)] {
        if path.is_absolute() {
            return Err(Failure::usage(format!(
                "commands in `{}` are for others, but `{}` is a path of this machine",
                file.display(),
                path.display()
            ))
            .help("name the model and the images in a way that holds elsewhere: by a built-in name, or by a path from here"));
        }
    }
    for cell in cells {
        run_folder::path(&run_name(args, cell))?;
        if cell.command.contains(char::is_control) {
            return Err(Failure::usage("a command of more than one line cannot be written into a file")
                .help("leave line ends out of names and settings"));
        }
    }
    Ok(())
}

/// Writes a finished study into a file: in place of what stood there for it, else at the end.
pub(super) fn write(file: &Path, args: &Sweep, study: &Study) -> Result<(), Failure> {
    let old = read(file)?;
    let place = section(file, &old, &name(args))?;
    let (before, after) = match &place {
        Some(place) => (&old[..place.start], &old[place.end..]),
        None => (old.as_str(), ""),
    };
    // Begins a line of its own, after an empty one.
    let gap = match before {
        "" => "",
        _ if before.ends_with("\n\n") || place.is_some() => "",
        _ if before.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let new = [before, gap, &text(args, study), after].concat();
    Ok(fqt_runtime::durable::write(file, new.as_bytes())?)
}

/// The text of a file; one that is not there is empty.
fn read(file: &Path) -> Result<String, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Failure::file(file, &e)),
    }
}

/// A line that begins or ends a section, with the name of its study.
enum Mark<'a> {
    Begin(&'a str),
    End(&'a str),
}

impl Mark<'_> {
    fn of(line: &str) -> Option<Mark<'_>> {
        let comment = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
        match comment.split_whitespace().collect::<Vec<_>>()[..] {
            ["study", name] => Some(Mark::Begin(name)),
            ["end", "of", "study", name] => Some(Mark::End(name)),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Mark::Begin(name) => format!("<!-- study {name} -->\n"),
            Mark::End(name) => format!("<!-- end of study {name} -->\n"),
        }
    }
}

/// Where the section of a study is, if there is one. Sections of any study that overlap, have no end or come twice are an
/// error: what would be replaced is not clear.
fn section(file: &Path, text: &str, study: &str) -> Result<Option<Range<usize>>, Failure> {
    let fault = |line: usize, what: String| {
        Failure::usage(format!("{}:{line}: {what}", file.display())).help(
            "a section lies between `<!-- study NAME -->` and `<!-- end of study NAME -->`, each once: mend that by hand",
        )
    };
    let (mut at, mut found, mut seen) = (0, None, BTreeSet::new());
    // Its study, where it begins, and in which line.
    let mut open: Option<(&str, usize, usize)> = None;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let begin = at;
        at += line.len();
        match (Mark::of(line), open) {
            (None, _) => {}
            (Some(Mark::Begin(name)), None) if seen.insert(name) => open = Some((name, begin, number)),
            (Some(Mark::Begin(name)), None) => {
                return Err(fault(number, format!("the study `{name}` has a section already")));
            }
            (Some(Mark::Begin(_)), Some((name, ..))) => {
                return Err(fault(number, format!("the section of the study `{name}` has not ended")));
            }
            (Some(Mark::End(name)), Some((opened, begin, _))) if name == opened => {
                open = None;
                found = found.or((name == study).then_some(begin..at));
            }
            (Some(Mark::End(name)), _) => {
                return Err(fault(number, format!("no section of the study `{name}` has begun")));
            }
        }
    }
    match open {
        Some((name, _, line)) => Err(fault(line, format!("the section of the study `{name}` does not end"))),
        None => Ok(found),
    }
}

/// The section, with its marks.
fn text(args: &Sweep, study: &Study) -> String {
    let name = name(args);
    let rows = study.rows();
    let lines = rows.iter().map(line);
    [
        Mark::Begin(&name).text(),
        format!("## {}\n\n", escaped(&format!("{name}: {} on {}", study.model, study.data))),
        format!("```sh\n{}\n```\n\n", study_command(args, &name)),
        table([head(study)].into_iter().chain(lines)),
        format!(
            "\n```console\n{}```\n",
            rows.iter().map(|row| example(args, study, row)).collect::<String>()
        ),
        Mark::End(&name).text(),
    ]
    .concat()
}

fn head(study: &Study) -> Vec<String> {
    let axes = study.varied().iter().map(|axis| axis.subject.name().to_owned());
    let accuracy = format!("{} accuracy", study.measured);
    axes.chain(["epochs", "seeds", &accuracy, "time", "threads"].map(str::to_owned)).collect()
}

fn line(row: &Row) -> Vec<String> {
    let epochs = row.cells.iter().map(|cell| cell.epochs.len()).max().unwrap_or(0);
    let threads: BTreeSet<usize> = row.cells.iter().filter_map(|cell| cell.record.threads).collect();
    let threads: Vec<String> = threads.iter().map(usize::to_string).collect();
    let figures =
        [epochs.to_string(), row.cells.len().to_string(), accuracy(row), time(row), threads.join(", ")];
    row.values.iter().cloned().chain(figures).collect()
}

/// The command of a row's lowest seed, and the last line that it prints.
fn example(args: &Sweep, study: &Study, row: &Row) -> String {
    let lowest = row.cells.iter().min_by_key(|cell| cell.cell.model.seed);
    let show = |trained: &&Trained| {
        let Trained { cell, record, .. } = trained;
        let command = command(&cell.model, &args.images, Some(&run_name(args, cell)));
        let outcome = trained.outcome(study.measured);
        match &record.weights {
            Some(hash) => format!("$ {command}\n{outcome}  weights blake3:{hash}\n"),
            None => format!("$ {command}\nerror: {outcome}\n"),
        }
    };
    lowest.map_or(String::new(), show)
}

/// The name of a run outside of the study, which no run of another study has.
fn run_name(args: &Sweep, cell: &Cell) -> String {
    format!("{}-{}", name(args), cell.name)
}

/// The first row is the head.
fn table(rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let show = |(i, row): (usize, Vec<String>)| {
        let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
        let rule = if i == 0 { format!("|{}\n", "---|".repeat(row.len())) } else { String::new() };
        line(&cells) + &rule
    };
    rows.enumerate().map(show).collect()
}

/// Text as a heading or a cell of a table shows it.
fn escaped(text: &str) -> String {
    let escape = |c: char| if "\\`*<&[|~".contains(c) { format!("\\{c}") } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_b(text: &str) -> Result<Option<&str>, String> {
        match section(Path::new("f.md"), text, "b") {
            Ok(place) => Ok(place.map(|place| &text[place])),
            Err(Failure::Usage(message, _)) => Err(message),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn sections_are_found_between_their_marks() {
        let a = "<!-- study a -->\nb\n<!-- end of study a -->\n";
        let b = "  <!--study b-->\r\n<!-- study -->\n<!-- end of study b  -->";
        assert_eq!(of_b(""), Ok(None));
        assert_eq!(of_b(a), Ok(None));
        assert_eq!(of_b(&format!("text\n{a}{b}")), Ok(Some(b)));
        assert_eq!(of_b(&format!("{b}\n{a}")), Ok(Some(format!("{b}\n").as_str())));
    }

    #[test]
    fn marks_that_do_not_pair_are_errors_with_a_line() {
        let fault = |lines: &[&str]| {
            let line = |line: &&str| match line.strip_prefix('/') {
                Some(name) => format!("<!-- end of study {name} -->\n"),
                None => format!("<!-- study {line} -->\n"),
            };
            of_b(&lines.iter().map(line).collect::<String>()).expect_err("a fault")
        };
        assert_eq!(fault(&["b"]), "f.md:1: the section of the study `b` does not end");
        assert_eq!(fault(&["/b", "b"]), "f.md:1: no section of the study `b` has begun");
        assert_eq!(fault(&["b", "/b", "/b"]), "f.md:3: no section of the study `b` has begun");
        assert_eq!(fault(&["b", "/b", "b", "/b"]), "f.md:3: the study `b` has a section already");
        assert_eq!(fault(&["b", "a", "/a", "/b"]), "f.md:2: the section of the study `b` has not ended");
        assert_eq!(fault(&["b", "b", "/b"]), "f.md:2: the section of the study `b` has not ended");
        assert_eq!(fault(&["b", "/a", "/b"]), "f.md:2: no section of the study `a` has begun");
        assert_eq!(fault(&["b", "/b", "a"]), "f.md:3: the section of the study `a` does not end");
    }

    #[test]
    fn text_of_users_is_no_markup() {
        let shown = table([vec!["basic*.range".into()], vec!["a|b".into()]].into_iter());
        assert_eq!(shown, "| basic\\*.range |\n|---|\n| a\\|b |\n");
    }
}
