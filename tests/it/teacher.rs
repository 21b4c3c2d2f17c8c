//! Integers compute what the model means: each node of an interpreted step against the oracle on the node's own decoded
//! integer inputs, so that a deviation belongs to one node and bounds stay tight.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use fqtc::ir::{Attr, Layers, Module, Node, Role, Training, Value};
use fqtc::lower::Mode;
use fqtc::tensor::Tensor;
use fqtc::types::{flag, int, real};

use crate::support::models::{compile, overrides};
use crate::support::modules;
use crate::support::teacher::{Edit, Step, times};

/// A small residual network; one output channel of the second convolution is dead, one is tiny.
pub(crate) fn network(bits: i64) -> Module {
    with_bits(modules::resnet(4, 8, 8, "stochastic"), bits)
}

fn with_bits(mut module: Module, bits: i64) -> Module {
    modules::rectify_all(&mut module, "log_gain");
    module.schemes.get_mut("gradients").unwrap().params.insert("bits".into(), Attr::Int(bits));
    module
}

/// A batch norm reads codes that a convolution and a pool read too.
fn preactivated() -> Module {
    let source = "model m { input image: 8x8x3 classes 10 use recipe plain
        x = image |> conv(8, 3x3) |> relu
        a = x |> batch_norm |> relu |> conv(8, 3x3, stride = 2)
        b = x |> conv(8, 1x1, stride = 2)
        c = x |> max_pool(2)
        add(add(a, b) |> relu, c) |> global_avg_pool |> linear(10)
        train { batch 4 optimizer sgd(lr = 0.1, momentum = 0.9, weight_decay = 1e-4) schedule constant } }";
    compile(source, &overrides("")).unwrap_or_else(|errors| panic!("{errors:#?}")).module
}

pub(crate) fn quiet(edit: &mut Edit) {
    edit.scale_channel("conv2.weight", DEAD, |_| 0);
    edit.scale_channel("conv2.weight", TINY, |v| v >> 12);
}

const DEAD: usize = 2;
const TINY: usize = 5;

#[test]
fn depthwise_convolutions_of_any_geometry_are_exact() {
    let windows =
        [([5, 3], 1, 0), ([3, 3], 3, 1), ([2, 2], 5, 0), ([3, 3], 1, 4), ([1, 1], 2, 0), ([4, 4], 2, 2)];
    for (kernel, stride, padding) in windows {
        let name = format!("depthwise {kernel:?}, stride {stride}, padding {padding}");
        let step = Step::run(modules::depthwise(2, 7, kernel, stride, padding), 3, 2, |_| ());
        check_contractions(&name, &step);
        check_shifts(&name, &step);
        check_masks(&name, &step);
        assert!(check_gradients(&name, &step) >= 2, "{name}");
        assert_eq!(check_weights(&name, &step), 0, "{name}: layers without a gradient");
    }
}

/// Widths at which the stores of 16 columns that make planes run into what follows, among others.
#[test]
fn convolutions_of_any_geometry_are_exact() {
    let windows = [
        (18, [3, 3], 2, 0),
        (19, [2, 2], 2, 0),
        (37, [3, 3], 2, 0),
        (20, [1, 1], 3, 0),
        (18, [5, 3], 1, 0),
        (9, [3, 3], 1, 2),
        (17, [5, 5], 3, 1),
    ];
    for (size, kernel, stride, padding) in windows {
        let name = format!("{size} pixels, {kernel:?}, stride {stride}, padding {padding}");
        let channels = [("channels", Attr::Int(20))];
        let module = modules::convolution("conv", &channels, (2, size), kernel, stride, padding);
        let step = Step::run(module, 3, 1, |_| ());
        check_contractions(&name, &step);
        check_shifts(&name, &step);
        check_masks(&name, &step);
        assert!(check_gradients(&name, &step) >= 2, "{name}");
        assert_eq!(check_weights(&name, &step), 0, "{name}: layers without a gradient");
    }
}

/// 4- and 8-bit gradients, in a first step and later, with and without quiet channels; odd numbers of channels, pools that
/// overlap and others, signed codes, learned clips.
fn samples() -> &'static [(String, Step)] {
    static SAMPLES: OnceLock<Vec<(String, Step)>> = OnceLock::new();
    SAMPLES.get_or_init(run_samples)
}

