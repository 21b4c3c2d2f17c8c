//! Rules about the source tree that the compiler does not check: dependency edges, headers, sizes, tables, unsafe code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the compiler may use of the others, from the bottom up. A module that is missing here fails the test.
const EDGES: &[(&str, &str)] = &[
    ("types", "diag"),
    ("diag", ""),
    ("tensor", "diag types"),
    ("ir", "diag types tensor"),
    ("numbers", ""),
    ("kernel", "types"),
    ("quant", "diag types tensor ir kernel"),
    ("rectify", "diag types numbers tensor ir kernel"),
    ("bits", "diag types numbers ir quant"),
    ("ops", "diag types tensor ir kernel quant rectify bits"),
    ("bops", "types ir quant ops"),
    ("targets", "types"),
    ("syntax", "diag types"),
    ("elaborate", "diag types ir quant rectify bits ops syntax"),
    ("passes", "diag types tensor ir quant rectify bits ops"),
    ("oracle", "diag types tensor ir quant rectify ops"),
    ("noise", "types tensor ir quant oracle"),
    ("lower", "diag types numbers tensor ir kernel quant rectify bits ops"),
    ("schedule", "kernel"),
    ("plan", "kernel schedule"),
    ("plan_check", "kernel schedule plan"),
    ("codegen", "diag types kernel targets"),
    ("models", ""),
    ("datasets", ""),
    (
        "driver",
        "diag types tensor ir kernel quant rectify bits ops targets syntax elaborate passes lower schedule plan plan_check codegen models",
    ),
    (
        "cli",
        "diag types tensor ir kernel quant rectify bits ops bops targets syntax elaborate passes noise schedule plan codegen models datasets driver",
    ),
    ("main", "cli"),
];

/// The parts of the runtime that go into other people's programs: no allocation, no operating system, no floats.
const RUNTIME_CORE: [&str; 4] = ["abi", "fixed", "random", "step"];

/// Where unsafe code may be allowed.
const UNSAFE: [&str; 2] = ["src/codegen/jit.rs", "runtime/src/"];

const MOST_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, as paths from the root, sorted; nothing if there is no such folder.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut pending = vec![root().join(folder)];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found.iter().map(|path| path.strip_prefix(root()).expect("below the root").to_path_buf()).collect()
}

fn sources() -> Vec<(String, String)> {
    ["src", "runtime/src", "tests"].iter().flat_map(|folder| read(folder, "rs")).collect()
}

/// Paths and texts of the files with that extension below a folder.
fn read(folder: &str, extension: &str) -> Vec<(String, String)> {
    let matching = files(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == extension));
    matching
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a readable text file");
            (path.to_string_lossy().into_owned(), text)
        })
        .collect()
}

/// Without comments and without the tests at the end.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().expect("at least one part");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// Names that follow `crate::` in a text, also inside `crate::{…}`.
fn uses(text: &str) -> BTreeSet<String> {
    let identifier = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let boundary =
            text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$');
        let rest = &text[at + "crate::".len()..];
        if !boundary {
            continue;
        }
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(identifier(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    names.insert(identifier(&group[start..i]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.insert(identifier(&group[start..i]));
                    start = i + 1;
                }
                _ => {}
            }
        }
    }
    names.remove("");
    names
}

/// The module that a path below `src` belongs to.
fn module(path: &str) -> &str {
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside);
    inside.split(['/', '.']).next().expect("at least one part")
}

fn fail_if_any(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_reader_of_uses_sees_groups() {
    let text =
        "use crate::a::b;\nuse crate::{c::{d, e}, f};\nlet x = crate::g(1); subcrate::h(); $crate::i!()";
    let found: Vec<String> = uses(text).into_iter().collect();
    assert_eq!(found, ["a", "c", "f", "g"]);
}

#[test]
fn modules_use_lower_ones_only() {
    let mut faults = vec![];
    for (path, text) in read("src", "rs") {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == own) else {
            faults.push(format!("{path}: the module `{own}` is not in the table of edges"));
            continue;
        };
        for used in uses(&code(&text)) {
            if used != own && !allowed.split(' ').any(|name| name == used) {
                faults.push(format!("{path}: `{own}` must not know `{used}`"));
            }
        }
    }
    fail_if_any(faults);
}

