//! The networks that come with the program: each learns a few images of the built-in sample.

use fqt_runtime::session::Mode;

use crate::support::runs;

/// Trains on the same images again and again: mean loss of the first and the last steps.
fn losses(file: &str, words: &str, steps: u64) -> (f64, f64) {
    let compiled = runs::compiled(file, words);
    let batch = compiled.artifact.batch as usize;
    let data = runs::images(&compiled, 2 * batch);
    let best = runs::targets_here().pop().unwrap();
    let mut session = runs::session(&compiled, best, 2);
    session.start(3, &data.mean_pixel(), steps);
    let mut losses = vec![];
    for step in 0..steps as usize {
        let first = step % 2 * batch;
        let samples: Vec<u32> = (first..first + batch).map(|i| i as u32).collect();
        session.load(&data.train, &samples, None);
        session.run(Mode::Train);
        let tally = session.tally(batch);
        losses.push(tally.loss as f64 / 65536.0 / batch as f64);
    }
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    (mean(&losses[..2]), mean(&losses[losses.len() - 4..]))
}

#[test]
fn small_models_learn_what_they_see() {
    for file in ["mlp.fqt", "lenet5.fqt", "resnet8.fqt", "resnet20.fqt", "plain20.fqt", "resnet32.fqt"] {
        let (before, after) = losses(file, "--batch 8 --gbits 4 --lr 0.01 schedule=constant", 24);
        assert!(after < 0.8 * before, "{file}: loss from {before} to {after}");
    }
}

#[test]
fn wide_models_learn_what_they_see() {
    for file in ["vgg_small.fqt", "mobilenet_v2.fqt"] {
        let (before, after) = losses(file, "--batch 8 --gbits 4 --lr 0.02 schedule=constant", 16);
        assert!(after < 0.8 * before, "{file}: loss from {before} to {after}");
    }
}
