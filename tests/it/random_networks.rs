//! Networks that nobody chose compute what they mean: what is held of the samples of [`crate::teacher`] holds of random
//! modules.

use fqtc::ir::Attr;
use fqtc::lower::Mode;

use crate::support::random_kernels::seeds;
use crate::support::random_modules;
use crate::support::teacher::Step;
use crate::teacher::{check_activations, check_contractions, check_gradients, check_weights, close};

#[test]
fn random_networks_compute_what_they_mean() {
    let (mut all, mut networks, mut gradients) = (0, 0, 0);
    for seed in seeds(60) {
        let mut module = random_modules::module(seed);
        // A larger step learns the two images of the batch at once, and leaves no gradient.
        module.training.optimizer.1.insert("lr".into(), Attr::Real(0.001));
        let step = Step::run(module, seed, 2, |_| ());
        let name = format!("seed {seed}");
        check_contractions(&name, &step);
        check_activations(&name, &step);
        gradients += check_gradients(&name, &step);
        for mode in [Mode::Eval, Mode::EvalBatch] {
            let evaluated = step.evaluated(mode);
            let name = format!("{name}, {mode:?}");
            check_contractions(&name, &evaluated);
            check_activations(&name, &evaluated);
            check_loss(&name, &evaluated);
        }
        all += 1;
        networks += usize::from(check_weights(&name, &step) == 0);
    }
    assert!(networks * 6 >= all * 5, "{networks} of {all} networks learn in all layers");
    assert!(gradients >= all * 5, "{gradients} gradients of {all} networks");
}

/// The losses of the images, in 1/65536, against that of the batch.
fn check_loss(name: &str, step: &Step) {
    let losses = step.ints("loss");
    let sum: i64 = losses.iter().sum();
    let loss = sum as f64 / 65536.0 / losses.len() as f64;
    close(&format!("{name}, loss"), loss, step.forward(step.module.loss).data[0], 1e-3);
}