fn run_samples() -> Vec<(String, Step)> {
    let mut all = vec![];
    for (bits, steps) in [(4, 1), (8, 1), (8, 3)] {
        all.push((format!("{bits} bits, step {steps}"), Step::run(network(bits), 3, steps, quiet)));
    }
    all.push(("codes that batch norm and others read".into(), Step::run(preactivated(), 3, 2, |_| ())));
    all.push((CLIPPED.into(), Step::run(clipped(network(4)), 3, 2, quiet)));
    all.push(("4 bits, all alive".into(), Step::run(network(4), 3, 2, |_| ())));
    for bits in [4, 8] {
        let of = |module| Step::run(with_bits(module, bits), 3, 2, |_| ());
        let name = |what| format!("{what}, {bits} bits, alive");
        all.push((name("inverted residuals"), of(modules::mobile(4, 9, "stochastic"))));
        all.push((name("overlapping pools"), of(modules::pools(4, 10, "stochastic"))));
        all.push((name("values read twice"), of(modules::twice(4, 9, "stochastic"))));
    }
    for steps in [1, 3, 6] {
        all.push((format!("cyclic, after {steps}"), Step::run(cyclic(network(8)), 3, steps, |_| ())));
    }
    for activations in ["pact", "running_max"] {
        for (name, mut module) in
            [("pools", modules::lenet(4, 16, "stochastic")), ("signed", modules::signed(4, 8, "stochastic"))]
        {
            modules::rule(
                &mut module,
                Role::Activations,
                Layers::All,
                "activations",
                activations,
                &clip(activations),
            );
            let steps = if activations == "pact" { 1 } else { 3 };
            all.push((format!("{name}, {activations}"), Step::run(module.clone(), 3, steps, |_| ())));
            all.push((format!("{name}, {activations}, cyclic"), Step::run(cyclic(module), 3, 3, |_| ())));
        }
    }
    all
}

const CLIPPED: &str = "weights beyond their range";

/// Weights of 4 bits, of which those beyond six tenths of the largest are clipped.
fn clipped(mut module: Module) -> Module {
    let params = [("bits", Attr::Int(4)), ("fraction", Attr::Real(0.6))];
    modules::rule(&mut module, Role::Weights, Layers::All, "weights", "max_abs", &params);
    module
}

#[test]
fn weights_beyond_a_fraction_of_the_largest_are_clipped() {
    let (_, step) = samples().iter().find(|(name, _)| name == CLIPPED).unwrap();
    for node in step.nodes("conv2d").chain(step.nodes("linear")) {
        let codes = step.weight_integers(&node.path);
        let at_the_end = codes.data.iter().filter(|code| code.abs() == 7.0).count();
        assert_eq!(codes.largest(), 7.0, "{}", node.path);
        assert!(at_the_end * 20 > codes.data.len(), "{}: {at_the_end} of {}", node.path, codes.data.len());
    }
}

/// With bits that rise from 3 to 8 within five steps: 3 in the first, 5 in the third, 3 again in the sixth.
fn cyclic(mut module: Module) -> Module {
    let params = modules::attrs(&[("low", Attr::Int(3)), ("cycles", Attr::Int(20))]);
    module.training.precision = ("cyclic".into(), params);
    module
}

/// Weights and activations use the codes of the bits in force, and no others.
#[test]
fn cycles_keep_codes_within_fewer_bits() {
    let mut seen = 0;
    for (name, step) in samples().iter().filter(|(name, _)| name.contains("cyclic")) {
        for node in step.activations() {
            let (path, levels) = (&node.path, step.levels(node));
            let codes = step.codes(node.results[0]);
            assert!(levels.hi < (1 << (step.bits(node) - 1)), "{name}, {path}: {} of all codes", levels.hi);
            let largest = codes.largest();
            assert!(0.0 < largest && largest <= levels.hi as f64, "{name}, {path}: {largest}");
        }
        for node in step.nodes("conv2d").chain(step.nodes("linear")) {
            // The largest weight of a channel becomes the largest code.
            let in_force = step.levels(step.producer(node.operands[1])).hi;
            let codes = step.weight_integers(&node.path);
            assert!(in_force <= 15, "{name}, {}: {in_force}", node.path);
            assert_eq!(codes.largest(), in_force as f64, "{name}, {}", node.path);
            seen += 1;
        }
    }
    assert!(seen >= 12, "{seen} layers");
}

/// A learned clip that starts where it cuts off.
fn clip(activations: &str) -> Vec<(&str, Attr)> {
    if activations == "pact" { vec![("init", Attr::Real(0.75)), ("bits", Attr::Int(4))] } else { vec![] }
}

impl Step {
    /// A forward value as the oracle sees it: stored integers by their units, the rest computed from those.
    pub(crate) fn forward(&self, value: Value) -> Tensor {
        if self.module.params.iter().any(|p| p.value == value) {
            return self.vector_before(value);
        }
        if value == self.module.labels {
            let labels = self.ints("labels");
            return Tensor::new([labels.len() as u64], labels.iter().map(|&v| v as f64).collect());
        }
        if value == self.module.image {
            return times(&self.codes(value), &[self.step_of(value)]);
        }
        let node = self.producer(value);
        let t = format!("{}.t", node.path);
        match node.op.as_str() {
            "conv2d" | "depthwise_conv2d" | "linear" if self.has(&t) => {
                let unit = self.dyadics(&format!("{}.unit", node.path));
                let product = times(&self.dense(&t, &self.shape(value)), &unit);
                let Some(&bias) = node.operands.get(2) else { return product };
                let (bias, c) =
                    (self.vector_before(bias).data, product.shape[product.shape.len() - 1] as usize);
                let data = product.data.iter().enumerate().map(|(i, v)| v + bias[i % c]).collect();
                Tensor::new(product.shape, data)
            }
            "quantize" if self.is_activation(node) => times(&self.codes(value), &[self.step_of(value)]),
            "quantize" => self.weight_real(node),
            "batch_norm" if self.mode == Mode::Eval => self.normalized(node),
            _ => {
                let operands: Vec<Tensor> = node.operands.iter().map(|&v| self.forward(v)).collect();
                self.oracle(node, &operands.iter().collect::<Vec<_>>())[0].clone()
            }
        }
    }

