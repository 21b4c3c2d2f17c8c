//! Whole models ready to run: compiled, with a few of the built-in images, in sessions.

use fqt_runtime::data::idx;
use fqt_runtime::data::{Dataset, Part, Shape, Source, adapt};
use fqt_runtime::session::Session;
use fqtc::codegen::jit::JitStep;
use fqtc::datasets::SAMPLE;
use fqtc::driver::{self, Compiled};
use fqtc::targets::{self, Target};

use super::models;

/// A model of the repository with what a command line would change.
pub(crate) fn compiled(file: &str, words: &str) -> Compiled {
    changed(file, words, &[])
}

/// The same with some words of its text replaced.
pub(crate) fn changed(file: &str, words: &str, changes: &[(&str, &str)]) -> Compiled {
    let path = format!("{}/models/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut source = std::fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(source.contains(from), "{file}: {from}");
        source = source.replace(from, to);
    }
    let module = models::compile(&source, &models::overrides(words)).unwrap().module;
    driver::compile(module).unwrap_or_else(|error| panic!("{file}: {}", error.message))
}

/// The first built-in test images in the shape of a model: `train` to learn from, as many others as a batch to test on.
pub(crate) fn images(compiled: &Compiled, train: usize) -> Dataset {
    let source = |name, bytes| Source::bytes(name, bytes);
    let part = || [source("images", SAMPLE.test_images), source("labels", SAMPLE.test_labels)];
    let mut data = idx::dataset("sample", part(), part()).unwrap();
    let of = |part: &Part, range: std::ops::Range<usize>| Part {
        images: part.images[range.start * data.shape.bytes()..range.end * data.shape.bytes()].to_vec(),
        labels: part.labels[range].to_vec(),
        source: part.source.clone(),
    };
    let artifact = &compiled.artifact;
    let parts = (of(&data.train, 0..train), of(&data.test, train..train + artifact.batch as usize));
    (data.train, data.test) = parts;
    let [channels, height, width] = [artifact.channels, artifact.height, artifact.width].map(|n| n as usize);
    adapt(data, Shape { channels, height, width }, artifact.classes as usize).unwrap().0
}

/// A session on code for a target.
pub(crate) fn session(compiled: &Compiled, target: &'static Target, threads: usize) -> Session {
    let code = JitStep::new(&compiled.programs[0], target).unwrap();
    Session::new(compiled.artifact.clone(), Box::new(code), threads).unwrap()
}

/// Targets whose code this machine runs, the weakest first.
pub(crate) fn targets_here() -> Vec<&'static Target> {
    targets::ALL.iter().copied().filter(|target| (target.runs_here)()).collect()
}
