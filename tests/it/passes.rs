//! Passes one by one on files, and on whole and random modules: at rest on their own result, meaning unchanged.

use std::fs;

use fqtc::ir::{Module, Stage, parse::parse, print::print};
use fqtc::ops::{Tensor, verify::verify};
use fqtc::oracle::{self, Rounding, Surrogate};
use fqtc::passes;
use fqtc::quant::Quantization;

use crate::oracle::Noise;
use crate::support::random_kernels::seeds;
use crate::support::{modules, random_modules, snapshots};

/// The module after that pass only. The input's first line says what the case proves.
#[test]
fn files_per_pass() {
    for pass in passes::ALL {
        for path in snapshots::files(&format!("tests/data/passes/{}", pass.name), "fqtir") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("// "), "{}: does not say what it proves", path.display());
            let module = parse(&text).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
            verify(&module).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
            snapshots::check(&path, &print(&pass.run(module).unwrap()));
        }
    }
}

#[test]
fn every_pass_is_at_rest_on_its_own_result() {
    let known = [
        modules::resnet(2, 8, 4, "stochastic"),
        modules::lenet(2, 12, "nearest"),
        modules::mlp(2, 4, "nearest"),
    ];
    for module in known.into_iter().chain(seeds(20).map(random_modules::module)) {
        passes::run(module, Stage::Bits, |pass, module| {
            if pass.needs == pass.gives {
                let again = pass.run(module.clone()).unwrap();
                assert_eq!(print(&again), print(module), "{}", pass.name);
            }
        })
        .unwrap();
    }
}

/// The loss, and the gradient of each parameter that there is one for, by name.
fn answer(module: &Module, quantization: &dyn Quantization) -> Vec<(String, Tensor)> {
    let params: Vec<Tensor> =
        module.params.iter().map(|param| Noise(param.name.len() as u64).tensor(&param.ty)).collect();
    let image = Noise(3).tensor(module.ty(module.image));
    let labels = Noise(4).tensor(module.ty(module.labels));
    let values = oracle::run(module, &params, &image, &labels, quantization);
    let gradients = module.params.iter().filter_map(|param| Some((param.name.clone(), param.gradient?)));
    let ends = [("loss".to_owned(), module.loss)].into_iter().chain(gradients);
    ends.map(|(name, value)| (name, values[value.0 as usize].clone().unwrap())).collect()
}

/// From differentiation on, loss and gradients of the surrogates stay what they are to the last bit; from the quantization
/// of gradients on, so do those on the grids.
#[test]
fn passes_preserve_the_meaning() {
    let known = [modules::resnet(2, 8, 4, "stochastic"), modules::lenet(2, 12, "nearest")];
    for module in known.into_iter().chain(seeds(20).map(random_modules::module)) {
        let (mut smooth, mut rounded) = (None, None);
        passes::run(module, Stage::Bits, |pass, module| {
            if pass.gives >= Stage::Training {
                let now = answer(module, &Surrogate::default());
                assert_eq!(*smooth.get_or_insert_with(|| now.clone()), now, "{}", pass.name);
            }
            if pass.gives >= Stage::Quantized {
                let now = answer(module, &Rounding { seed: 1, step: 2, ..Rounding::default() });
                assert_eq!(*rounded.get_or_insert_with(|| now.clone()), now, "{}", pass.name);
            }
        })
        .unwrap();
        assert_ne!(smooth, rounded, "rounding changes nothing");
    }
}