    /// A batch norm with running statistics.
    fn normalized(&self, node: &Node) -> Tensor {
        let [x, gamma, beta] = [0, 1, 2].map(|i| self.forward(node.operands[i]));
        let running = |what: &str| self.dyadics(&format!("{}.running_{what}", node.path));
        let (means, variances, eps) = (running("mean"), running("variance"), real(&node.attrs, "eps"));
        let c = gamma.data.len();
        let one = |(i, x): (usize, &f64)| {
            let deviation = (variances[i % c] + eps).sqrt();
            gamma.data[i % c] * (x - means[i % c]) / deviation + beta.data[i % c]
        };
        Tensor::new(x.shape.clone(), x.data.iter().enumerate().map(one).collect())
    }

    /// Quantized weights in real numbers.
    fn weight_real(&self, node: &Node) -> Tensor {
        let codes = self.weight_integers(&node.path);
        let scale = self.dyadics(&format!("{}.weight_scale", node.path));
        let per = codes.data.len() / codes.shape[0] as usize;
        let scale = |i: usize| if scale.len() == 1 { scale[0] } else { scale[i / per] };
        let data = codes.data.iter().enumerate().map(|(i, v)| v * scale(i)).collect();
        Tensor::new(codes.shape, data)
    }

    /// Codes of a layer's weight in the shape of the parameter.
    pub(crate) fn weight_integers(&self, path: &str) -> Tensor {
        let codes = self.weight_codes(path, &self.weight_shape(path));
        Tensor::new(self.shape(self.contraction(path).operands[1]), codes.data)
    }

    /// The integers of a stored gradient.
    pub(crate) fn gradient(&self, value: Value) -> Option<Tensor> {
        let name = match self.producer(value).op.as_str() {
            "softmax_cross_entropy_grad" => "logits.gradient16".to_owned(),
            "batch_norm_grad" => format!("value{}.wide", value.0),
            _ => format!("value{}.gradient", value.0),
        };
        self.has(&name).then(|| self.dense(&name, &self.shape(value)))
    }

    /// The unit of a gradient that passes masks.
    pub(crate) fn gradient_unit(&self, value: Value) -> f64 {
        let node = self.producer(value);
        match node.op.as_str() {
            "max_pool_grad" | "avg_pool_grad" if self.overlap_shift(node).is_some() => {
                self.dyadics(&format!("{}.overlap_unit", node.path))[0]
            }
            "relu_grad" | "quantize_grad" | "reshape" | "max_pool_grad" => {
                self.gradient_unit(node.operands[0])
            }
            "softmax_cross_entropy_grad" => self.dyadics("logits.gradient_unit")[0],
            "add" => self.dyadics(&format!("value{}.sum_unit", value.0))[0],
            "global_avg_pool_grad" | "avg_pool_grad" => self.dyadics(&format!("{}.spread", node.path))[0],
            "batch_norm_grad" => self.dyadics(&format!("value{}.real_unit", value.0))[0],
            _ => self.dyadics(&format!("{}.grad_unit", node.path))[0],
        }
    }

    /// By how much sums over windows that overlap are shifted down.
    fn overlap_shift(&self, node: &Node) -> Option<i64> {
        let name = format!("{}.overlap_shift", node.path);
        self.has(&name).then(|| self.int(&name))
    }

