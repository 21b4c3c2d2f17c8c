//! Networks that nobody chose compute what they mean: what is held of the samples of [`crate::teacher`] holds of random
//! modules.

use fqtc::ir::Attr;

use crate::support::random_kernels::seeds;
use crate::support::random_modules;
use crate::support::teacher::Step;
use crate::teacher::{check_activations, check_contractions, check_gradients, check_weights};

#[test]
fn random_networks_compute_what_they_mean() {
    let (mut networks, mut gradients) = (0, 0);
    for seed in seeds(60) {
        let mut module = random_modules::module(seed);
        // A larger step learns the two images of the batch at once, and leaves no gradient.
        module.training.optimizer.1.insert("lr".into(), Attr::Real(0.001));
        let step = Step::run(module, seed, 2, |_| ());
        let name = format!("seed {seed}");
        check_contractions(&name, &step);
        check_activations(&name, &step);
        gradients += check_gradients(&name, &step);
        networks += usize::from(check_weights(&name, &step) == 0);
    }
    assert!(
        networks >= 50 && gradients >= 300,
        "{networks} networks learn in all layers, {gradients} gradients"
    );
}