#[test]
fn the_table_of_edges_has_no_cycle() {
    // Each module may use only those that are above it in the table, `diag` apart, which uses nothing.
    for (i, (name, allowed)) in EDGES.iter().enumerate() {
        for used in allowed.split(' ').filter(|used| !used.is_empty() && *used != "diag") {
            assert!(EDGES[..i].iter().any(|(lower, _)| *lower == used), "`{name}` uses `{used}`");
        }
    }
}

#[test]
fn the_core_of_the_runtime_stands_alone() {
    let mut faults = vec![];
    for (path, text) in read("runtime/src", "rs") {
        if !RUNTIME_CORE.contains(&module(&path)) {
            continue;
        }
        let text = code(&text);
        let known: Vec<String> =
            uses(&text).into_iter().filter(|used| !RUNTIME_CORE.contains(&used.as_str())).collect();
        if !known.is_empty() {
            faults.push(format!("{path}: the core must not know {known:?}"));
        }
        for word in ["std::", "alloc::", "f32", "f64"] {
            if text.contains(word) {
                faults.push(format!("{path}: `{word}` in the core"));
            }
        }
    }
    fail_if_any(faults);
}

#[test]
fn kernels_know_no_floats() {
    let offenders = read("src/kernel", "rs").into_iter().filter(|(_, text)| {
        let text = code(text);
        text.contains("f32") || text.contains("f64")
    });
    fail_if_any(offenders.map(|(path, _)| format!("{path}: a float type")).collect());
}

/// What the platform's mathematical library computes may differ in a last bit from one platform to the next: programs are
/// made without it. The oracle and the real-valued side of ops, quantizers and rectifiers may; kernels know no floats.
#[test]
fn programs_do_not_depend_on_the_platform() {
    const FUNCTIONS: [&str; 11] = [
        ".exp2()", ".exp()", ".ln()", ".log2()", ".log10()", ".cos()", ".sin()", ".tanh()", ".cbrt()",
        ".powi(", ".powf(",
    ];
    let mut faults = vec![];
    for (path, text) in read("src", "rs") {
        if ["ops", "quant", "rectify", "oracle", "tensor", "kernel"].contains(&module(&path)) {
            continue;
        }
        let text = code(&text);
        faults.extend(FUNCTIONS.iter().filter(|f| text.contains(**f)).map(|f| format!("{path}: `{f}`")));
    }
    fail_if_any(faults);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    fail_if_any(silent.map(|(path, _)| format!("{path}: does not open with `//!`")).collect());
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().map(|(path, text)| (path, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > MOST_LINES);
    fail_if_any(long.map(|(path, lines)| format!("{path}: {lines} lines, at most {MOST_LINES}")).collect());
}

#[test]
fn every_file_is_compiled() {
    let mut faults = vec![];
    for path in ["src", "runtime/src"].into_iter().flat_map(files) {
        let (Some(stem), Some(folder)) = (path.file_stem(), path.parent()) else { continue };
        let stem = stem.to_string_lossy();
        let parents = if stem == "mod" {
            let Some(above) = folder.parent() else { continue };
            [above.join("mod.rs"), above.join("lib.rs"), above.with_extension("rs")]
        } else {
            [folder.join("mod.rs"), folder.join("lib.rs"), folder.with_extension("rs")]
        };
        let name = if stem == "mod" {
            folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        } else {
            stem.into_owned()
        };
        if path.extension().is_none_or(|e| e != "rs") || name == "lib" || name == "main" {
            continue;
        }
        let declared = parents.iter().filter_map(|parent| fs::read_to_string(root().join(parent)).ok());
        if !declared.into_iter().any(|text| text.contains(&format!("mod {name};"))) {
            faults.push(format!("{}: no `mod {name};`", path.display()));
        }
    }
    fail_if_any(faults);
}

/// Folder, trait: what is built in is a file of the folder that implements the trait.
const BUILT_IN: [(&str, &str); 4] =
    [("quant", "Quantizer"), ("rectify", "Rectifier"), ("ops", "Op"), ("bits", "Policy")];

/// The name of a file without its extension.
fn stem(path: &str) -> String {
    Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What two of them share is in a file of its own; only a gradient op knows the op whose name it extends.
#[test]
fn what_is_built_in_does_not_know_its_neighbours() {
    let mut faults = vec![];
    for (folder, contract) in BUILT_IN {
        let mut all = read(&format!("src/{folder}"), "rs");
        let table = format!("src/{folder}/mod.rs");
        // What the table does not name is what several build on.
        let names =
            all.iter().find(|(path, _)| *path == table).map(|(_, text)| text.clone()).unwrap_or_default();
        all.retain(|(path, text)| {
            code(text).contains(&format!("impl {contract} for"))
                && names.contains(&format!("&{}::", stem(path)))
        });
        assert!(all.len() > 1, "{folder}: no files that implement `{contract}`");
        for (path, text) in &all {
            let own = stem(path);
            for (other, _) in &all {
                let other = stem(other);
                if !own.starts_with(&other) && code(text).contains(&format!("super::{other}::")) {
                    faults.push(format!("{path}: `{own}` must not know `{other}`"));
                }
            }
        }
    }
    fail_if_any(faults);
}

#[test]
fn everything_written_is_in_its_table() {
    // A file that implements the trait is named in the table of `mod.rs`, or a file of the folder builds on it.
    let mut faults = vec![];
    for (folder, contract) in BUILT_IN {
        let all = read(&format!("src/{folder}"), "rs");
        let Some((_, table)) = all.iter().find(|(path, _)| *path == format!("src/{folder}/mod.rs")) else {
            continue;
        };
        for (path, text) in &all {
            let name = stem(path);
            let implements = code(text).contains(&format!("impl {contract} for"));
            let listed = table.contains(&format!("&{name}::"));
            let shared =
                all.iter().any(|(other, text)| other != path && text.contains(&format!("super::{name}")));
            if implements && name != "mod" && !listed && !shared {
                faults.push(format!("{path}: implements `{contract}`, but is not in the table"));
            }
        }
    }
    fail_if_any(faults);
}

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    let mut faults = vec![];
    for (path, text) in read("src", "rs").into_iter().chain(read("runtime/src", "rs")) {
        if text.contains("allow(unsafe_code") && !UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            faults.push(format!("{path}: allows unsafe code"));
        }
    }
    fail_if_any(faults);
}