    /// What a gradient's integers should be, and how far they may be off; masks by the oracle.
    pub(crate) fn expected_gradient(&self, value: Value) -> (Tensor, f64) {
        let node = self.producer(value);
        let stored = |v: Value| self.gradient(v).expect("operands of pools are stored");
        match node.op.as_str() {
            "conv2d_grad_input" | "depthwise_conv2d_grad_input" | "linear_grad_input" => {
                let q = self.gradient_codes(node.operands[0]);
                let w = self.weight_integers(&node.path);
                let half = self.int(&format!("{}.grad_shift_now", node.path));
                let by = (half as f64).exp2();
                // `round` takes ties away from zero, as the shift does.
                let shifted = |acc: f64| (acc / by).round().clamp(-32767.0, 32767.0);
                (self.oracle(node, &[&q, &w])[0].map(shifted), 0.0)
            }
            "add" => {
                // A contraction is rounded as if it were stored, and not stored.
                let integers = |v: Value| self.gradient(v).unwrap_or_else(|| self.expected_gradient(v).0);
                let part = |v: Value| {
                    times(&integers(v), &[ratio(self.gradient_unit(v), self.gradient_unit(value))])
                };
                let sum = part(node.operands[0]).zip(&part(node.operands[1]), |a, b| a + b);
                let k = self.int(&format!("value{}.sum_shift", value.0)) as f64;
                (sum, 0.5 + 32767.0 / k.exp2() + 1e-3)
            }
            "global_avg_pool_grad" | "avg_pool_grad" | "max_pool_grad" => {
                let rest = node.operands[1..].iter().map(|&v| self.forward(v));
                let operands: Vec<Tensor> = [stored(node.operands[0])].into_iter().chain(rest).collect();
                let sum = self.oracle(node, &operands.iter().collect::<Vec<_>>())[0].clone();
                let pixels = match node.op.as_str() {
                    "max_pool_grad" => 1,
                    "avg_pool_grad" => (int(&node.attrs, "size") * int(&node.attrs, "size")) as u64,
                    _ => self.shape(value)[1..3].iter().product(),
                };
                let shift = self.overlap_shift(node).unwrap_or(0);
                let by = pixels as f64 * (-shift as f64).exp2();
                (times(&sum, &[by]), if shift == 0 { 1e-6 } else { 0.5 + 1e-6 })
            }
            "reshape" => {
                let (dy, off) = self.expected_gradient(node.operands[0]);
                (Tensor::new(self.shape(value), dy.data), off)
            }
            "softmax_cross_entropy_grad" => (stored(value), 0.0),
            "batch_norm_grad" => {
                let dy = node.operands[0];
                let dy = times(
                    &self.gradient(dy).expect("gradients of norms are stored"),
                    &[self.gradient_unit(dy)],
                );
                let (x, gamma) = (self.forward(node.operands[1]), self.vector_before(node.operands[2]));
                let meant = self.oracle(node, &[&dy, &x, &gamma])[0].clone();
                let grid = format!("value{}", value.0);
                let mut meant = times(&meant, &[ratio(1.0, self.gradient_unit(value))]);
                // Channels too quiet for the scale have no gradient.
                let least = self.dyadics(&format!("{grid}.audible0"))[0];
                let variances = self.dyadics(&format!("{}.variance", node.path));
                let channels = *meant.shape.last().unwrap() as usize;
                let quiet = |c: usize| variances[c] < least;
                for c in (0..channels).filter(|&c| quiet(c)) {
                    meant.data.iter_mut().skip(c).step_by(channels).for_each(|v| *v = 0.0);
                }
                // The coefficient of the norm's input is a multiple of the gradient's, as that was rounded.
                let first: Vec<f64> =
                    self.ints(&format!("{grid}.coef0")).iter().step_by(2).map(|&a| a.abs() as f64).collect();
                let smallest = (0..channels).filter(|&c| !quiet(c)).map(|c| first[c]).fold(16384.0, f64::min);
                (meant, 0.5 + 32769.0 * self.fine(&grid) + 16384.0 / smallest)
            }
            _ => {
                let (dy, off) = self.expected_gradient(node.operands[0]);
                let rest: Vec<Tensor> = node.operands[1..].iter().map(|&v| self.forward(v)).collect();
                let operands: Vec<&Tensor> = [&dy].into_iter().chain(&rest).collect();
                (self.oracle(node, &operands)[0].clone(), off)
            }
        }
    }

    /// Codes of a gradient in the encoding of a quantizer's result.
    pub(crate) fn gradient_codes(&self, codes: Value) -> Tensor {
        let node = self.producer(codes);
        let (encoding, shape) = (self.encoding(node), self.shape(codes));
        if self.has(&format!("{encoding}.blocks")) {
            return self.gradient_blocks(&encoding, &shape);
        }
        self.gradient_image(node, &encoding)
    }

    /// The name of the encoding that a quantizer of a gradient made: those of one gradient in one layer are numbered.
    pub(crate) fn encoding(&self, node: &Node) -> String {
        let same = |n: &&Node| n.operands[0] == node.operands[0] && n.path == node.path;
        let number = self.nodes("quantize").filter(same).position(|n| n.results == node.results).unwrap();
        format!("{}.gradient{number}", node.path)
    }

    /// The same gradient before its masks.
    pub(crate) fn unmasked(&self, value: Value) -> Tensor {
        let node = self.producer(value);
        match node.op.as_str() {
            "relu_grad" | "quantize_grad" => self.unmasked(node.operands[0]),
            _ => self.expected_gradient(value).0,
        }
    }

