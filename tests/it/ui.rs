//! Errors in model files: source in `tests/data/ui/*.fqt`, the drawn diagnostics beside it. The first line may hold a
//! directive: `//@ flags: …` as on the command line, `//@ pad: n` adds that many blanks.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fqtc::diag::Diagnostic;
use fqtc::diag::render::{Style, render_all};

use crate::support::models::{compile, overrides};
use crate::support::snapshots::{check, files};

fn diagnostics(bytes: Vec<u8>) -> (String, Vec<Diagnostic>) {
    let source = match fqtc::syntax::text(bytes) {
        Ok(source) => source,
        Err(error) => return (String::new(), vec![error]),
    };
    let flags = directive(&source, "//@ flags: ").map(overrides).unwrap_or_default();
    let found = match compile(&source, &flags) {
        Err(errors) => errors,
        Ok(elaborated) => fqtc::driver::compile(elaborated.module).err().into_iter().collect(),
    };
    (source, found)
}

fn directive<'a>(source: &'a str, start: &str) -> Option<&'a str> {
    source.lines().next()?.strip_prefix(start)
}

fn input(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if let Some(count) = directive(&text, "//@ pad: ") {
        bytes.extend(vec![b' '; count.parse().unwrap()]);
    }
    bytes
}

/// Every case with its source and what is found in it.
static CASES: LazyLock<Vec<(PathBuf, String, Vec<Diagnostic>)>> = LazyLock::new(|| {
    let case = |path: PathBuf| {
        let (source, found) = diagnostics(input(&path));
        (path, source, found)
    };
    files("tests/data/ui", "fqt").into_iter().map(case).collect()
});

#[test]
fn diagnostics_are_as_expected() {
    for (path, source, found) in CASES.iter() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!found.is_empty(), "{name}: no error");
        assert!(found.iter().all(|d| d.code.starts_with('E')), "{name}: an internal error");
        check(path, &render_all(found, name, source, Style::Plain));
    }
}

#[test]
fn a_case_named_after_a_code_raises_it() {
    for (path, _, found) in CASES.iter() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let Some(code) = stem.split('_').next().filter(|s| s.starts_with("e0")) else { continue };
        assert!(found.iter().any(|d| d.code.eq_ignore_ascii_case(code)), "{stem}: {found:?}");
    }
}

#[test]
fn every_diagnostic_says_what_to_do() {
    for (path, _, found) in CASES.iter() {
        for d in found {
            let known = fqtc::diag::codes::find(d.code).is_some();
            assert!(known, "{}: {} is not in the table", path.display(), d.code);
            assert!(d.help.is_some(), "{}: no help for `{}`", path.display(), d.message);
            assert!(!d.message.is_empty() && !d.message.ends_with('.'), "{}: {}", path.display(), d.message);
        }
    }
}

#[test]
fn every_error_has_a_case() {
    let cases: Vec<&str> =
        CASES.iter().map(|(path, ..)| path.file_stem().unwrap().to_str().unwrap()).collect();
    for row in fqtc::diag::codes::all().filter(|row| row.code.starts_with('E')) {
        let start = row.code.to_lowercase();
        assert!(cases.iter().any(|case| case.starts_with(&start)), "{} has no case", row.code);
    }
}
