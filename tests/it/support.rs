//! What the areas share: files with their expected output beside them.

use std::path::{Path, PathBuf};

use fqtc::diag::Diagnostic;
use fqtc::elaborate::{Elaborated, Overrides, elaborate};

/// The files of a folder below the root with this extension, sorted.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    assert!(!files.is_empty(), "{} has no .{extension} file", folder.display());
    files
}

/// Compares `text` with the snapshot beside the input: `foo.fqt` has `foo.snap`.
pub(crate) fn check(input: &Path, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(input.parent().unwrap());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(input.file_stem().unwrap().to_str().unwrap(), text));
}

/// Parses and elaborates.
pub(crate) fn compile(source: &str, overrides: &Overrides) -> Result<Elaborated, Vec<Diagnostic>> {
    elaborate(&fqtc::syntax::file(source)?, overrides)
}

/// Overrides from words as on the command line: `--gbits 4 train.epochs=5`.
pub(crate) fn overrides(words: &str) -> Overrides {
    let mut result = Overrides::default();
    let mut words = words.split_whitespace();
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            result.set.push(Overrides::pair(word).unwrap());
            continue;
        }
        let value = words.next().unwrap();
        let int = || Some(value.parse().unwrap());
        match word {
            "--recipe" => result.recipe = Some(value.to_owned()),
            "--lr" => result.lr = Some(value.parse().unwrap()),
            "--gbits" => result.gbits = int(),
            "--wbits" => result.wbits = int(),
            "--abits" => result.abits = int(),
            "--epochs" => result.epochs = int(),
            "--batch" => result.batch = int(),
            "--seed" => result.seed = int(),
            _ => panic!("no flag {word}"),
        }
    }
    result
}

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) % n as u64) as usize
    }
}