    /// Whether a mask on the way to `value` is decided within the error of its grid, position by position.
    pub(crate) fn at_edge(&self, value: Value) -> Vec<bool> {
        let node = self.producer(value);
        let n = self.shape(value).iter().product::<u64>() as usize;
        let edges = match node.op.as_str() {
            "relu_grad" => vec![0.0],
            "quantize_grad" => self.clips(node),
            "reshape" => return self.at_edge(node.operands[0]),
            _ => return vec![false; n],
        };
        let grid = format!("{}.activation", node.path);
        let step = self.dyadics(&format!("{grid}.step"))[0];
        let off = self.whole_error(&grid, node.operands[1]);
        let x = self.forward(node.operands[1]);
        let stored = self.edge_error(node.operands[1]);
        let near = x.data.iter().zip(off).zip(stored).map(|((v, off), stored)| {
            edges.iter().any(|&edge| {
                let distance = (v / step - edge).abs();
                // Exactly on the edge, as a dead channel is, real and integer coefficients agree; but zero alone is stored as it is.
                distance <= off && (distance > 0.0 || edge != 0.0 && stored > 0.0)
            })
        });
        self.at_edge(node.operands[0]).into_iter().zip(near).map(|(a, b)| a || b).collect()
    }

    /// The edges beyond which a quantizer clips, in steps: of a learned clip itself, else where the last code begins.
    pub(crate) fn clips(&self, node: &Node) -> Vec<f64> {
        let beyond = if node.operands.len() > 2 { 0.0 } else { 0.5 };
        let levels = self.levels(node);
        let hi = levels.hi as f64 + beyond;
        if levels.lo < 0 { vec![-hi, hi] } else { vec![hi] }
    }
}

pub(crate) fn close(what: &str, got: f64, expected: f64, off: f64) {
    assert!((got - expected).abs() <= off, "{what}: {got} instead of {expected} (within {off})");
}

/// Accumulators keep bits when they are shifted down.
fn check_shifts(name: &str, step: &Step) {
    for node in step.nodes("conv2d").chain(step.nodes("depthwise_conv2d")) {
        // Codes of the few bits that a cycle begins with need no shift, and then nothing is lost.
        let shift = step.int(&format!("{}.acc_shift", node.path));
        let unshifted = shift == 0 && step.module.training.precision.0 != Training::FIXED;
        let t = step.dense(&format!("{}.t", node.path), &step.shape(node.results[0]));
        assert!(unshifted || t.largest() > 100.0, "{name}, {}: the shift leaves bits", node.path);
    }
}

/// Few masks are decided within the error of their grid.
fn check_masks(name: &str, step: &Step) {
    let nodes = step.module.nodes.iter().filter_map(|node| node.results.first());
    for &value in nodes.filter(|&&value| step.gradient(value).is_some()) {
        let edges = step.at_edge(value);
        let unsure = edges.iter().filter(|&&edge| edge).count();
        assert!(
            unsure * 20 <= edges.len(),
            "{name}, %{}: {unsure} of {} masks are unsure",
            value.0,
            edges.len()
        );
    }
}

#[test]
fn weights_are_rounded_and_contractions_exact() {
    for (name, step) in samples() {
        check_contractions(name, step);
        check_shifts(name, step);
    }
}

/// Codes of weights, and accumulators shifted down to 16 bits.
pub(crate) fn check_contractions(name: &str, step: &Step) {
    for node in step.nodes("conv2d").chain(step.nodes("depthwise_conv2d")) {
        let what = format!("{name}, {}", node.path);
        let weights = step.producer(node.operands[1]);
        let shape = step.shape(node.operands[1]);
        let codes = step.weight_codes(&node.path, &shape);
        let masters = step.weight_before(&format!("{}.weight", node.path), &shape);
        let meant = step.oracle(weights, &[&times(&masters, &[(-28f64).exp2()])])[0].clone();
        let scale = step.dyadics(&format!("{}.weight_scale", node.path));
        let per = codes.data.len() / shape[0] as usize;
        let hi = step.levels(weights).hi as f64;
        for (i, (&code, &meant)) in codes.data.iter().zip(&meant.data).enumerate() {
            // On a tie of rounding, either neighbour is right.
            let exact = (masters.data[i] * (-28f64).exp2() / scale[i / per]).clamp(-hi, hi);
            close(&what, code, exact, 0.5 + 1e-4);
            close(&what, code * scale[i / per], meant, scale[i / per] * 1.001);
        }
        let acc = step.oracle(node, &[&step.codes(node.operands[0]), &codes])[0].clone();
        assert!(step.has(&format!("{}.t", node.path)), "{what}: stored");
        let by = (step.int(&format!("{}.acc_shift", node.path)) as f64).exp2();
        let t = step.dense(&format!("{}.t", node.path), &acc.shape);
        let floor = acc.map(|v| (v / by).floor().clamp(-32767.0, 32767.0));
        assert!(t.data == floor.data, "{what}: t is the accumulator shifted");
        let unit = step.dyadics(&format!("{}.unit", node.path));
        for (c, unit) in unit[..shape[0] as usize].iter().enumerate() {
            let meant = scale[c] * step.step_of(node.operands[0]) * by;
            close(&what, *unit, meant, meant * 1e-8);
        }
    }
}

