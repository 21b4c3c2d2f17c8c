//! The noise of gradient quantizers: parameters read back from memory, and predictions against measurements.

use fqt_runtime::session::Mode;
use fqtc::driver;
use fqtc::ir::Module;
use fqtc::noise::{Codes, Crossing, Point, codes};
use fqtc::tensor::Tensor;
use fqtc::types::Role;

use crate::support::runs;

/// A network at its start: its module, parameters, a batch, and the loss that integers compute for it.
struct Start {
    module: Module,
    params: Vec<Tensor>,
    image: Tensor,
    labels: Tensor,
    loss: f64,
}

fn start(file: &str, words: &str) -> Start {
    let compiled = runs::compiled(file, words);
    let batch = compiled.artifact.batch as usize;
    let data = runs::images(&compiled, batch);
    let mut session = runs::session(&compiled, runs::targets_here().pop().unwrap(), 1);
    let mean = data.mean_pixel();
    session.start(1, &mean, 10);
    let params = driver::parameters(&compiled.module.params, session.artifact(), session.arena());
    session.load(&data.train, &(0..batch as u32).collect::<Vec<_>>(), None);
    session.run(Mode::Train);
    let loss = session.tally(batch).loss as f64 / 65536.0 / batch as f64;
    let shape = compiled.module.ty(compiled.module.image).shape.clone();
    let (pixels, channels) = ((shape[1] * shape[2]) as usize, shape[3] as usize);
    let image = (0..batch).flat_map(|i| {
        let image = data.train.image(i);
        let at = move |p: usize, c: usize| f64::from(image[c * pixels + p]);
        let mean = &mean;
        (0..pixels).flat_map(move |p| (0..channels).map(move |c| (at(p, c) - f64::from(mean[c])) / 64.0))
    });
    let image = Tensor::new(shape, image.collect());
    let labels = data.train.labels.iter().map(|&label| f64::from(label)).collect();
    let labels = Tensor::new(vec![batch as u64], labels);
    Start { module: compiled.module, params, image, labels, loss }
}

fn measure(file: &str, words: &str, passes: u64) -> (f64, f64, Vec<Crossing>) {
    let Start { module, params, image, labels, loss } = start(file, words);
    let point = Point::new(&module, &params, &image, &labels);
    (loss, point.loss(), point.measure(passes, 2))
}

#[test]
fn parameters_from_memory_give_the_loss_that_integers_compute() {
    for (file, words) in [("resnet8.fqt", "--batch 4"), ("lenet5.fqt", "--batch 4"), ("mlp.fqt", "--batch 4")]
    {
        let (integers, reals, _) = measure(file, words, 1);
        assert!((integers / reals - 1.0).abs() < 0.02, "{file}: {integers} in integers, {reals} in reals");
    }
}

#[test]
fn noise_of_all_quantizers_is_the_sum_of_their_noises() {
    for (gbits, tolerance) in [(8, 0.1), (4, 0.1), (3, 0.15)] {
        let (_, _, crossings) = measure("resnet8.fqt", &format!("--batch 4 --gbits {gbits}"), 12);
        assert_eq!(crossings.first().unwrap().layer, "linear1");
        let first = crossings.last().unwrap();
        assert_eq!(first.layer, "conv1");
        let ratio = (1.0 + first.measured) / (1.0 + first.by_gains);
        assert!((ratio - 1.0).abs() < tolerance, "{gbits} bits: {first:?}");
        // Fewer bits, more noise, by the square of the step.
        assert!(crossings.iter().all(|crossing| crossing.own > 0.0));
    }
}

/// Batch norm takes the size of a channel's weights away again. The gradient of what the convolution gives shrinks as the
/// weights grow, that of its accumulators, which a step rounds, stays as it was, and so does what the layers before receive.
#[test]
fn noise_does_not_hang_on_the_size_of_channels() {
    let words = "--batch 4 --gbits 4 gradients.per=tensor gradients.range=max";
    let Start { module, mut params, image, labels, .. } = start("resnet8.fqt", words);
    let before = Point::new(&module, &params, &image, &labels).measure(12, 2);
    let weight = module.params.iter().position(|param| param.name == "basic2.conv1.weight").unwrap();
    let channel = params[weight].data.len() / params[weight].shape[0] as usize;
    for (i, x) in params[weight].data.iter_mut().enumerate() {
        *x *= f64::from(1 << (i / channel % 4));
    }
    let after = Point::new(&module, &params, &image, &labels).measure(12, 2);
    let behind = before.iter().position(|crossing| crossing.layer == "basic2.conv1").unwrap() + 1;
    for (before, after) in before.iter().zip(&after).skip(behind) {
        let ratio = after.measured / before.measured;
        assert!((ratio - 1.0).abs() < 0.05, "{before:?} {after:?}");
    }
}

#[test]
fn ways_to_a_layer_are_counted_by_the_longest() {
    let (_, _, crossings) = measure("resnet8.fqt", "--batch 4", 1);
    // The classifier, then three blocks of two convolutions, of which two have a third beside the first.
    let depths: Vec<(&str, usize)> = crossings.iter().map(|c| (c.layer.as_str(), c.depth)).collect();
    let of = |layer: &str| depths.iter().find(|(name, _)| *name == layer).unwrap().1;
    assert_eq!(depths.len(), 10);
    assert_eq!((of("linear1"), of("basic3.conv2"), of("basic3.conv1"), of("basic3.conv3")), (0, 1, 2, 1));
    assert_eq!(of("conv1"), 7);
}

