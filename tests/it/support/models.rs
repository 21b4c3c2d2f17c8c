//! Model files: compiling, overrides, and random numbers for mutations.

use fqtc::diag::Diagnostic;
use fqtc::elaborate::{Elaborated, Overrides, elaborate};

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