#[test]
fn activation_codes_are_the_rounded_values() {
    for (name, step) in samples() {
        check_activations(name, step);
        for node in step.activations() {
            let path = format!("{}.activation", node.path);
            let errors = step.whole_error(&path, node.operands[0]);
            let error = errors.iter().copied().fold(0.0, f64::max);
            assert!(error < 0.5, "{name}, {path}: coefficients are fine enough ({error})");
            let (codes, hi) = (step.codes(node.results[0]), step.levels(node).hi as f64);
            assert!(codes.largest() > hi / 20.0, "{name}, {path}: codes are used");
            let below = codes.data.iter().any(|&code| code < 0.0);
            assert_eq!(below, flag(&node.attrs, "signed"), "{name}, {path}: codes below zero");
        }
    }
}

/// Codes of activations against the values that they are rounded from.
pub(crate) fn check_activations(name: &str, step: &Step) {
    for node in step.activations() {
        let path = format!("{name}, {}.activation", node.path);
        let operands: Vec<Tensor> = node.operands.iter().map(|&v| step.forward(v)).collect();
        let unit = step.step_of(node.results[0]);
        let meant = times(&step.oracle(node, &operands.iter().collect::<Vec<_>>())[0], &[1.0 / unit]);
        let levels = step.levels(node);
        let codes = step.codes(node.results[0]);
        let errors = step.whole_error(&format!("{}.activation", node.path), node.operands[0]);
        for (i, (&code, &meant)) in codes.data.iter().zip(&meant.data).enumerate() {
            let exact = (operands[0].data[i] / unit).clamp(levels.lo as f64, levels.hi as f64);
            close(&path, code, exact, 0.5 + errors[i]);
            assert!(errors[i] >= 0.5 || (code - meant).abs() <= 1.001, "{path}: {code} instead of {meant}");
            let edge = (exact - exact.floor() - 0.5).abs() <= errors[i];
            assert!(edge || code == meant.round(), "{path}: {code} instead of {meant}, from {exact}");
        }
        let below = codes.data.iter().any(|&code| code < 0.0);
        assert!(!below || flag(&node.attrs, "signed"), "{path}: codes below zero");
    }
}

#[test]
fn stored_gradients_are_masked_sums_and_contractions() {
    for (name, step) in samples() {
        let seen = check_gradients(name, step);
        assert!(seen >= 4, "{name}: {seen} gradients are stored");
        check_masks(name, step);
    }
}

/// Stored gradients against their masks, sums and contractions; how many there are.
pub(crate) fn check_gradients(name: &str, step: &Step) -> usize {
    let values = step.module.nodes.iter().filter_map(|node| node.results.first().copied());
    let mut seen = 0;
    for value in values {
        let Some(got) = step.gradient(value) else { continue };
        let what = format!("{name}, gradient %{} ({})", value.0, step.producer(value).path);
        let ((expected, off), open) = (step.expected_gradient(value), step.unmasked(value));
        let edges = step.at_edge(value);
        for (i, &got) in got.data.iter().enumerate() {
            let near = |v: f64| (got - v).abs() <= off;
            assert!(
                near(expected.data[i]) || edges[i] && (got == 0.0 || near(open.data[i])),
                "{what}: element {i} is {got}, not {} (before masks {}, within {off})",
                expected.data[i],
                open.data[i],
            );
        }
        seen += 1;
    }
    seen
}

/// The gradient of a learned clip is the sum of what it cuts off, with the sign of its side, and the slope of its penalty.
#[test]
fn gradients_of_clips_and_biases_are_sums() {
    let (mut clips, mut biases) = (0, 0);
    for (name, step) in samples() {
        for node in step.nodes("bias_grad") {
            let got = step.dyadics(&format!("{}.bias_grad", node.path));
            biases += 1;
            let Some(dy) = step.gradient(node.operands[0]) else {
                assert_eq!(step.producer(node.operands[0]).op, "batch_norm_grad", "the operand is stored");
                assert!(got.iter().all(|&v| v == 0.0), "{name}, {}: {got:?}", node.path);
                continue;
            };
            let dy = times(&dy, &[step.gradient_unit(node.operands[0])]);
            let meant = &step.oracle(node, &[&dy])[0];
            check_channels(&format!("{name}, {} bias", node.path), &got, meant, 1e-6);
        }
        for node in step.nodes("quantize_grad").filter(|node| node.operands.len() > 2) {
            let dy = step.gradient(node.operands[0]).expect("the operand is stored");
            let dy = times(&dy, &[step.gradient_unit(node.operands[0])]);
            let (x, clip) = (step.forward(node.operands[1]), step.forward(node.operands[2]));
            let meant = step.oracle(node, &[&dy, &x, &clip])[1].data[0];
            let got = step.dyadics(&format!("{}.clip.gradient", node.path))[0];
            let edges = step.at_edge(node.results[0]);
            let unsure: f64 =
                dy.data.iter().zip(&edges).filter(|(_, edge)| **edge).map(|(dy, _)| dy.abs()).sum();
            let all: f64 = dy.data.iter().map(|dy| dy.abs()).sum();
            close(&format!("{name}, {} clip", node.path), got, meant, unsure + 1e-6 * all);
            clips += usize::from(meant.abs() > unsure + 1e-3 * all);
        }
    }
    assert!(biases >= 12 && clips >= 4, "{biases} biases, {clips} clips that cut something off");
}

