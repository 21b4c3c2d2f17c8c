//! The program from outside: every `tests/data/cli/*.sh` runs in an empty folder; what it prints, its exit codes and the files that it
//! leaves are the snapshot beside it.
//!
//! In a script, `fqtc` is the program; each call is echoed and followed by its exit code. `$REPO` is the root of the repository.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing that a user can ask for takes longer here; a call that does hangs.
const LIMIT: Duration = Duration::from_secs(300);

const PRELUDE: &str = r#"
fqtc() {
  echo "\$ fqtc $*"
  "$FQTC" "$@"
  echo "[exit $?]"
}
"#;

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cli");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut scripts: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "sh")).collect();
    scripts.sort();
    scripts
}

/// Everything that a script prints, and the files that it leaves.
fn outcome(script: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (here, output) = (folder.path().join("here"), folder.path().join("output"));
    fs::create_dir(&here).unwrap();
    let log = fs::File::create(&output).unwrap();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("{PRELUDE}\n{}", fs::read_to_string(script).unwrap()))
        .current_dir(&here)
        .env("FQTC", env!("CARGO_BIN_EXE_fqtc"))
        .env("REPO", env!("CARGO_MANIFEST_DIR"))
        .env_remove("FQTC_DATA")
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > LIMIT {
            // The shell and what it started.
            Command::new("kill").args(["-KILL", &format!("-{}", child.id())]).status().unwrap();
            panic!("{} does not end", script.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = fs::read_to_string(&output).unwrap();
    text = without_hashes(&text.replace(env!("CARGO_MANIFEST_DIR"), "$REPO"));
    for file in files(&here) {
        text += &format!("left: {file}\n");
    }
    text
}

/// Hashes of weights say that something changed, not what; other tests compare them.
fn without_hashes(text: &str) -> String {
    let mut parts = text.split("blake3:");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        text + "blake3:…" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit())
    })
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    let mut pending = vec![folder.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found.iter().map(|path| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned()).collect()
}

fn check(script: &Path) {
    let text = outcome(script);
    assert!(!text.contains("panicked") && !text.contains("[exit 101]"), "{}:\n{text}", script.display());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(script.parent().unwrap());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(script);
    let name = script.file_stem().unwrap().to_string_lossy().into_owned();
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn scripts_end_as_recorded() {
    let scripts = scripts();
    assert!(!scripts.is_empty());
    for script in scripts {
        check(&script);
    }
}

#[test]
fn bench_prints_one_object() {
    let call = ["bench", "mlp", "--json", "--threads", "1", "--steps", "1", "--repetitions", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_fqtc")).args(call).output().unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |value: &serde_json::Value, name: &str| value[name].as_f64().unwrap_or(0.0);
    for name in ["images_per_s", "ms_per_step", "compile_ms", "arena_bytes", "profiled_step_ms"] {
        assert!(number(&figures, name) > 0.0, "{name} in {figures}");
    }
    // The kernels and the waiting are the step; layers and classes are the same kernels.
    let sum = |of: &str, name: &str| -> f64 {
        figures[of].as_array().unwrap().iter().map(|row| number(&row["sums"], name)).sum()
    };
    let parts = sum("kernels", "ms") + number(&figures, "waiting_ms");
    assert!((parts / number(&figures, "profiled_step_ms") - 1.0).abs() < 1e-9, "{figures}");
    for name in ["calls", "macs", "bytes"] {
        assert_eq!(sum("kernels", name), sum("classes", name), "{name}");
    }
}

#[test]
fn every_command_of_the_readme_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut commands = vec![];
    for file in ["README.md", "models/README.md", "models/recipes/README.md", "tests/bench/README.md"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        commands.extend(text.lines().filter_map(command).map(|words| (file, words)));
    }
    assert!(!commands.is_empty());
    for (file, words) in commands {
        // The second word may be a command below the first.
        let names = words.iter().take(2).take_while(|word| !word.starts_with('-'));
        let help = Command::new(env!("CARGO_BIN_EXE_fqtc")).args(names).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains(&format!("fqtc {}", words[0])), "{file}: `{}`", words.join(" "));
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap();
            assert!(help.contains(flag), "{file}: {flag} in `{}`", words.join(" "));
        }
        for model in words.iter().filter(|word| word.ends_with(".fqt") && word.starts_with("models/")) {
            assert!(root.join(model).is_file(), "{file}: {model}");
        }
    }
}

#[test]
fn every_line_of_the_zoo_can_be_trained() {
    let zoo = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/README.md")).unwrap();
    for model in fqtc::models::ALL {
        let row = format!("| [`{0}`]({0}.fqt) | {1} |", model.name, model.doc());
        assert!(zoo.contains(&row), "no line `{row}`");
    }
    let mut lines = zoo.lines().peekable();
    let mut calls = 0;
    while let Some(line) = lines.next() {
        let Some(call) = line.strip_prefix("$ fqtc train ") else { continue };
        calls += 1;
        let result = lines.peek().copied().unwrap_or_default();
        let hash = result.split_once("  weights blake3:").map(|(_, hash)| hash.len());
        assert!(hash == Some(64) || result.starts_with("error: "), "no result below `{line}`");
        // `check` takes what `train` takes of a model; the images need not be here.
        let mut words = vec![];
        let mut rest = call.split(' ');
        while let Some(word) = rest.next() {
            if ["--data", "--validation", "--name"].contains(&word) {
                rest.next();
            } else {
                words.push(word);
            }
        }
        // By the shell, as some words are quoted.
        let check = format!("\"$FQTC\" check {}", words.join(" "));
        let output =
            Command::new("sh").args(["-c", &check]).env("FQTC", env!("CARGO_BIN_EXE_fqtc")).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(calls > 0);
}

/// The words after the program's name, if a line of text is a call of it.
fn command(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start_matches("$ ");
    let line = line.split('#').next().unwrap();
    let arguments = line.strip_prefix("fqtc ").or_else(|| line.strip_prefix("cargo run --release -- "))?;
    Some(arguments.split_whitespace().map(str::to_owned).collect())
}