#[test]
fn in_a_chain_noise_taken_as_signal_is_a_product() {
    let (_, _, crossings) = measure("mlp.fqt", "--batch 4 --gbits 3", 2);
    let mut product = 1.0;
    for crossing in crossings {
        assert!((1.0 + crossing.as_signal - product).abs() < 1e-9 * product, "{crossing:?}");
        product *= 1.0 + crossing.own;
    }
}

/// The noise that the codes of a role make: alone, layer by layer from the first to the last, and together.
fn of_role(role: Role, words: &str) -> (Vec<Codes>, Vec<f64>, f64) {
    let Start { module, params, image, labels, .. } = start("resnet8.fqt", &format!("--batch 4 {words}"));
    let layers = codes(&module, role);
    let paths: Vec<&str> = layers.iter().map(|codes| codes.path.as_str()).collect();
    let point = if role == Role::Gradients { Point::of_weights } else { Point::of_step };
    let point = point(&module, &params, &image, &labels);
    let alone = point.alone(role, &paths, 4, 2);
    (layers, alone, point.together(&Role::ALL, 12, 2))
}

#[test]
fn noise_of_weight_gradients_is_the_sum_of_what_each_quantizer_makes_alone() {
    let mut of_width = vec![];
    for (gbits, per, tolerance) in [(8, "tensor", 0.1), (7, "tensor", 0.1), (4, "row", 0.25)] {
        let words = format!("--gbits {gbits} gradients.per={per}");
        let (layers, alone, together) = of_role(Role::Gradients, &words);
        let ends = [&layers[0], &layers[layers.len() - 1]].map(|codes| (codes.path.as_str(), codes.elements));
        assert_eq!(ends, [("conv1", 32 * 32 * 16), ("linear1", 10)]);
        let sum: f64 = alone.iter().sum();
        let ratio = together / sum;
        assert!((ratio - 1.0).abs() < tolerance, "{gbits} bits: {together} together, {sum} as a sum");
        of_width.push(sum - alone[alone.len() - 1]);
    }
    // A bit less is a step of twice the size, and noise of its square; the logits keep 8 bits.
    let ratio = of_width[1] / of_width[0];
    assert!((ratio / 4.0 - 1.0).abs() < 0.07, "from 8 to 7 bits: {ratio}");
}

#[test]
fn weights_and_activations_make_noise_too() {
    const RECTIFIED: &str = "rectify=log_gain";
    let (weights, of_weights, _) = of_role(Role::Weights, RECTIFIED);
    let (activations, of_activations, together) = of_role(Role::Activations, RECTIFIED);
    let first = |layers: &[Codes]| (layers[0].path.clone(), layers[0].elements);
    assert_eq!(first(&weights), ("conv1".to_owned(), 16 * 27));
    assert_eq!(first(&activations), ("relu1".to_owned(), 32 * 32 * 16));
    assert!(of_weights.iter().chain(&of_activations).all(|&noise| noise > 0.0));
    // What is rounded moves what follows out of its way: together they make less than their sum, and most of it.
    let (_, of_gradients, _) = of_role(Role::Gradients, RECTIFIED);
    let sum = [of_weights.clone(), of_activations, of_gradients].concat().iter().sum::<f64>();
    assert!((0.4..1.2).contains(&(together / sum)), "{together} together, {sum} as a sum");
    let (_, narrower, _) = of_role(Role::Weights, &format!("--wbits 6 {RECTIFIED}"));
    // Steps of four times the size: what they change in values grows with the square, the part of ReLUs that they turn over
    // with the size itself.
    let ratio = narrower.iter().sum::<f64>() / of_weights.iter().sum::<f64>();
    assert!((3.0..20.0).contains(&ratio), "from 8 to 6 bits: {ratio}");
}

#[test]
fn layers_say_how_gradients_and_weights_look() {
    let of = |words: &str| {
        let Start { module, params, image, labels, .. } =
            start("resnet8.fqt", &format!("--batch 4 rectify=log_gain {words}"));
        Point::of_weights(&module, &params, &image, &labels).layers(4, 2)
    };
    let (wide, narrow) = (of("--gbits 8"), of("--gbits 2"));
    assert_eq!((wide[0].path.as_str(), wide[wide.len() - 1].path.as_str()), ("linear1", "conv1"));
    // The last layer keeps its bits, and has no batch norm behind it.
    assert_eq!((wide[0].gain, wide[0].spread), (None, None));
    for (wide, narrow) in wide.iter().zip(&narrow).skip(1) {
        assert_eq!(wide.path, narrow.path);
        // What is exact does not hang on the bits; these are random weights at their start, and scales are 1.
        assert_eq!((wide.crest, wide.gain, wide.spread), (narrow.crest, narrow.gain, narrow.spread));
        assert!((wide.drift.unwrap() - 1.0).abs() < 0.15, "{wide:?}");
        assert!(wide.crest.unwrap() > 1.0 && wide.gain.unwrap() > 0.0, "{wide:?}");
        assert!(wide.spread.unwrap() > 0.0 && wide.spread.unwrap() < 2.0, "{wide:?}");
        assert!(wide.noise.unwrap() < narrow.noise.unwrap(), "{wide:?} {narrow:?}");
        let (exact, quantized) = (wide.cosine.unwrap(), narrow.cosine.unwrap());
        assert!(exact > 0.99 && exact <= 1.0 + 1e-9 && quantized < exact, "{wide:?} {narrow:?}");
    }
}