/// Per channel, |got − expected| by the largest of the expected: (got, expected) over channels.
fn check_channels(what: &str, got: &[f64], expected: &Tensor, relative: f64) {
    let largest = expected.largest();
    assert!(largest > 0.0, "{what}: all zero");
    for (c, &meant) in expected.data.iter().enumerate() {
        close(&format!("{what}, channel {c}"), got[c], meant, largest * relative);
    }
}

#[test]
fn gradients_of_norms_are_sums() {
    for (name, step) in samples() {
        for node in step.nodes("batch_norm_grad") {
            let what = format!("{name}, {}", node.path);
            let conv = step.producer(node.operands[1]);
            let dy = step.gradient(node.operands[0]).expect("the operand is stored");
            let dy = times(&dy, &[step.gradient_unit(node.operands[0])]);
            let x = step.forward(node.operands[1]);
            let gamma = step.vector_before(node.operands[2]);
            let meant = step.oracle(node, &[&dy, &x, &gamma]);
            let path = &node.path;
            let dead = (conv.path == "conv2" && name.contains("step")).then_some(DEAD);
            let mut dgamma = meant[1].clone();
            if let Some(dead) = dead {
                // A constant channel has no x̂.
                dgamma.data[dead] = step.dyadics(&format!("{path}.gamma_grad"))[dead];
            }
            check_channels(
                &format!("{what} dgamma"),
                &step.dyadics(&format!("{path}.gamma_grad")),
                &dgamma,
                1e-6,
            );
            check_channels(
                &format!("{what} dbeta"),
                &step.dyadics(&format!("{path}.beta_grad")),
                &meant[2],
                1e-6,
            );
        }
    }
}

#[test]
fn weight_gradients_are_exact_sums_and_updates_within_a_step() {
    for (name, step) in samples() {
        assert_eq!(check_weights(name, step), 0, "{name}: layers without a gradient");
    }
}

/// Sums of products of codes, and what the optimizer makes of them; how many layers have only zeros.
pub(crate) fn check_weights(name: &str, step: &Step) -> usize {
    let mut zeros = 0;
    for op in ["conv2d_grad_weight", "depthwise_conv2d_grad_weight", "linear_grad_weight"] {
        for node in step.nodes(op) {
            let (what, path) = (format!("{name}, {}", node.path), &node.path);
            let q = step.gradient_codes(node.operands[1]);
            let sums = step.oracle(node, &[&step.codes(node.operands[0]), &q])[0].clone();
            let shape = step.weight_shape(path);
            let got = step.weight(&format!("{path}.weight_grad"), &shape);
            assert!(got.data == sums.data, "{what}: sums of products of codes");
            zeros += usize::from(sums.largest() == 0.0);
            let unit = step.dyadics(&format!("{path}.weight_grad_unit"));
            let per = sums.data.len() / shape[0] as usize;
            let gradient: Vec<f64> = sums.data.iter().enumerate().map(|(i, v)| v * unit[i / per]).collect();
            let weight = format!("{path}.weight");
            let read = |name: &str| (step.weight_before(name, &shape).data, step.weight(name, &shape).data);
            let momentum = read(&format!("{weight}.momentum"));
            check_update(step, &what, &gradient, 1e-4, read(&weight), momentum);
        }
    }
    zeros
}

#[test]
fn updates_of_vectors_are_within_a_step() {
    let mut seen = 0;
    for (name, step) in samples() {
        for node in step.nodes("sgd_update") {
            let param = step.module.params.iter().find(|p| p.value == node.operands[0]).unwrap();
            let Some(gradient) = step.vector_gradient(node.operands[1]) else { continue };
            let n = param.ty.shape.first().map_or(1, |&n| n as usize);
            let read = |name: &str| {
                let real = |ints: Vec<i64>| ints[..n].iter().map(|&v| v as f64).collect::<Vec<f64>>();
                (real(step.ints_before(name)), real(step.ints(name)))
            };
            let momentum = read(&format!("{}.momentum", param.name));
            let what = format!("{name}, {}", param.name);
            check_update(step, &what, &gradient[..n], 0.0, read(&param.name), momentum);
            seen += 1;
        }
    }
    assert!(seen >= 40, "{seen} vectors");
}