#[test]
fn every_snapshot_has_its_input() {
    let all: BTreeSet<PathBuf> = files("tests/data").into_iter().collect();
    let mut faults = vec![];
    for snapshot in all.iter().filter(|path| path.extension().is_some_and(|e| e == "snap")) {
        let stem = snapshot.with_extension("");
        let has_input =
            all.iter().any(|path| path != snapshot && (path.with_extension("") == stem || *path == stem));
        if !has_input {
            faults.push(format!("{}: nothing makes it", snapshot.display()));
        }
    }
    fail_if_any(faults);
}

#[test]
fn every_diagnostic_code_has_a_case() {
    let cases: String = read("tests/data/ui", "snap").into_iter().map(|(_, text)| text).collect();
    let errors = fqtc::diag::codes::all().filter(|code| code.code.starts_with('E'));
    let silent = errors.filter(|code| !cases.contains(&format!("[{}]", code.code)));
    fail_if_any(silent.map(|code| format!("{}: no case in tests/data/ui raises it", code.code)).collect());
}

#[test]
fn every_diagnostic_code_is_in_the_table() {
    let digits =
        |rest: &str| rest.len() >= 5 && rest[..4].bytes().all(|b| b.is_ascii_digit()) && &rest[4..5] == "\"";
    let mut faults = vec![];
    for (path, text) in read("src", "rs") {
        let text = code(&text);
        for start in ["\"E", "\"I"] {
            for (at, _) in text.match_indices(start) {
                let rest = &text[at + 1..];
                if rest.is_char_boundary(6)
                    && digits(&rest[1..])
                    && fqtc::diag::codes::find(&rest[..5]).is_none()
                {
                    faults.push(format!("{path}: {} is not in the table of codes", &rest[..5]));
                }
            }
        }
    }
    fail_if_any(faults);
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    let texts = [("grammar", "md"), ("models", "md"), ("models", "fqt"), ("tests", "md"), ("tests", "py")];
    let texts = texts.into_iter().flat_map(|(folder, extension)| read(folder, extension)).chain(sources());
    let others = ["README.md", "Cargo.toml", ".ci/run"]
        .map(|path| (path.to_owned(), fs::read_to_string(root().join(path)).expect("a readable text file")));
    let scripts = ["sh", "snap"].into_iter().flat_map(|extension| read("tests", extension));
    let texts = texts.chain(others).chain(scripts);
    let personal = ["/work", "/home"].map(|folder| format!("{folder}/"));
    let offenders = texts.filter(|(_, text)| personal.iter().any(|folder| text.contains(folder.as_str())));
    fail_if_any(offenders.map(|(path, _)| format!("{path}: a path outside the repository")).collect());
}