impl Step {
    /// The gradient of a parameter per channel, if it is one.
    fn vector_gradient(&self, value: Value) -> Option<Vec<f64>> {
        let node = self.producer(value);
        let name = match (node.op.as_str(), node.results.iter().position(|&result| result == value)?) {
            ("bias_grad", _) => "bias_grad",
            ("batch_norm_grad", 1) => "gamma_grad",
            ("batch_norm_grad", 2) => "beta_grad",
            ("quantize_grad", 1) => "clip.gradient",
            _ => return None,
        };
        Some(self.dyadics(&format!("{}.{name}", node.path)))
    }
}

/// Of a gradient that is nowhere, the unit is zero.
fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

const LARGEST: f64 = i32::MAX as f64;

/// Momentum and master (before, after) move by what the optimizer says, up to one step of stochastic rounding each.
fn check_update(
    step: &Step,
    what: &str,
    gradient: &[f64],
    decay: f64,
    (w0, w1): (Vec<f64>, Vec<f64>),
    (m0, m1): (Vec<f64>, Vec<f64>),
) {
    let rate = step.int("rate") as f64 * (-24f64).exp2();
    for i in 0..gradient.len() {
        let g = gradient[i] * (24f64).exp2();
        let meant = (0.9 * m0[i] + g + decay * w0[i] / 16.0).clamp(-LARGEST, LARGEST);
        // The coefficients have 16 bits, the unit of the gradient 24.
        let off = 1.01 + g.abs() * 1e-6 + m0[i].abs() * 1e-5 + w0[i].abs() * 1e-9;
        close(&format!("{what}, momentum {i}"), m1[i], meant, off);
        let moved = (w0[i] - rate * m1[i] * 16.0).clamp(-LARGEST, LARGEST);
        close(&format!("{what}, master {i}"), w1[i], moved, 1.01);
    }
}

/// All gradients of a step by the oracle, on the forward pass of the integers and without rounding of gradients.
fn exact_gradients(step: &Step) -> BTreeMap<Value, Tensor> {
    let mut known: BTreeMap<Value, Tensor> = BTreeMap::new();
    for node in &step.module.nodes {
        let backward = node.op.ends_with("_grad") || node.op.contains("_grad_");
        let reads = node.operands.iter().any(|v| known.contains_key(v));
        if !backward && !reads || node.op == "sgd_update" {
            continue;
        }
        if node.op == "quantize" {
            known.insert(node.results[0], known[&node.operands[0]].clone());
            continue;
        }
        let operand = |v: &Value| known.get(v).cloned().unwrap_or_else(|| step.forward(*v));
        let operands: Vec<Tensor> = node.operands.iter().map(operand).collect();
        let results = step.oracle(node, &operands.iter().collect::<Vec<_>>());
        known.extend(node.results.iter().copied().zip(results));
    }
    known
}

/// Mean over the seeds of the part of `got` that lies along `exact`, minus one; and its standard error.
fn bias(got: &[Vec<f64>], exact: &Tensor) -> (f64, f64) {
    let dot = |a: &[f64]| a.iter().zip(&exact.data).map(|(a, b)| a * b).sum::<f64>();
    let slopes: Vec<f64> = got.iter().map(|got| dot(got) / dot(&exact.data) - 1.0).collect();
    let n = slopes.len() as f64;
    let mean = slopes.iter().sum::<f64>() / n;
    let variance = slopes.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

#[test]
fn rounding_of_gradients_does_not_bias_the_gradients_of_norms() {
    for (bits, certain) in [(8, 0.01), (4, 0.1)] {
        let runs: Vec<Step> = (0..16).map(|seed| Step::run(network(bits), seed, 1, |_| ())).collect();
        let exact = exact_gradients(&runs[0]);
        for node in runs[0].nodes("batch_norm_grad") {
            for (result, name) in [(1, "gamma_grad"), (2, "beta_grad")] {
                let name = format!("{}.{name}", node.path);
                let got: Vec<Vec<f64>> = runs.iter().map(|run| run.dyadics(&name)).collect();
                let (mean, error) = bias(&got, &exact[&node.results[result]]);
                assert!(error < certain, "{bits} bits, {name}: too noisy to tell ({error})");
                assert!(mean.abs() < 0.01 + 3.0 * error, "{bits} bits, {name}: bias {mean} (±{error})");
            }
        }
    }
}

#[test]
fn gradients_of_logits_are_those_of_the_softmax() {
    for (name, step) in samples() {
        let node = step.nodes("softmax_cross_entropy_grad").next().unwrap();
        let operands = [step.forward(node.operands[0]), step.forward(node.operands[1])];
        let meant = step.oracle(node, &operands.each_ref())[0].clone();
        let codes = step.gradient(node.results[0]).unwrap();
        let got = times(&codes, &step.dyadics("logits.gradient_unit"));
        for (one, expected) in got.data.iter().zip(&meant.data) {
            // Half a step of 16 bits, and the interpolated exponential.
            close(name, *one, *expected, meant.largest() * 1e-4);
        }
        for row in codes.data.chunks_exact(10) {
            assert!(row.iter().sum::<f64>().abs() <= 5.0, "{name}: a sample's gradients sum to zero");
        }
    }
}
